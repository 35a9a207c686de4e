"""Contrastive loss."""

from typing import Any

import keras
from keras import ops

from keras_dml.losses.functional import masked_mean, row_distances
from keras_dml.losses.registry import register_loss
from keras_dml.losses.sampled_triplet_loss import SampledTripletLoss
from keras_dml.typing import Tensor


@register_loss("contrastive")
@keras.saving.register_keras_serializable(package="keras_dml")
class ContrastiveLoss(SampledTripletLoss):
    """Pulls positives within one distance and pushes negatives beyond another.

    `mean relu(D_ap - positive_margin) + mean relu(negative_margin - D_an)` over the sampled triplets, with D the
    Euclidean distance.

    Args:
        positive_margin: positives nearer than this are left alone.
        negative_margin: negatives farther than this are left alone.
        miner: a name `keras_dml.mining.get` knows, or a `Miner`.

    Reference: Hadsell et al., CVPR 2006; margins and reduction of the DAS code.

    Example:
        >>> ContrastiveLoss(miner="distance_weighted")
    """

    def __init__(
        self,
        positive_margin: float = 0.0,
        negative_margin: float = 1.0,
        miner: Any = "distance_weighted",
        **kwargs: Any,
    ) -> None:
        super().__init__(miner=miner, **kwargs)
        if positive_margin < 0 or negative_margin <= positive_margin:
            raise ValueError(
                "`negative_margin` must be above `positive_margin`, and that not negative. "
                f"Received: positive_margin={positive_margin}, negative_margin={negative_margin}"
            )
        self.positive_margin = positive_margin
        self.negative_margin = negative_margin

    def triplet_loss(
        self, anchors: Tensor, positives: Tensor, negatives: Tensor, labels: Tensor, valid: Tensor
    ) -> Tensor:
        pull = ops.relu(row_distances(anchors, positives) - self.positive_margin)
        push = ops.relu(self.negative_margin - row_distances(anchors, negatives))
        return masked_mean(pull + push, valid)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "positive_margin": self.positive_margin,
            "negative_margin": self.negative_margin,
        }
