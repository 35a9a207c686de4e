"""Benchmarks as class-disjoint splits, P x K batches and image preprocessing."""

from keras_dml.data.bad_image import BadImage
from keras_dml.data.benchmark import Benchmark
from keras_dml.data.data_error import DataError
from keras_dml.data.image_preprocessing import ImagePreprocessing
from keras_dml.data.image_source import ImageSource
from keras_dml.data.layer_augmentation import LayerAugmentation
from keras_dml.data.pk_batches import PKBatches
from keras_dml.data.random_affine import RandomAffine
from keras_dml.data.random_resized_crop import RandomResizedCrop
from keras_dml.data.registry import BENCHMARKS, load
from keras_dml.data.split import Split
from keras_dml.utils.deprecation import renamed_attributes

__all__ = [
    "BENCHMARKS",
    "BadImage",
    "Benchmark",
    "DataError",
    "ImagePreprocessing",
    "ImageSource",
    "LayerAugmentation",
    "PKBatches",
    "RandomAffine",
    "RandomResizedCrop",
    "Split",
    "load",
]

__getattr__ = renamed_attributes(__name__, {"ClassBatches": "PKBatches"})
