"""Encoders: backbones with a deep metric learning head."""

from keras_dml.backbones.build import BACKBONES, POOLINGS, build, build_backbone
from keras_dml.backbones.weights import LoadReport, load_backbone_weights

__all__ = ["BACKBONES", "POOLINGS", "LoadReport", "build", "build_backbone", "load_backbone_weights"]
