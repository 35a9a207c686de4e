"""The base class of losses around a loss."""

from typing import Any

import keras

from keras_dml.losses.embedding_loss import EmbeddingLoss
from keras_dml.losses.registry import get
from keras_dml.typing import Tensor


class WrapperLoss(EmbeddingLoss):
    """Base of losses that hand other inputs to an inner loss, or add to its value.

    A subclass overrides `compute_loss`: it derives a batch, calls `self.loss.compute(batch)` and returns what comes
    back with `_replace(loss=...)`, so that statistics and pair counts of the inner loss reach the logs.

    Args:
        loss: the inner loss: what `keras_dml.losses.get` takes.
    """

    def __init__(self, loss: Any, **kwargs: Any) -> None:
        inner = get(loss)
        if kwargs.get("loss_learning_rate") is None:
            kwargs["loss_learning_rate"] = inner.loss_learning_rate
        super().__init__(**kwargs)
        self.loss = inner
        self.needs_pair_scorer = inner.needs_pair_scorer
        self.uses_keys = inner.uses_keys
        self.uses_ids = inner.uses_ids
        self.needs_negatives = inner.needs_negatives
        self.statistics_names = inner.statistics_names

    def add_weights(self, embedding_dim: int) -> None:
        if not self.loss.built:
            self.loss.build((None,), (None, embedding_dim))

    def check_labels(self, labels: Tensor) -> None:
        self.loss.check_labels(labels)

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        self.loss.on_epoch_end(epoch, logs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "loss": keras.saving.serialize_keras_object(self.loss)}
