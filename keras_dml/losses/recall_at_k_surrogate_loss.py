"""The surrogate of recall at k."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_dml.losses.embedding_batch import EmbeddingBatch
from keras_dml.losses.embedding_loss import EmbeddingLoss
from keras_dml.losses.functional import l2_normalize, masked_mean, similarities, smooth_precedence, smooth_ranks
from keras_dml.losses.loss_output import LossOutput
from keras_dml.losses.registry import register_loss


@register_loss("recall_at_k_surrogate")
@keras.saving.register_keras_serializable(package="keras_dml")
class RecallAtKSurrogateLoss(EmbeddingLoss):
    """One less the recall at k of each query, with sigmoids in the place of steps, averaged over several k.

    With S the cosine of query and key, the rank of key i is `1 + sum_j sigmoid((S_j - S_i) / temperature)`, j over the
    other keys. Recall at k is the sum over the positives of `sigmoid((k - rank) / recall_temperature)`, at most k, over
    the lesser of k and the number of positives. The loss is averaged over k and over the queries with a positive and a
    negative. It can fall below 0, since more than the first k places count a little.

    `key_counts` are, for each key, such queries that it is ranked for.

    Memory as `SmoothAPLoss`. The paper trains on batches of 4,000 and mixes similarities up, which is not done here.

    Args:
        ks: values of k.
        temperature: of the sigmoids that make ranks.
        recall_temperatures: of the sigmoids that count the first k, one for each of `ks`; None for k itself.
        count_query: whether the query takes the place that its cosine with itself gives it, nearly always the first,
            as in the authors' code. Without, keys alone are ranked.

    Reference: Patel et al., CVPR 2022, section 3; the bounds at k, constants and `recall_temperatures` of the authors'
    code (https://github.com/yash0307/RecallatK_surrogate, src/losses.py and src/main.py).
    """

    normalized_inputs = None

    def __init__(
        self,
        ks: Sequence[int] = (1, 2, 4, 8, 16),
        temperature: float = 0.01,
        recall_temperatures: Sequence[float] | None = None,
        count_query: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not ks or min(ks) < 1:
            raise ValueError(f"`ks` must be positive numbers, at least one. Received: ks={ks}")
        if temperature <= 0:
            raise ValueError(f"`temperature` must be positive. Received: temperature={temperature}")
        if recall_temperatures is not None and (len(recall_temperatures) != len(ks) or min(recall_temperatures) <= 0):
            raise ValueError(
                f"`recall_temperatures` must be positive, one for each of ks={ks}. "
                f"Received: recall_temperatures={recall_temperatures}"
            )
        self.ks = tuple(ks)
        self.temperature = temperature
        self.recall_temperatures = None if recall_temperatures is None else tuple(recall_temperatures)
        self.count_query = count_query

    def compute_loss(self, batch: EmbeddingBatch) -> LossOutput:
        queries = l2_normalize(batch.embeddings)
        scores = similarities(queries, queries if batch.keys_are_queries else l2_normalize(batch.keys))
        others = ops.logical_or(batch.positives, batch.negatives)
        ranks = smooth_ranks(smooth_precedence(scores, scores, self.temperature), others)
        if self.count_query:
            own = ops.sum(ops.square(queries), axis=1, keepdims=True)
            ranks = ranks + ops.squeeze(smooth_precedence(scores, own, self.temperature), axis=2)
        count = ops.maximum(ops.sum(ops.cast(batch.positives, scores.dtype), axis=1), 1.0)
        recall = 0.0
        for k, temperature in zip(self.ks, self.recall_temperatures or self.ks, strict=True):
            found = ops.sum(ops.where(batch.positives, ops.sigmoid((k - ranks) / temperature), 0.0), axis=1)
            recall = recall + ops.minimum(found, k) / ops.minimum(count, k)
        counted = ops.cast(ops.logical_and(others, batch.valid[:, None]), "float32")
        return LossOutput(masked_mean(1.0 - recall / len(self.ks), batch.valid), ops.sum(counted, axis=0))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "ks": list(self.ks),
            "temperature": self.temperature,
            "recall_temperatures": None if self.recall_temperatures is None else list(self.recall_temperatures),
            "count_query": self.count_query,
        }
