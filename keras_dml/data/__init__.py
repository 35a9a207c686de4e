"""Benchmarks as class-disjoint splits, P x K batches and image preprocessing."""

from keras_dml.data import benchmarks
from keras_dml.data.benchmark import Archive, Benchmark, Protocol
from keras_dml.data.benchmarks.revisited import RevisitedBenchmark, load_revisited
from keras_dml.data.benchmarks.uned import UnEDBenchmark, load_uned
from keras_dml.data.errors import BadImage, DataError
from keras_dml.data.images.layer_augmentation import LayerAugmentation
from keras_dml.data.images.preprocessing import ImagePreprocessing
from keras_dml.data.images.random_affine import RandomAffine
from keras_dml.data.images.random_resized_crop import RandomResizedCrop
from keras_dml.data.loading import BENCHMARKS, LoadOptions, assemble, load, register_benchmark
from keras_dml.data.pk_batches import PKBatches
from keras_dml.data.sources import ImageSource
from keras_dml.data.split import Split
from keras_dml.utils.deprecation import renamed_attributes
from keras_dml.utils.registry import import_modules

__all__ = [
    "BENCHMARKS",
    "Archive",
    "BadImage",
    "Benchmark",
    "DataError",
    "ImagePreprocessing",
    "ImageSource",
    "LayerAugmentation",
    "LoadOptions",
    "PKBatches",
    "Protocol",
    "RandomAffine",
    "RandomResizedCrop",
    "RevisitedBenchmark",
    "Split",
    "UnEDBenchmark",
    "assemble",
    "load",
    "load_revisited",
    "load_uned",
    "register_benchmark",
]

# A new benchmark is listed nowhere: its file registers it.
import_modules(benchmarks.__name__)

__getattr__ = renamed_attributes(__name__, {"ClassBatches": "PKBatches"})
