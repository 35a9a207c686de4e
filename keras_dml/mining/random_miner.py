"""Uniform sampling."""

import keras
from keras import ops

from keras_dml.mining.miner import Miner, draw
from keras_dml.mining.registry import register_miner
from keras_dml.typing import Tensor


@register_miner("random")
@keras.saving.register_keras_serializable(package="keras_dml")
class RandomMiner(Miner):
    """Draws the positive and the negative uniformly."""

    def sample(
        self, distances: Tensor, positives: Tensor, negatives: Tensor, uniform: Tensor, embedding_dim: int | None
    ) -> tuple[Tensor, Tensor]:
        positive = draw(ops.cast(positives, "float32"), uniform[:, :2])
        return positive, draw(ops.cast(negatives, "float32"), uniform[:, 2:])
