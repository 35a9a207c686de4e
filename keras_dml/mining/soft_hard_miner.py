"""Soft-hard sampling."""

import keras
from keras import ops

from keras_dml.mining.miner import Miner, draw
from keras_dml.mining.registry import register_miner
from keras_dml.typing import Tensor


@register_miner("soft_hard")
@keras.saving.register_keras_serializable(package="keras_dml")
class SoftHardMiner(Miner):
    """Draws among hard pairs without insisting on the hardest.

    The negative is uniform among those nearer than the farthest positive, the positive uniform among those farther
    than the nearest negative; where there is none, uniform among all.

    Reference: Roth and Brattoli, "Revisiting training strategies and generalization performance in deep metric
    learning", ICML 2020; as in the DAS code.
    """

    def sample(
        self, distances: Tensor, positives: Tensor, negatives: Tensor, uniform: Tensor, embedding_dim: int | None
    ) -> tuple[Tensor, Tensor]:
        farthest = ops.max(ops.where(positives, distances, -1.0), axis=1, keepdims=True)
        nearest = ops.min(ops.where(negatives, distances, float("inf")), axis=1, keepdims=True)
        hard_positives = ops.logical_and(positives, distances > nearest)
        hard_negatives = ops.logical_and(negatives, distances < farthest)
        positives = ops.where(ops.any(hard_positives, axis=1, keepdims=True), hard_positives, positives)
        negatives = ops.where(ops.any(hard_negatives, axis=1, keepdims=True), hard_negatives, negatives)
        positive = draw(ops.cast(positives, "float32"), uniform[:, :2])
        return positive, draw(ops.cast(negatives, "float32"), uniform[:, 2:])
