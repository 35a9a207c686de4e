"""Miners by name."""

from collections.abc import Callable
from typing import Any, Final

import keras

from keras_dml.mining.miner import Miner
from keras_dml.utils.registry import C, ClassRegistry

MINERS: Final[ClassRegistry[Miner]] = ClassRegistry("miner")


def register_miner(name: str) -> Callable[[C], C]:
    """A class decorator: `get(name)`, and with it every loss that takes a miner, then knows the class by that name.

    It stands above `keras.saving.register_keras_serializable`, which saving needs. Works outside of this package too.

    Raises:
        ValueError: When it is applied, if the name belongs to another class.

    Example:
        >>> @register_miner("nearest")
        ... @keras.saving.register_keras_serializable(package="mine")
        ... class NearestMiner(Miner): ...
    """
    return MINERS.register(name)


def names() -> tuple[str, ...]:
    """The names `get` knows."""
    return tuple(MINERS)


def get(identifier: Any) -> Miner:
    """A miner from its name, its configuration or itself.

    Args:
        identifier: a `Miner` (returned as it is), a name such as "distance_weighted" (built with its defaults), or a
            serialized miner.

    Raises:
        ValueError: for an unknown name (the known ones are listed) and for anything else.
    """
    if isinstance(identifier, Miner):
        return identifier
    if isinstance(identifier, str):
        return MINERS[identifier]()
    if isinstance(identifier, dict):
        return get(keras.saving.deserialize_keras_object(identifier))
    raise ValueError(
        f"A miner must be a name ({', '.join(MINERS)}), a configuration or a Miner object. Received: {identifier!r}"
    )
