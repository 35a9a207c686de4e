"""Layers of deep metric learning, written with `keras.ops`."""

from keras_dml.layers.das_augmentation import DASAugmentation
from keras_dml.layers.pddm_unit import PDDMUnit

__all__ = ["DASAugmentation", "PDDMUnit"]
