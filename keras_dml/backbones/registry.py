"""Backbones by name, each registered beside its builder."""

import os
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

import keras

from keras_dml.utils.registry import FunctionRegistry

Weights: TypeAlias = str | os.PathLike[str] | None
"""None for fresh weights, "imagenet", or a file."""

Builder: TypeAlias = Callable[..., keras.Model]
B = TypeVar("B", bound=Builder)

BACKBONES: Final[FunctionRegistry[Builder]] = FunctionRegistry("backbone")
"""Each builder takes the input shape and its own options and returns a model from images in [0, 255] to a feature map;
one with the argument `keras_weights` has ImageNet weights of Keras."""


class Traits(NamedTuple):
    """What `build` and `load_backbone_weights` need to know of a backbone besides its builder."""

    torch_origin: str | None = None
    options_for: Callable[[Weights], Mapping[str, Any]] | None = None


_TRAITS: dict[str, Traits] = {}


def register_backbone(
    name: str, torch_origin: str | None = None, options_for: Callable[[Weights], Mapping[str, Any]] | None = None
) -> Callable[[B], B]:
    """A function decorator: `build(name)` and recipes then know the builder by that name.

    Works outside of this package too.

    Args:
        name: What users call the backbone, and the builder its model.
        torch_origin: Address of a public PyTorch checkpoint, where the layers bear the names of its modules.
        options_for: Default options of the builder that depend on the weights which are to be loaded.

    Raises:
        ValueError: When it is applied, if the name belongs to another builder.

    Example:
        >>> @register_backbone("linear_conv")
        ... def linear_conv(input_shape: tuple[int, int, int], width: int = 64) -> keras.Model: ...
    """

    def decorate(builder: B) -> B:
        BACKBONES.register(name)(builder)
        _TRAITS[name] = Traits(torch_origin, options_for)
        return builder

    return decorate


def traits(name: str) -> Traits:
    """What is registered with the backbone `name`; nothing for one that is not registered."""
    return _TRAITS.get(name, Traits())


def torch_backbones() -> tuple[str, ...]:
    """The backbones that PyTorch checkpoints fit, in order."""
    return tuple(name for name in BACKBONES if traits(name).torch_origin is not None)
