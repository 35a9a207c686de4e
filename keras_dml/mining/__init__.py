"""Samplers over a batch."""

from keras_dml.mining.distance_weighted_sampler import DistanceWeightedSampler
from keras_dml.mining.hard_quadruplets import hard_quadruplets
from keras_dml.mining.random_sampler import RandomSampler
from keras_dml.mining.registry import get, names
from keras_dml.mining.sampler import Sampler
from keras_dml.mining.semi_hard_sampler import SemiHardSampler
from keras_dml.mining.soft_hard_sampler import SoftHardSampler
from keras_dml.mining.triplets import Triplets

__all__ = [
    "DistanceWeightedSampler",
    "RandomSampler",
    "Sampler",
    "SemiHardSampler",
    "SoftHardSampler",
    "Triplets",
    "get",
    "hard_quadruplets",
    "names",
]
