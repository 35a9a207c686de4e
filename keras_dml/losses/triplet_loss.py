"""Triplet loss."""

from typing import Any

import keras
from keras import ops

from keras_dml.losses.functional import masked_mean
from keras_dml.losses.registry import register_loss
from keras_dml.losses.sampled_triplet_loss import SampledTripletLoss
from keras_dml.typing import Tensor


@register_loss("triplet")
@keras.saving.register_keras_serializable(package="keras_dml")
class TripletLoss(SampledTripletLoss):
    """Keeps each positive nearer than the negative by a margin.

    `mean relu(D_ap^2 - D_an^2 + margin)` over the sampled triplets, with D the Euclidean distance.

    Args:
        margin: by how much the squared distances have to differ.
        miner: a name `keras_dml.mining.get` knows, or a `Miner`.

    Reference: FaceNet, Schroff et al., CVPR 2015, equation 3; margin of the DAS code.

    Example:
        >>> TripletLoss(miner="semi_hard")
    """

    def __init__(self, margin: float = 0.2, miner: Any = "distance_weighted", **kwargs: Any) -> None:
        super().__init__(miner=miner, **kwargs)
        if margin < 0:
            raise ValueError(f"`margin` must not be negative. Received: margin={margin}")
        self.margin = margin

    def triplet_loss(
        self, anchors: Tensor, positives: Tensor, negatives: Tensor, labels: Tensor, valid: Tensor
    ) -> Tensor:
        positive = ops.sum(ops.square(anchors - positives), axis=1)
        negative = ops.sum(ops.square(anchors - negatives), axis=1)
        return masked_mean(ops.relu(positive - negative + self.margin), valid)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "margin": self.margin}
