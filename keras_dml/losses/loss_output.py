"""What a loss computes from a batch."""

import types
from collections.abc import Mapping
from typing import NamedTuple

from keras_dml.typing import Tensor


class PairStatus(NamedTuple):
    """Whether a batch had what a loss of pairs learns from; float32 scalars, 1 for yes and 0 for no.

    `MetricLearner` sums them over an epoch; `keras_dml.losses.unusable_batches` judges the sums.
    """

    positives: Tensor
    """Some query has a positive key."""
    negatives: Tensor
    """Some query has a negative key."""
    usable: Tensor
    """All that the loss needs is there: a positive, and a negative unless the loss can do without."""
    active: Tensor
    """Some pair contributed to the loss: it was not within its margin, or mined away."""


class LossOutput(NamedTuple):
    """The result of `EmbeddingLoss.compute`.

    Wrappers hand it on with `_replace`, so that what they do not change reaches the logs.
    """

    loss: Tensor
    """A scalar."""
    key_counts: Tensor | None = None
    """`(m,)` float32: of how many active or sampled tuples each key was part. None where that has no meaning."""
    statistics: Mapping[str, Tensor] = types.MappingProxyType({})
    """Scalars that the loss reports about itself, by name; `fit` logs them."""
    pairs: PairStatus | None = None
    """Filled in by `EmbeddingLoss.compute` for losses that compare embeddings with one another."""
