"""Margin loss."""

from typing import Any

import keras
from keras import ops

from keras_dml.losses.registry import register_loss
from keras_dml.losses.sampled_triplet_loss import SampledTripletLoss
from keras_dml.typing import Tensor


@register_loss("margin")
@keras.saving.register_keras_serializable(package="keras_dml")
class MarginLoss(SampledTripletLoss):
    """Separates positives from negatives at a learned distance of each class.

    For a sampled triplet `relu(D_ap - beta_y + margin) + relu(beta_y - D_an + margin)`, with
    `D = sqrt(sum of squares + 1e-8)` and beta_y the boundary of the anchor's class; the sum over all triplets is
    divided by the number of those where either term is positive.

    Labels outside `[0, num_classes)` raise in eager mode; in a graph the loss becomes NaN and every gradient 0.

    Args:
        num_classes: number of training classes, for one boundary each; None for one boundary that all share.
        beta: where the boundaries start.
        margin: half the width of the band around a boundary.
        miner: a name `keras_dml.mining.get` knows, or a `Miner`.
        loss_learning_rate: learning rate of the boundaries.

    Reference: Wu et al., ICCV 2017, section 4.3; constants of the DAS code.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        beta: float = 1.2,
        margin: float = 0.2,
        miner: Any = "distance_weighted",
        loss_learning_rate: float | None = 5e-4,
        **kwargs: Any,
    ) -> None:
        super().__init__(miner=miner, loss_learning_rate=loss_learning_rate, **kwargs)
        if num_classes is not None and num_classes < 1:
            raise ValueError(f"`num_classes` must be positive, or None. Received: num_classes={num_classes}")
        if margin < 0:
            raise ValueError(f"`margin` must not be negative. Received: margin={margin}")
        self.num_classes = num_classes
        self.beta = beta
        self.margin = margin

    def add_weights(self, embedding_dim: int) -> None:
        self.boundaries = self.add_weight(
            name="boundaries",
            shape=(self.num_classes or 1,),
            initializer=keras.initializers.Constant(self.beta),
            dtype="float32",
        )

    def triplet_loss(
        self, anchors: Tensor, positives: Tensor, negatives: Tensor, labels: Tensor, valid: Tensor
    ) -> Tensor:
        boundaries = ops.cast(self.boundaries, anchors.dtype)
        if self.num_classes is None:
            boundary = boundaries[0]
        else:
            boundary = ops.take(boundaries, ops.clip(labels, 0, self.num_classes - 1), axis=0)
        positive = ops.sqrt(ops.sum(ops.square(anchors - positives), axis=1) + 1e-8)
        negative = ops.sqrt(ops.sum(ops.square(anchors - negatives), axis=1) + 1e-8)
        pull = ops.relu(positive - boundary + self.margin)
        push = ops.relu(boundary - negative + self.margin)
        total = ops.where(valid, pull + push, 0.0)
        active = ops.sum(ops.cast(total > 0, total.dtype))
        return ops.sum(total) / ops.maximum(active, 1.0)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "beta": self.beta,
            "margin": self.margin,
        }
