"""The base class of losses around a loss."""

from typing import Any

import keras

from keras_dml.losses.embedding_loss import EmbeddingLoss


class WrapperLoss(EmbeddingLoss):
    """Base of losses that hand other inputs to an inner loss, or add to its value.

    Args:
        loss: the inner loss: what `keras_dml.losses.get` takes.
    """

    def __init__(self, loss: Any, **kwargs: Any) -> None:
        from keras_dml.losses.registry import get  # the registry imports the subclasses of this class

        inner = get(loss)
        if kwargs.get("parameter_learning_rate") is None:
            kwargs["parameter_learning_rate"] = inner.parameter_learning_rate
        super().__init__(**kwargs)
        self.loss = inner
        self.needs_similarity = inner.needs_similarity

    def add_weights(self, embedding_dim: int) -> None:
        if not self.loss.built:
            self.loss.build((None,), (None, embedding_dim))

    def check_labels(self, labels: Any) -> None:
        self.loss.check_labels(labels)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "loss": keras.saving.serialize_keras_object(self.loss)}
