"""Trainable models."""

from keras_dml.models.epoch_hook import EpochHook
from keras_dml.models.metric_learner import MetricLearner

__all__ = ["EpochHook", "MetricLearner"]
