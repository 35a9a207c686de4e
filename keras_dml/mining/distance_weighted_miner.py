"""Distance-weighted sampling."""

from typing import Any

import keras
from keras import ops

from keras_dml.mining.miner import Miner, draw
from keras_dml.mining.registry import register_miner
from keras_dml.typing import Tensor


@register_miner("distance_weighted")
@keras.saving.register_keras_serializable(package="keras_dml")
class DistanceWeightedMiner(Miner):
    """Draws negatives evenly over distances, undoing the concentration of distances on a sphere.

    The negative is drawn with probability proportional to `1 / q(D)`, where q is the density of distances between
    uniform points on the unit sphere in n dimensions and D is clamped below:
    `log q^-1(D) = (2 - n) log D - (n - 3) / 2 log(1 - D^2 / 4)`. The positive is uniform. Embeddings have to be
    L2-normalized.

    q^-1 has its least value at D = sqrt(2) and grows again beyond it, as in the paper's formula and the DAS code;
    `upper_cutoff` removes that branch.

    Args:
        lower_cutoff: distances below are treated as this.
        upper_cutoff: negatives farther than this are drawn only where there is no nearer one. None for no limit.
        seed: an integer for draws that repeat, or None.

    Reference: Wu et al., "Sampling matters in deep embedding learning", ICCV 2017, section 4.2.
    """

    def __init__(
        self,
        lower_cutoff: float = 0.5,
        upper_cutoff: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(seed=seed, **kwargs)
        if not 0 < lower_cutoff < 2:
            raise ValueError(f"`lower_cutoff` must lie between 0 and 2. Received: lower_cutoff={lower_cutoff}")
        if upper_cutoff is not None and upper_cutoff <= lower_cutoff:
            raise ValueError(
                "`upper_cutoff` must be above `lower_cutoff`, or None. "
                f"Received: upper_cutoff={upper_cutoff}, lower_cutoff={lower_cutoff}"
            )
        self.lower_cutoff = lower_cutoff
        self.upper_cutoff = upper_cutoff

    def log_weights(self, distances: Tensor, embedding_dim: int) -> Tensor:
        """`log q^-1` of distances, elementwise."""
        squared = ops.square(ops.maximum(distances, self.lower_cutoff))
        # Distances of normalized vectors stay below 2 but for rounding; the floor keeps antipodal points finite.
        remainder = ops.maximum(1.0 - squared / 4.0, 1e-6)
        return (2.0 - embedding_dim) / 2.0 * ops.log(squared) - (embedding_dim - 3.0) / 2.0 * ops.log(remainder)

    def sample(
        self, distances: Tensor, positives: Tensor, negatives: Tensor, uniform: Tensor, embedding_dim: int | None
    ) -> tuple[Tensor, Tensor]:
        if embedding_dim is None:
            raise ValueError(
                "Distance-weighted sampling depends on the width of the embeddings. "
                "Received: embedding_dim=None. Call the miner with embedding_dim=embeddings.shape[1]."
            )
        if self.upper_cutoff is not None:
            near = ops.logical_and(negatives, distances <= self.upper_cutoff)
            negatives = ops.where(ops.any(near, axis=1, keepdims=True), near, negatives)
        # In 512 dimensions the logarithms span thousands: the greatest allowed one is subtracted before exp.
        logs = ops.where(negatives, self.log_weights(distances, embedding_dim), -float("inf"))
        greatest = ops.max(logs, axis=1, keepdims=True)
        greatest = ops.where(ops.isfinite(greatest), greatest, 0.0)
        weights = ops.exp(logs - greatest)
        positive = draw(ops.cast(positives, "float32"), uniform[:, :2])
        return positive, draw(weights, uniform[:, 2:])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "lower_cutoff": self.lower_cutoff, "upper_cutoff": self.upper_cutoff}
