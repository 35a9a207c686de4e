"""Trainable models."""

from keras_dml.models.metric_learner import MetricLearner

__all__ = ["MetricLearner"]
