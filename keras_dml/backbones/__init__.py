"""Encoders: backbones with a deep metric learning head."""

from keras_dml.backbones.build import EMBEDDING_INITS, POOLINGS, build, build_backbone
from keras_dml.backbones.registry import BACKBONES, register_backbone
from keras_dml.backbones.weights import LoadReport, load_backbone_weights
from keras_dml.utils.registry import import_modules

__all__ = [
    "BACKBONES",
    "EMBEDDING_INITS",
    "POOLINGS",
    "LoadReport",
    "build",
    "build_backbone",
    "load_backbone_weights",
    "register_backbone",
]

# A new backbone is listed nowhere: its file registers it.
import_modules(__name__)
