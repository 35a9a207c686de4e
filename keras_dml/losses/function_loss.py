"""Plain functions and Keras losses as embedding losses."""

from typing import Any

import keras
from keras import ops

from keras_dml.losses.embedding_batch import EmbeddingBatch
from keras_dml.losses.embedding_loss import EmbeddingLoss
from keras_dml.losses.loss_output import LossOutput


@keras.saving.register_keras_serializable(package="keras_dml")
class FunctionLoss(EmbeddingLoss):
    """A function of labels `(n,)` and embeddings `(n, d)`, or a Keras loss, as an embedding loss.

    What the function returns is averaged; a Keras loss reduces by its own `reduction`. To be saved with a model, a
    function has to be registered with `keras.saving.register_keras_serializable`.

    Args:
        function: `function(labels, embeddings)`, returning a scalar or one value per row.

    Raises:
        ValueError: when called with keys, which such a function does not know.
    """

    normalized_inputs = None
    uses_keys = False
    uses_ids = False

    def __init__(self, function: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not callable(function):
            raise ValueError(f"`function` must be callable. Received: {function!r}")
        self.function = function

    def compute_loss(self, batch: EmbeddingBatch) -> LossOutput:
        if not batch.keys_are_queries:
            raise ValueError(
                f"{self.function!r} takes labels and embeddings only. Received: `keys`. Use a keras_dml loss."
            )
        return LossOutput(ops.mean(self.function(batch.labels, batch.embeddings)))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "function": keras.saving.serialize_keras_object(self.function)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "FunctionLoss":
        config = dict(config)
        if isinstance(config["function"], dict | str):
            config["function"] = keras.saving.deserialize_keras_object(config["function"])
        return super().from_config(config)
