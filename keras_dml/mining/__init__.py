"""Miners: what picks tuples from a batch."""

from typing import Any

import keras

from keras_dml.mining.distance_weighted_miner import DistanceWeightedMiner
from keras_dml.mining.hard_quadruplets import Quadruplets, hard_quadruplets
from keras_dml.mining.miner import Miner
from keras_dml.mining.random_miner import RandomMiner
from keras_dml.mining.registry import MINERS, get, names, register_miner
from keras_dml.mining.semi_hard_miner import SemiHardMiner
from keras_dml.mining.soft_hard_miner import SoftHardMiner
from keras_dml.mining.triplets import Triplets
from keras_dml.utils.deprecation import renamed_attributes
from keras_dml.utils.registry import import_modules

__all__ = [
    "DistanceWeightedMiner",
    "Miner",
    "Quadruplets",
    "RandomMiner",
    "SemiHardMiner",
    "SoftHardMiner",
    "Triplets",
    "get",
    "hard_quadruplets",
    "names",
    "register_miner",
]

# The imports above are for type checkers and readers. A new miner needs none: its file registers it.
import_modules(__name__)

_RENAMED = {
    "DistanceWeightedSampler": "DistanceWeightedMiner",
    "RandomSampler": "RandomMiner",
    "Sampler": "Miner",
    "SemiHardSampler": "SemiHardMiner",
    "SoftHardSampler": "SoftHardMiner",
}
_renamed = renamed_attributes(__name__, _RENAMED)
# Saved models name their miners by the old names.
keras.saving.get_custom_objects().update(
    {f"keras_dml>{old}": globals()[new] for old, new in _RENAMED.items() if new != "Miner"}
)


def __getattr__(name: str) -> Any:
    found = MINERS.defined_in(__name__)
    return found[name] if name in found else _renamed(name)
