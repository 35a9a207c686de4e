"""Uniform sampling."""

from typing import Any

import keras
from keras import ops

from keras_dml.mining.sampler import Sampler, draw


@keras.saving.register_keras_serializable(package="keras_dml")
class RandomSampler(Sampler):
    """Draws the positive and the negative uniformly."""

    def sample(
        self, distances: Any, positives: Any, negatives: Any, uniform: Any, embedding_dim: int | None
    ) -> tuple[Any, Any]:
        positive = draw(ops.cast(positives, "float32"), uniform[:, :2])
        return positive, draw(ops.cast(negatives, "float32"), uniform[:, 2:])
