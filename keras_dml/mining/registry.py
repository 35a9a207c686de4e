"""Samplers by name."""

from typing import Any, Final

import keras

from keras_dml.mining.distance_weighted_sampler import DistanceWeightedSampler
from keras_dml.mining.random_sampler import RandomSampler
from keras_dml.mining.sampler import Sampler
from keras_dml.mining.semi_hard_sampler import SemiHardSampler
from keras_dml.mining.soft_hard_sampler import SoftHardSampler
from keras_dml.utils.suggestions import unknown_name

_CLASSES: Final[dict[str, type[Sampler]]] = {
    "distance_weighted": DistanceWeightedSampler,
    "random": RandomSampler,
    "semi_hard": SemiHardSampler,
    "soft_hard": SoftHardSampler,
}


def names() -> tuple[str, ...]:
    """The names `get` knows."""
    return tuple(_CLASSES)


def get(identifier: Any) -> Sampler:
    """A sampler from its name, its configuration or itself.

    Args:
        identifier: a `Sampler` (returned as it is), a name such as "distance_weighted" (built with its defaults), or
            a serialised sampler.

    Raises:
        ValueError: for an unknown name (the known ones are listed) and for anything else.
    """
    if isinstance(identifier, Sampler):
        return identifier
    if isinstance(identifier, str):
        if identifier not in _CLASSES:
            raise ValueError(unknown_name("sampler", identifier, _CLASSES))
        return _CLASSES[identifier]()
    if isinstance(identifier, dict):
        return get(keras.saving.deserialize_keras_object(identifier))
    raise ValueError(
        f"A sampler must be a name ({', '.join(_CLASSES)}), a configuration or a Sampler object. "
        f"Received: {identifier!r}"
    )
