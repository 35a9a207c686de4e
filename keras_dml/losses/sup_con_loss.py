"""Supervised contrastive loss."""

import math
from typing import Any

import keras
from keras import ops

from keras_dml.losses.embedding_batch import EmbeddingBatch
from keras_dml.losses.embedding_loss import EmbeddingLoss
from keras_dml.losses.functional import check_weights, masked_logsumexp, masked_mean, similarities
from keras_dml.losses.loss_output import LossOutput
from keras_dml.losses.registry import register_loss


@register_loss("sup_con")
@keras.saving.register_keras_serializable(package="keras_dml")
class SupConLoss(EmbeddingLoss):
    """Cross-entropy of each positive against everything else in the batch.

    With S the inner product over the temperature, `log(w_p sum_p exp(S_ap) + w_n sum_n exp(S_an)) - mean_p S_ap`,
    averaged over the anchors that have a positive. The weights w_p and w_n, 1 in the paper, are ours.

    `key_counts` are, for each key, the anchors with a positive that are compared with it.

    Args:
        temperature: what inner products are divided by.
        positive_weight: what the sum over positives is multiplied by; n copies of every embedding multiply it by n.
        negative_weight: the same for the sum over negatives.

    Reference: Khosla et al., NeurIPS 2020, equation 2.
    """

    # Unlike other losses of pairs, it learns from one class as well: it spreads what it cannot tell apart.
    needs_negatives = False

    def __init__(
        self, temperature: float = 0.1, positive_weight: float = 1.0, negative_weight: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_weights(positive_weight=positive_weight, negative_weight=negative_weight)
        if temperature <= 0:
            raise ValueError(f"`temperature` must be positive. Received: temperature={temperature}")
        self.temperature = temperature
        self.positive_weight = positive_weight
        self.negative_weight = negative_weight

    def compute_loss(self, batch: EmbeddingBatch) -> LossOutput:
        scores = similarities(batch.embeddings, batch.keys) / self.temperature
        others = ops.logical_or(batch.positives, batch.negatives)
        counts = ops.sum(ops.cast(batch.positives, scores.dtype), axis=1)
        valid = counts > 0
        positive = ops.sum(ops.where(batch.positives, scores, 0.0), axis=1) / ops.maximum(counts, 1.0)
        weighted = scores
        if (self.positive_weight, self.negative_weight) != (1.0, 1.0):
            own = scores + math.log(self.positive_weight)
            weighted = ops.where(batch.positives, own, scores + math.log(self.negative_weight))
        terms = ops.where(valid, masked_logsumexp(weighted, others) - positive, 0.0)
        key_counts = ops.sum(ops.cast(ops.logical_and(others, valid[:, None]), "float32"), axis=0)
        return LossOutput(masked_mean(terms, valid), key_counts)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "temperature": self.temperature,
            "positive_weight": self.positive_weight,
            "negative_weight": self.negative_weight,
        }
