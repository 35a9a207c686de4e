"""Losses by name."""

import inspect
from collections.abc import Callable
from typing import Any, Final

import keras

from keras_dml.losses.embedding_loss import EmbeddingLoss
from keras_dml.losses.function_loss import FunctionLoss
from keras_dml.losses.tf_similarity_loss import TFSimilarityLoss, is_similarity_loss
from keras_dml.utils.registry import C, ClassRegistry

LOSSES: Final[ClassRegistry[EmbeddingLoss]] = ClassRegistry("loss")


def register_loss(name: str) -> Callable[[C], C]:
    """A class decorator: `get(name)`, `MetricLearner.compile(loss=name)` and recipes then know the class by that name.

    It stands above `keras.saving.register_keras_serializable`, which saving needs. Works outside of this package too.

    Raises:
        ValueError: When it is applied, if the name belongs to another class.

    Example:
        >>> @register_loss("mean_length")
        ... @keras.saving.register_keras_serializable(package="mine")
        ... class MeanLength(EmbeddingLoss): ...
    """
    return LOSSES.register(name)


def names() -> tuple[str, ...]:
    """The names `get` knows."""
    return tuple(LOSSES)


def loss_class(name: str) -> type[EmbeddingLoss]:
    """The class of the loss called `name`.

    Raises:
        ValueError: If there is none; the text lists the known names, the nearest first.
    """
    return LOSSES[name]


def required_arguments(loss: type[EmbeddingLoss]) -> list[str]:
    """The constructor arguments without a default."""
    return [
        name
        for name, parameter in inspect.signature(loss).parameters.items()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]


def get(identifier: Any) -> EmbeddingLoss:
    """A loss from a name, a configuration or an object.

    Args:
        identifier: a loss of this package (returned as it is), a name such as "margin" (built with its defaults), a
            serialized loss, a tensorflow-similarity loss, a Keras loss, or a function of labels and embeddings.

    Raises:
        ValueError: for an unknown name (the known ones are listed, the nearest first), for a loss class in place of
            an instance, for anything else.
    """
    if isinstance(identifier, EmbeddingLoss):
        return identifier
    if isinstance(identifier, type):
        raise ValueError(f"A loss must be an instance. Received: the class {identifier.__name__}. Call it first.")
    if isinstance(identifier, str):
        loss = loss_class(identifier)
        required = required_arguments(loss)
        if required:
            arguments = ", ".join(f"{name}=..." for name in required)
            raise ValueError(
                f"The loss {identifier!r} has no default for {', '.join(required)}. "
                f"Pass an object: keras_dml.losses.{loss.__name__}({arguments})"
            )
        return loss()
    if isinstance(identifier, dict):
        return get(keras.saving.deserialize_keras_object(identifier))
    if is_similarity_loss(identifier):
        return TFSimilarityLoss.from_instance(identifier)
    if callable(identifier):
        return FunctionLoss(identifier)
    raise ValueError(
        "A loss must be a name, a configuration, a loss object or a function of labels and embeddings. "
        f"Received: {identifier!r}"
    )
