"""Retrieval by the first channels of embeddings alone, as Matryoshka embeddings are made for."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def prefix(embeddings: np.ndarray, width: int) -> np.ndarray:
    """The first `width` channels of `(n, d)` embeddings, `(n, width)`.

    Raises:
        ValueError: If the embeddings have fewer channels.
    """
    if not 1 <= width <= embeddings.shape[1]:
        raise ValueError(
            f"A width to evaluate at must lie between 1 and that of the embeddings, {embeddings.shape[1]}. "
            f"Received: width={width}"
        )
    return embeddings[:, :width]


def at_widths(
    query: np.ndarray,
    labels: np.ndarray,
    gallery: tuple[np.ndarray | None, np.ndarray | None],
    ks: Sequence[int],
    widths: Sequence[int],
    metric: str = "cosine",
) -> dict[str, float]:
    """Recall@k and MAP@R of prefixes, named `d8_recall@1`, `d8_map@r` and so on for width 8.

    Args:
        query: `(n, d)` embeddings.
        labels: `(n,)` their classes.
        gallery: Embeddings and classes of what is searched, or a pair of None where queries search among themselves.
        ks: Ranks of Recall@k.
        widths: Numbers of first channels.
        metric: "cosine" or "euclidean".
    """
    from keras_dml.evaluation.retrieval import RetrievalOptions, evaluate_retrieval

    options = RetrievalOptions(metric=metric)
    values: dict[str, float] = {}
    for width in widths:
        found: Any = None if gallery[0] is None else prefix(gallery[0], width)
        result = evaluate_retrieval(prefix(query, width), labels, found, gallery[1], ks=ks, options=options)
        values |= {f"d{width}_recall@{k}": float(result.recall[k]) for k in ks}
        values[f"d{width}_map@r"] = float(result.map_at_r)
    return values
