"""Benchmarks as class-disjoint splits, P x K batches and image preprocessing."""

from keras_dml.data.bad_image import BadImage
from keras_dml.data.benchmark import Benchmark
from keras_dml.data.class_batches import ClassBatches
from keras_dml.data.data_error import DataError
from keras_dml.data.image_preprocessing import ImagePreprocessing
from keras_dml.data.image_source import ImageSource
from keras_dml.data.random_affine import RandomAffine
from keras_dml.data.random_resized_crop import RandomResizedCrop
from keras_dml.data.registry import BENCHMARKS, load
from keras_dml.data.split import Split

__all__ = [
    "BENCHMARKS",
    "BadImage",
    "Benchmark",
    "ClassBatches",
    "DataError",
    "ImagePreprocessing",
    "ImageSource",
    "RandomAffine",
    "RandomResizedCrop",
    "Split",
    "load",
]
