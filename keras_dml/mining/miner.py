"""The base class of miners, and the draw they share."""

from typing import Any

import keras
from keras import ops

from keras_dml.mining.triplets import Triplets
from keras_dml.typing import Tensor

# Entries are drawn in two steps, a block and then an entry of it: running sums over whole rows are most of the cost.
BLOCK = 32


def _first_above(weights: Tensor, uniform: Tensor) -> Tensor:
    """Inverse of the distribution function of each row of `weights` at `uniform` in [0, 1)."""
    allowed = weights > 0
    cumulative = ops.cumsum(weights, axis=1)
    # The total is taken over allowed entries, and an entry has to be allowed to be drawn, since a compiler may sum
    # in an order where a zero weight still moves the running sum by a rounding error.
    total = ops.max(ops.where(allowed, cumulative, 0.0), axis=1, keepdims=True)
    return ops.argmax(ops.logical_and(allowed, cumulative > uniform * total), axis=1)


def draw(weights: Tensor, uniform: Tensor) -> Tensor:
    """Draw one entry of each row with probability proportional to its weight.

    Args:
        weights: `(q, k)` floats, not negative, of finite sum.
        uniform: `(q, 2)` float32, random numbers in [0, 1).

    Returns:
        `(q,)` int32 column numbers; 0 for a row without any weight.
    """
    weights = ops.cast(weights, "float32")
    k = weights.shape[1]
    if k is not None and k <= BLOCK:
        return ops.cast(_first_above(weights, uniform[:, :1]), "int32")
    count = -(-ops.shape(weights)[1] // BLOCK)
    weights = ops.pad(weights, ((0, 0), (0, count * BLOCK - ops.shape(weights)[1])))
    blocks = ops.reshape(weights, (-1, count, BLOCK))
    block = _first_above(ops.sum(blocks, axis=2), uniform[:, :1])
    entries = ops.squeeze(ops.take_along_axis(blocks, block[:, None, None], axis=1), axis=1)
    entry = _first_above(entries, uniform[:, 1:])
    return ops.cast(block * BLOCK + entry, "int32")


class Miner(keras.layers.Layer):
    """Base of miners: chooses one positive and one negative key for every query.

    A subclass overrides `sample`. Shapes are static, there is one draw for each query, and no gradient flows through
    the choice. A miner with a seed repeats its draws; its state is saved and restored with the model.

    Call arguments:
        distances: `(q, k)` Euclidean distances of queries and keys.
        positives: `(q, k)` boolean, which keys may be drawn as positive.
        negatives: `(q, k)` boolean, which keys may be drawn as negative.
        embedding_dim: the width of the embeddings, for miners whose law depends on it.

    Returns:
        `Triplets`, one for each query; not valid where a query has no positive or no negative.

    Args:
        seed: an integer for draws that repeat, or None.
    """

    def __init__(self, seed: int | None = None, name: str | None = None, dtype: Any = "float32", **kwargs: Any) -> None:
        super().__init__(name=name, dtype=dtype, **kwargs)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def sample(
        self, distances: Tensor, positives: Tensor, negatives: Tensor, uniform: Tensor, embedding_dim: int | None
    ) -> tuple[Tensor, Tensor]:
        """Choose a positive and a negative key for every query.

        Args:
            distances: `(q, k)` float32 without gradient.
            positives: `(q, k)` boolean.
            negatives: `(q, k)` boolean.
            uniform: `(q, 4)` random numbers in [0, 1): two for each of two calls of `draw`.
            embedding_dim: the width of the embeddings, or None.

        Returns:
            `(positive, negative)`, each `(q,)` int32. Rows of queries without a positive or a negative are ignored.
        """
        raise NotImplementedError(f"{type(self).__name__} does not override `sample`.")

    def call(
        self, distances: Tensor, positives: Tensor, negatives: Tensor, embedding_dim: int | None = None
    ) -> Triplets:
        for name, mask in (("positives", positives), ("negatives", negatives)):
            if len(mask.shape) != 2 or tuple(mask.shape) != tuple(distances.shape):
                raise ValueError(
                    f"`{name}` must have the shape of `distances`, (queries, keys). "
                    f"Received: {tuple(mask.shape)} and {tuple(distances.shape)}."
                )
        positives, negatives = ops.cast(positives, "bool"), ops.cast(negatives, "bool")
        distances = ops.stop_gradient(distances)
        queries = ops.shape(distances)[0]
        uniform = keras.random.uniform((queries, 4), dtype="float32", seed=self.seed_generator)
        positive, negative = self.sample(distances, positives, negatives, uniform, embedding_dim)
        valid = ops.logical_and(ops.any(positives, axis=1), ops.any(negatives, axis=1))
        return Triplets(ops.arange(queries, dtype="int32"), positive, negative, valid)

    # Keras does not store the state of seed generators.
    def save_own_variables(self, store: Any) -> None:
        store["seed_state"] = ops.convert_to_numpy(self.seed_generator.state)

    def load_own_variables(self, store: Any) -> None:
        self.seed_generator.state.assign(store["seed_state"])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "seed": self.seed}
