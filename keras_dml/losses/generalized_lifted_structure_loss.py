"""Generalized lifted structure loss."""

from typing import Any

import keras
from keras import ops

from keras_dml.losses.embedding_batch import EmbeddingBatch
from keras_dml.losses.embedding_loss import EmbeddingLoss
from keras_dml.losses.functional import (
    check_weights,
    masked_logsumexp,
    masked_mean,
    row_norms,
    safe_sqrt,
    squared_distances,
)
from keras_dml.losses.loss_output import LossOutput
from keras_dml.losses.registry import register_loss


@register_loss("generalized_lifted_structure")
@keras.saving.register_keras_serializable(package="keras_dml")
class GeneralizedLiftedStructureLoss(EmbeddingLoss):
    """Weighs all positives against all negatives of each anchor, on unnormalized embeddings.

    `mean relu(log(w_p sum_p exp(D_ap)) + log(w_n sum_n exp(margin - D_an))) + norm_weight * mean |x|`, over anchors
    with a positive and a negative; both means are 0 where there is none. The weights w_p and w_n, 1 in the paper, are
    ours: they act as a margin that is larger by their logarithms. Build the encoder with unnormalized output, and DAS
    with `normalize=False`.

    `key_counts` are, for each key, the anchors with a positive term that have it as positive or negative.

    Args:
        margin: distance beyond which negatives weigh little.
        norm_weight: weight of the mean length of the embeddings.
        positive_weight: what the sum over positives is multiplied by; n copies of every embedding multiply it by n.
        negative_weight: the same for the sum over negatives.

    Reference: Hermans et al., arXiv 1703.07737, equation 9; constants of the DAS code.
    """

    normalized_inputs = False

    def __init__(
        self,
        margin: float = 1.0,
        norm_weight: float = 0.005,
        positive_weight: float = 1.0,
        negative_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_weights(positive_weight=positive_weight, negative_weight=negative_weight)
        self.margin = margin
        self.norm_weight = norm_weight
        self.positive_weight = positive_weight
        self.negative_weight = negative_weight

    def compute_loss(self, batch: EmbeddingBatch) -> LossOutput:
        distances = safe_sqrt(squared_distances(batch.embeddings, batch.keys))
        pull = masked_logsumexp(distances, batch.positives, weight=self.positive_weight)
        push = masked_logsumexp(self.margin - distances, batch.negatives, weight=self.negative_weight)
        terms = ops.relu(ops.where(batch.valid, pull + push, 0.0))
        norm = ops.where(ops.any(batch.valid), ops.mean(row_norms(batch.embeddings)), 0.0)
        pairs = ops.logical_and(ops.logical_or(batch.positives, batch.negatives), (terms > 0)[:, None])
        key_counts = ops.sum(ops.cast(pairs, "float32"), axis=0)
        return LossOutput(masked_mean(terms, batch.valid) + self.norm_weight * norm, key_counts)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "margin": self.margin,
            "norm_weight": self.norm_weight,
            "positive_weight": self.positive_weight,
            "negative_weight": self.negative_weight,
        }
