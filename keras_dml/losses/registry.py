"""Losses by name."""

import importlib
from typing import Any, Final

import keras

from keras_dml.losses.embedding_loss import EmbeddingLoss
from keras_dml.losses.function_loss import FunctionLoss
from keras_dml.losses.similarity_loss import SimilarityLoss, is_similarity_loss
from keras_dml.utils.suggestions import unknown_name

# Each class stands in the module named like it.
_CLASSES: Final[dict[str, str]] = {}


def names() -> tuple[str, ...]:
    """The names `get` knows."""
    return tuple(_CLASSES)


def get(identifier: Any) -> EmbeddingLoss:
    """A loss from a name, a configuration or an object.

    Args:
        identifier: a loss of this package (returned as it is), a name such as "margin" (built with its defaults), a
            serialised loss, a tensorflow-similarity loss, a Keras loss, or a function of labels and embeddings.

    Raises:
        ValueError: for an unknown name (the known ones are listed, the nearest first), for a loss class in place of
            an instance, for anything else.
    """
    if isinstance(identifier, EmbeddingLoss):
        return identifier
    if isinstance(identifier, type):
        raise ValueError(f"A loss must be an instance. Received: the class {identifier.__name__}. Call it first.")
    if isinstance(identifier, str):
        if identifier not in _CLASSES:
            raise ValueError(unknown_name("loss", identifier, _CLASSES))
        class_name = _CLASSES[identifier]
        return getattr(importlib.import_module("keras_dml.losses"), class_name)()
    if isinstance(identifier, dict):
        return get(keras.saving.deserialize_keras_object(identifier))
    if is_similarity_loss(identifier):
        return SimilarityLoss.from_instance(identifier)
    if callable(identifier):
        return FunctionLoss(identifier)
    raise ValueError(
        "A loss must be a name, a configuration, a loss object or a function of labels and embeddings. "
        f"Received: {identifier!r}"
    )
