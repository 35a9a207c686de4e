"""Semi-hard sampling."""

from typing import Any

import keras
from keras import ops

from keras_dml.mining.miner import Miner, draw
from keras_dml.mining.registry import register_miner
from keras_dml.typing import Tensor


@register_miner("semi_hard")
@keras.saving.register_keras_serializable(package="keras_dml")
class SemiHardMiner(Miner):
    """Draws the negative among those a little farther than the positive.

    The positive p is uniform. The negative is uniform among those with `D_ap < D_an < D_ap + margin`; where there is
    none, uniform among all.

    Args:
        margin: width of the band, in Euclidean distance.
        seed: an integer for draws that repeat, or None.

    Reference: FaceNet, Schroff et al., CVPR 2015, section 3.2; the random choice is that of the DAS code.
    """

    def __init__(self, margin: float = 0.2, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(seed=seed, **kwargs)
        if margin <= 0:
            raise ValueError(f"`margin` must be positive. Received: margin={margin}")
        self.margin = margin

    def sample(
        self, distances: Tensor, positives: Tensor, negatives: Tensor, uniform: Tensor, embedding_dim: int | None
    ) -> tuple[Tensor, Tensor]:
        positive = draw(ops.cast(positives, "float32"), uniform[:, :2])
        limit = ops.take_along_axis(distances, positive[:, None], axis=1)
        band = ops.logical_and(distances > limit, distances < limit + self.margin)
        band = ops.logical_and(band, negatives)
        candidates = ops.where(ops.any(band, axis=1, keepdims=True), band, negatives)
        return positive, draw(ops.cast(candidates, "float32"), uniform[:, 2:])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "margin": self.margin}
