"""Spherical embedding constraint."""

import dataclasses
from typing import Any

import keras
from keras import ops

from keras_dml.losses.embedding_batch import EmbeddingBatch
from keras_dml.losses.functional import l2_normalize, row_norms
from keras_dml.losses.loss_output import LossOutput
from keras_dml.losses.registry import register_loss
from keras_dml.losses.wrapper_loss import WrapperLoss


@register_loss("spherical_embedding_constraint")
@keras.saving.register_keras_serializable(package="keras_dml")
class SphericalEmbeddingConstraint(WrapperLoss):
    """Adds to any loss a penalty on embeddings whose length differs from the average length (SEC).

    `loss(normalized embeddings) + weight * mean (|x| - m)^2`, where m is the running mean of the lengths: that of the
    first batch at first, then `momentum * m + (1 - momentum) * mean |x|`, updated in training before it is used; no
    gradient flows through m. Build the encoder with unnormalized output; the inner loss gets normalized embeddings
    and keys. With DAS, use `normalize=False`; the penalty then covers produced embeddings as well.

    Args:
        loss: any loss that works on normalized embeddings: what `keras_dml.losses.get` takes.
        weight: weight of the penalty.
        momentum: how much of the running mean stays at each step.

    Raises:
        ValueError: for a loss that needs unnormalized embeddings.

    Reference: Zhang et al., "Deep metric learning with spherical embedding", NeurIPS 2020, equation 10.
    """

    normalized_inputs = False

    def __init__(self, loss: Any, weight: float = 0.01, momentum: float = 0.999, **kwargs: Any) -> None:
        super().__init__(loss, **kwargs)
        if self.loss.normalized_inputs is False:
            raise ValueError(
                "The spherical constraint hands normalized embeddings to its loss, and "
                f"{type(self.loss).__name__} needs unnormalized ones. Use another loss."
            )
        if not 0 <= momentum < 1:
            raise ValueError(f"`momentum` must be at least 0 and below 1. Received: momentum={momentum}")
        self.weight = weight
        self.momentum = momentum

    def add_weights(self, embedding_dim: int) -> None:
        super().add_weights(embedding_dim)
        # Negative until the first batch has been seen.
        self.mean_norm = self.add_weight(
            name="mean_norm",
            shape=(),
            initializer=keras.initializers.Constant(-1.0),
            dtype="float32",
            trainable=False,
        )

    def compute_loss(self, batch: EmbeddingBatch) -> LossOutput:
        norms = row_norms(batch.embeddings)
        current = ops.stop_gradient(ops.mean(norms))
        mean = ops.cast(self.mean_norm, current.dtype)
        if batch.training:
            moved = self.momentum * mean + (1.0 - self.momentum) * current
            mean = ops.where(mean < 0, current, moved)
            self.mean_norm.assign(mean)
        else:
            mean = ops.where(mean < 0, current, mean)
        embeddings = l2_normalize(batch.embeddings)
        keys = embeddings if batch.keys_are_queries else l2_normalize(batch.keys)
        output = self.loss.compute(dataclasses.replace(batch, embeddings=embeddings, keys=keys))
        penalty = self.weight * ops.mean(ops.square(norms - mean))
        return output._replace(loss=ops.cast(output.loss, penalty.dtype) + penalty)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "weight": self.weight, "momentum": self.momentum}
