"""Circle loss."""

from typing import Any

import keras
from keras import ops

from keras_dml.losses.embedding_batch import EmbeddingBatch
from keras_dml.losses.embedding_loss import EmbeddingLoss
from keras_dml.losses.functional import l2_normalize, masked_logsumexp, masked_mean, similarities
from keras_dml.losses.loss_output import LossOutput
from keras_dml.losses.registry import register_loss


@register_loss("circle")
@keras.saving.register_keras_serializable(package="keras_dml")
class CircleLoss(EmbeddingLoss):
    """Weighs each pair by how far its cosine is from where it should be.

    With S the cosine of anchor and key: `log(1 + sum_n exp(gamma a_n (S_an - margin)) *
    sum_p exp(-gamma a_p (S_ap - 1 + margin)))`, where the weights `a_n = relu(S_an + margin)` and
    `a_p = relu(1 + margin - S_ap)` pass no gradient; averaged over the anchors with a positive and a negative.

    `key_counts` are, for each key, the anchors that give its pair a weight.

    `keras.losses.Circle`, which `compile` takes as well, has the same value for normalized embeddings (it averages over
    the anchors whose loss is above 0). It differs in that it lets gradients through the weights, knows no keys, ids or
    memory, and takes labels as float32: 2^24 and 2^24 + 1 are one class. tensorflow-similarity's is
    `losses.similarity("circle")`.

    Args:
        margin: relaxation m; cosines of positives are to pass `1 - margin`, those of negatives to fall below `margin`.
        gamma: scale of the cosines.

    Reference: Sun et al., CVPR 2020, sections 3.1 and 3.2; weights without gradient, as in the gradients of section
    3.3; constants of its experiments on fine-grained retrieval.
    """

    normalized_inputs = None

    def __init__(self, margin: float = 0.4, gamma: float = 80.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= margin < 1:
            raise ValueError(f"`margin` must lie in [0, 1), since it is one of cosines. Received: margin={margin}")
        if gamma <= 0:
            raise ValueError(f"`gamma` must be positive. Received: gamma={gamma}")
        self.margin = margin
        self.gamma = gamma

    def compute_loss(self, batch: EmbeddingBatch) -> LossOutput:
        queries = l2_normalize(batch.embeddings)
        scores = similarities(queries, queries if batch.keys_are_queries else l2_normalize(batch.keys))
        fixed = ops.stop_gradient(scores)
        push_weight = ops.relu(fixed + self.margin)
        pull_weight = ops.relu(1.0 + self.margin - fixed)
        push = masked_logsumexp(self.gamma * push_weight * (scores - self.margin), batch.negatives)
        pull = masked_logsumexp(-self.gamma * pull_weight * (scores - 1.0 + self.margin), batch.positives)
        weighed = ops.logical_or(
            ops.logical_and(batch.positives, pull_weight > 0), ops.logical_and(batch.negatives, push_weight > 0)
        )
        counted = ops.cast(ops.logical_and(weighed, batch.valid[:, None]), "float32")
        return LossOutput(masked_mean(ops.softplus(push + pull), batch.valid), ops.sum(counted, axis=0))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "margin": self.margin, "gamma": self.gamma}
