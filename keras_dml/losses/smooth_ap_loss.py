"""Smooth-AP."""

from typing import Any

import keras
from keras import ops

from keras_dml.losses.embedding_batch import EmbeddingBatch
from keras_dml.losses.embedding_loss import EmbeddingLoss
from keras_dml.losses.functional import l2_normalize, masked_mean, similarities, smooth_precedence, smooth_ranks
from keras_dml.losses.loss_output import LossOutput
from keras_dml.losses.registry import register_loss


@register_loss("smooth_ap")
@keras.saving.register_keras_serializable(package="keras_dml")
class SmoothAPLoss(EmbeddingLoss):
    """One less the average precision of each query, with sigmoids in the place of steps.

    With S the cosine of query and key, the rank of key i among a set is `1 + sum_j sigmoid((S_j - S_i) / temperature)`,
    j over the set without i. The average precision is the mean over the positives of their rank among the positives
    over their rank among all keys; the loss is averaged over the queries with a positive and a negative.

    `key_counts` are, for each key, such queries that it is ranked for.

    Every key is compared with every other for each query: memory for `n * m * m` floats, 5.6 MB for a batch of 112, 360
    MB for one of 448. Against a `CrossBatchMemory` of 4,096, a batch of 112 takes 7.5 GB.

    Args:
        temperature: of the sigmoids.
        count_query: whether the query counts as a positive of its own, with its cosine with itself, as in the authors'
            code: the first place is then taken, and a negative before the others costs less. Without, keys alone are
            ranked, as the paper has it.

    Reference: Brown et al., ECCV 2020, section 4 (the sigmoid for the indicator in the AP; temperature 0.01).
    """

    normalized_inputs = None

    def __init__(self, temperature: float = 0.01, count_query: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if temperature <= 0:
            raise ValueError(f"`temperature` must be positive. Received: temperature={temperature}")
        self.temperature = temperature
        self.count_query = count_query

    def compute_loss(self, batch: EmbeddingBatch) -> LossOutput:
        queries = l2_normalize(batch.embeddings)
        scores = similarities(queries, queries if batch.keys_are_queries else l2_normalize(batch.keys))
        others = ops.logical_or(batch.positives, batch.negatives)
        precedence = smooth_precedence(scores, scores, self.temperature)
        among_positives, among_all = smooth_ranks(precedence, batch.positives), smooth_ranks(precedence, others)
        count = ops.sum(ops.cast(batch.positives, scores.dtype), axis=1)
        first = 0.0
        if self.count_query:
            own = ops.sum(ops.square(queries), axis=1, keepdims=True)
            before = ops.squeeze(smooth_precedence(scores, own, self.temperature), axis=2)
            among_positives, among_all = among_positives + before, among_all + before
            behind = 1.0 - before
            first = (1.0 + ops.sum(ops.where(batch.positives, behind, 0.0), axis=1)) / (
                1.0 + ops.sum(ops.where(others, behind, 0.0), axis=1)
            )
            count = count + 1.0
        precisions = ops.sum(ops.where(batch.positives, among_positives / among_all, 0.0), axis=1) + first
        counted = ops.cast(ops.logical_and(others, batch.valid[:, None]), "float32")
        average = precisions / ops.maximum(count, 1.0)
        return LossOutput(masked_mean(1.0 - average, batch.valid), ops.sum(counted, axis=0))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "temperature": self.temperature, "count_query": self.count_query}
