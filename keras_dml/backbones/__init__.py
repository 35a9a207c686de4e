"""Encoders: backbones with a deep metric learning head."""

from keras_dml.backbones.build import BACKBONES, POOLINGS, build

__all__ = ["BACKBONES", "POOLINGS", "build"]
