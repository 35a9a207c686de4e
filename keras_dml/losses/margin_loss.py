"""Margin loss."""

from typing import Any

import keras
from keras import ops

from keras_dml.losses.class_range import check_class_range, nan_outside
from keras_dml.losses.embedding_batch import EmbeddingBatch
from keras_dml.losses.tuple_loss import TupleLoss


@keras.saving.register_keras_serializable(package="keras_dml")
class MarginLoss(TupleLoss):
    """Separates positives from negatives at a learned distance of each class.

    For a sampled triplet `relu(D_ap - beta_y + margin) + relu(beta_y - D_an + margin)`, with
    `D = sqrt(sum of squares + 1e-8)` and beta_y the boundary of the anchor's class; the sum over all triplets is
    divided by the number of those where either term is positive.

    Labels outside `[0, num_classes)` raise in eager mode; in a graph the loss becomes NaN and every gradient 0.

    Args:
        num_classes: number of training classes, for one boundary each; None for one boundary that all share.
        beta: where the boundaries start.
        margin: half the width of the band around a boundary.
        sampler: a name `keras_dml.mining.get` knows, or a `Sampler`.
        parameter_learning_rate: learning rate of the boundaries.

    Reference: Wu et al., ICCV 2017, section 4.3; constants of the DAS code.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        beta: float = 1.2,
        margin: float = 0.2,
        sampler: Any = "distance_weighted",
        parameter_learning_rate: float | None = 5e-4,
        **kwargs: Any,
    ) -> None:
        super().__init__(sampler=sampler, parameter_learning_rate=parameter_learning_rate, **kwargs)
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

    def check_labels(self, labels: Any) -> None:
        super().check_labels(labels)
        if self.num_classes is not None:
            check_class_range(labels, self.num_classes, type(self).__name__)

    def compute_loss(self, batch: EmbeddingBatch) -> tuple[Any, Any]:
        loss, usage = super().compute_loss(batch)
        if self.num_classes is not None:
            loss = nan_outside(loss, batch.labels, self.num_classes, type(self).__name__)
        return loss, usage

    def triplet_loss(self, anchors: Any, positives: Any, negatives: Any, labels: Any, valid: Any) -> Any:
        if self.num_classes is None:
            boundary = self.boundaries[0]
        else:
            boundary = ops.take(self.boundaries, ops.clip(labels, 0, self.num_classes - 1), axis=0)
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
