"""The position-dependent deep metric unit."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dml.typing import Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_dml")
class PDDMUnit(keras.layers.Layer):
    """Learned similarity of two embeddings that sees their difference and their mean position.

    For a pair of L2-normalized embeddings `x_i` and `x_j` the unit computes

        u = |x_i - x_j|                        v = (x_i + x_j) / 2
        u' = relu(u W_u + b_u)                 v' = relu(v W_v + b_v)
        c = relu([u' / ||u'||, v' / ||v'||] W_c + b_c)
        S_ij = c W_s + b_s

    The score `S_ij` has no fixed range; larger means more similar. It is symmetric in `i` and `j` to the last bit.
    The unit does not normalize its inputs: give it what a normalizing encoder returns (`DoubleHeaderHinge` normalizes).

    `u'` and `v'` are normalized after the ReLU: with the biases `b_u` and `b_v` at zero, where they start, the unit
    sees in which direction two embeddings differ and not how far. It learns to see the distance as it learns the
    biases.

    Args:
        units: width of the hidden layers. `None` takes the embedding dimension, as the paper does.
        dropout: share of the hidden activations dropped in training, in `[0, 1)`. `pairwise` and `rerank` never drop
            any.
        epsilon: smallest norm that `u'` and `v'` are divided by, so that an all-zero ReLU output stays zero.
        seed: seed of the dropout.
        **kwargs: arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: list of two tensors `(n, d)`, the first and the second embedding of each pair.
        training: whether dropout is active.

    Returns:
        Scores `(n,)`, float32 also under mixed precision.

    Reference: Huang, Loy, Tang, "Local Similarity-Aware Deep Feature Embedding", NIPS 2016.

    Example:
        >>> unit = PDDMUnit()
        >>> embeddings = keras.ops.normalize(keras.random.normal((6, 16)), axis=-1)
        >>> unit([embeddings, embeddings[::-1]]).shape
        TensorShape([6])
        >>> unit.pairwise(embeddings).shape
        TensorShape([6, 6])
    """

    def __init__(
        self,
        units: int | None = None,
        dropout: float = 0.0,
        epsilon: float = 1e-6,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if units is not None and units <= 0:
            raise ValueError(f"`units` must be positive, or None for the embedding dimension. Received: units={units}")
        if not 0 <= dropout < 1:
            raise ValueError(f"`dropout` must be in [0, 1). Received: dropout={dropout}")
        if epsilon <= 0:
            raise ValueError(f"`epsilon` must be positive. Received: epsilon={epsilon}")
        self.units = units
        self.dropout = dropout
        self.epsilon = epsilon
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed) if dropout > 0 else None
        self.supports_masking = False

    def build(self, input_shape: Sequence[Shape]) -> None:
        first, second = input_shape
        dimension = first[-1]
        if dimension is None or dimension != second[-1]:
            raise ValueError(
                "Both inputs of PDDMUnit must have the same, known last dimension. "
                f"Received: input shapes {tuple(first)} and {tuple(second)}"
            )
        units = self.units or dimension

        def weight(name: str, *shape: int) -> keras.Variable:
            # An initializer of its own for each: one Keras initializer draws the same values every time.
            initializer = "glorot_uniform" if len(shape) == 2 else "zeros"
            return self.add_weight(name=name, shape=shape, initializer=keras.initializers.get(initializer))

        self.difference_kernel = weight("difference_kernel", dimension, units)
        self.difference_bias = weight("difference_bias", units)
        self.mean_kernel = weight("mean_kernel", dimension, units)
        self.mean_bias = weight("mean_bias", units)
        self.combined_kernel = weight("combined_kernel", 2 * units, units)
        self.combined_bias = weight("combined_bias", units)
        self.score_kernel = weight("score_kernel", units, 1)
        self.score_bias = weight("score_bias", 1)

    def call(self, inputs: Sequence[Tensor], training: bool | None = None) -> Tensor:
        first, second = self._pair_of_inputs(inputs)
        mean = self._dense((first + second) / 2, self.mean_kernel, self.mean_bias)
        return self._score(ops.abs(first - second), mean, training=bool(training))

    def pairwise(self, x: Tensor, y: Tensor | None = None, block_size: int = 1024) -> Tensor:
        """Score every row of `x` with every row of `y`, or with every other row of `x`, itself included.

        Pairs are scored in blocks of `block_size`, and one block holds about `4 * block_size * (3 * d + 4 * units)`
        bytes (28 MiB by default at d = units = 1024). A TensorFlow graph may work on several blocks at a time, ten at
        the most; XLA and eager execution on one. Without `y` each unordered pair is scored once, and the result is
        symmetric to the last bit. Gradients flow, but the backward pass then keeps the activations of all pairs:
        to train on mined pairs, mine with a stopped gradient and call the unit on the pairs found, as
        `DoubleHeaderHinge` does.

        Args:
            x: embeddings `(n, d)`.
            y: embeddings `(m, d)`, or `None` for `x`.
            block_size: number of pairs that are scored at once.

        Returns:
            Scores `(n, m)`, float32 also under mixed precision, without dropout.
        """
        if block_size <= 0:
            raise ValueError(f"`block_size` must be positive. Received: block_size={block_size}")
        x = ops.convert_to_tensor(x)
        self._build_for(x)
        x = ops.cast(x, self.compute_dtype)
        x_half = self._dense(x, self.mean_kernel, self.mean_bias) / 2
        rows = ops.shape(x)[0]
        if y is None:
            # Flat position s * n + i stands for the unordered pair (i, i + s mod n): shifts up to n // 2 reach them
            # all.
            y, y_half, columns = x, x_half, rows
            count = (rows // 2 + 1) * rows
        else:
            y = ops.cast(ops.convert_to_tensor(y), self.compute_dtype)
            y_half = self._dense(y, self.mean_kernel, self.mean_bias) / 2
            columns = ops.shape(y)[0]
            count = rows * columns
        symmetric = y is x

        if isinstance(count, int):
            if count >= 2**31:
                raise ValueError(
                    "`pairwise` holds at most 2**31 - 1 scores. Score the rows of `x` in parts. "
                    f"Received: {rows} x {columns} pairs"
                )
            if count == 0:
                return ops.zeros((rows, columns), dtype=self._score_dtype)
            block_size = min(block_size, count)

        def score_block(start: Tensor) -> Tensor:
            # The last block repeats the last pair up to its full size, so that every block has one static shape.
            flat = ops.minimum(start + ops.arange(block_size, dtype="int32"), count - 1)
            if symmetric:
                i = flat % rows
                j = (i + flat // rows) % rows
            else:
                i, j = flat // columns, flat % columns
            difference = ops.abs(ops.take(x, i, axis=0) - ops.take(y, j, axis=0))
            mean = ops.take(x_half, i, axis=0) + ops.take(y_half, j, axis=0)
            return self._score(difference, mean, training=False)

        # `map` rather than `scan`: Keras's scan on TensorFlow has no gradient under XLA.
        scores = ops.reshape(ops.map(score_block, ops.arange(0, count, block_size, dtype="int32")), (-1,))
        if not symmetric:
            return ops.reshape(scores[:count], (rows, columns))
        index = ops.arange(rows, dtype="int32")
        i, j = index[:, None], index[None, :]
        shift = (j - i) % rows
        flat = ops.where(shift <= rows // 2, shift * rows + i, (rows - shift) * rows + j)
        # At an even number of rows the last shift visits each pair twice: the smaller index decides for both.
        flat = ops.where(2 * shift == rows, shift * rows + ops.minimum(i, j), flat)
        return ops.take(scores, flat, axis=0)

    def rerank(self, queries: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """Order the shortlist of each query by score, best first.

        Args:
            queries: embeddings `(q, d)`.
            candidates: embeddings `(q, k, d)`, the shortlist of each query.

        Returns:
            Scores `(q, k)` in descending order, and the positions `(q, k)` int32 in the shortlist that they belong to.
            Holds about `4 * q * k * (d + 4 * units)` bytes.
        """
        queries, candidates = ops.convert_to_tensor(queries), ops.convert_to_tensor(candidates)
        self._build_for(queries)
        queries, candidates = ops.cast(queries, self.compute_dtype), ops.cast(candidates, self.compute_dtype)
        query_half = self._dense(queries, self.mean_kernel, self.mean_bias) / 2
        candidate_half = self._dense(candidates, self.mean_kernel, self.mean_bias) / 2
        difference = ops.abs(queries[:, None] - candidates)
        scores = self._score(difference, query_half[:, None] + candidate_half, training=False)
        return ops.top_k(scores, k=ops.shape(scores)[-1])

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> Shape:
        return tuple(input_shape[0][:-1])

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        # Keras does not save the state of seed generators: without it a resumed run would draw other masks.
        if self.seed_generator is not None:
            store["seed_state"] = ops.convert_to_numpy(self.seed_generator.state)

    def load_own_variables(self, store: Any) -> None:
        names = set(store.keys())
        super().load_own_variables({name: store[name] for name in names - {"seed_state"}})
        if self.seed_generator is not None and "seed_state" in names:
            self.seed_generator.state.assign(np.asarray(store["seed_state"]))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "units": self.units,
            "dropout": self.dropout,
            "epsilon": self.epsilon,
            "seed": self.seed,
        }

    @property
    def _score_dtype(self) -> str:
        return "float64" if self.compute_dtype == "float64" else "float32"

    def _pair_of_inputs(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        if not isinstance(inputs, list | tuple) or len(inputs) != 2:
            raise ValueError(f"PDDMUnit is called on a list of two tensors, `unit([x_i, x_j])`. Received: {inputs}")
        return inputs[0], inputs[1]

    def _build_for(self, x: Tensor) -> None:
        if not self.built:
            self.build([x.shape, x.shape])

    def _dense(self, x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        # Cast by hand: `pairwise` and `rerank` run outside of Keras's autocast scope.
        return ops.matmul(x, ops.cast(kernel, self.compute_dtype)) + ops.cast(bias, self.compute_dtype)

    def _normalize(self, x: Tensor) -> Tensor:
        # In float16 the squares of small activations vanish.
        wide = ops.cast(x, self._score_dtype)
        # The floor is inside the root, as the root's own gradient at zero is infinite.
        squares = ops.maximum(ops.sum(ops.square(wide), axis=-1, keepdims=True), self.epsilon**2)
        return ops.cast(wide * ops.rsqrt(squares), self.compute_dtype)

    def _drop(self, x: Tensor, training: bool) -> Tensor:
        if training and self.seed_generator is not None:
            return keras.random.dropout(x, self.dropout, seed=self.seed_generator)
        return x

    def _score(self, difference: Tensor, mean_preactivation: Tensor, training: bool) -> Tensor:
        """Scores from `|x_i - x_j|` and `v W_v + b_v`: `(..., d)`, `(..., units)` -> `(...)`."""
        difference = ops.relu(self._dense(difference, self.difference_kernel, self.difference_bias))
        mean = ops.relu(mean_preactivation)
        difference = self._drop(self._normalize(difference), training)
        mean = self._drop(self._normalize(mean), training)
        kernel = ops.cast(self.combined_kernel, self.compute_dtype)
        units = kernel.shape[-1]
        combined = ops.matmul(difference, kernel[:units]) + ops.matmul(mean, kernel[units:])
        combined = ops.relu(combined + ops.cast(self.combined_bias, self.compute_dtype))
        combined = ops.cast(self._drop(combined, training), self._score_dtype)
        scores = ops.matmul(combined, ops.cast(self.score_kernel, self._score_dtype))[..., 0]
        return scores + ops.cast(self.score_bias, self._score_dtype)[0]
