"""How embeddings are compared where nobody has said."""

import numpy as np

from keras_dml.typing import METRICS, Tensor
from keras_dml.utils.suggestions import unknown_name

# Room for a unit length that was computed in half precision.
TOLERANCE = 1e-2


def check_metric(metric: str | None) -> None:
    """Raises ValueError for a name that is no metric; None, for one that is chosen, passes."""
    if metric is not None and metric not in METRICS:
        raise ValueError(unknown_name("metric", metric, METRICS))


def chosen_metric(metric: str | None, *embeddings: Tensor) -> str:
    """The metric that was given; by default cosine for embeddings of unit length and Euclidean distance for others.

    Args:
        metric: "cosine", "euclidean" or None.
        embeddings: `(n, d)` each; rows of zeros, which have no direction, do not count.

    Raises:
        ValueError: For an unknown metric.
    """
    check_metric(metric)
    if metric is not None:
        return metric
    for vectors in embeddings:
        lengths = np.linalg.norm(np.asarray(vectors, np.float32), axis=1)
        if np.any(np.abs(lengths[lengths > 0] - 1.0) > TOLERANCE):
            return "euclidean"
    return "cosine"
