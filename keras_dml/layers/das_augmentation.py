"""Densely-anchored sampling: extra embeddings produced around each anchor of a training batch."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dml.backend import integers, state
from keras_dml.typing import Shape, Tensor

# Longer rows would overflow float32 when squared, so they are treated like non-finite ones.
_LARGEST = 1e18
# Squared length below which a produced row is left as it is instead of being divided by its length.
_SHORTEST_SQUARED = 1e-12
# The largest B of which B * (B + 1) fits into int32.
_MOST_ROWS = 46_340


@keras.saving.register_keras_serializable(package="keras_dml")
class DASAugmentation(keras.layers.Layer):
    """Produces `num_produced` embeddings around each embedding of a training batch, with its label (DAS).

    For an embedding `v` of class `y` each produced embedding is `v' = s * v + b` (DAS, section 3), with fresh draws:

    - Discriminative feature scaling gives `s`. `frequency_recorder_matrix[y, k]` counts how often channel `k` was among
      the `top_k` largest signed values of an embedding of class `y`. The `top_k` most counted channels of `y` (ties:
      the lower channel) are multiplied by a factor drawn from `scale_range`; `s` is 1 elsewhere.
    - Memorized transformation shifting gives `b = shift_scale * t`, with `t` drawn uniformly from the filled rows of
      `transformation_bank[y]`. The bank is a FIFO of the `bank_size` newest differences `v_i - v_j` between two
      embeddings of the class within one batch. Within a batch they are pushed in the order of `i`, then `j`;
      differences of identical rows are dropped. `b = 0` while the class has none.

    A training step first counts, then pushes, then draws, so a batch's own differences can be drawn at once (Alg. 1).
    `scale_range=(1, 1)` leaves shifting alone, `shift_scale=0` leaves scaling alone; the state is kept up either way.

    The work is done, and returned, in float32 whatever the precision policy: a change of 1 % is about as fine as
    bfloat16 can hold (8 bits), and counters in half precision stop growing.
    Each step touches only the rows of the batch's classes, in place; no cost grows with `num_classes` (on TensorFlow;
    see `keras_dml.backend.state`). Memory is `num_classes * (bank_size + 1) * d * 4` bytes.

    Invalid rows. Labels outside `[0, num_classes)` and embeddings that are NaN, infinite or have a value of 1e18 or
    more never reach the state. Called eagerly, the layer raises before it changes anything. In a compiled step, where
    raising would cost a device synchronisation, such a row leaves the state as it is, its "produced" embeddings are
    copies of the row, and it is counted in `rejected_rows`: call `raise_if_rejected()` once in a while (`MetricLearner`
    does so every epoch).

    On several devices the layer must be given the global batch, in the same order on each, as `MetricLearner` does.
    Then the state is that of one device, and the same on all, bit for bit.

    Args:
        num_classes: number of training classes `C`.
        num_produced: produced embeddings per anchor, `T`. 0 only keeps the state up.
        top_k: channels counted per embedding and scaled per class, `K`.
        bank_size: differences kept per class, `Z`.
        scale_range: `(low, high)` of the scaling factor, drawn from `[low, high)`.
        shift_scale: `r_b`, the weight of the drawn difference.
        detach: whether produced embeddings are built from a stopped copy of the real ones (no gradient flows through
            them). Differences in the bank never carry gradient.
        normalize: whether to L2-normalize produced embeddings (rows shorter than 1e-6 are left as they are). Use False
            for losses on unnormalized embeddings.
        seed: integer seed of the draws, or None. The generator's state is saved with the layer.
        **kwargs: `name`, `dtype` and the like, for `keras.layers.Layer`.

    Call arguments:
        embeddings: `(B, d)` floats.
        labels: `(B,)` or `(B, 1)` integers.
        training: True to produce; otherwise both inputs are returned unchanged.

    Returns:
        `((1 + T) * B, d)` float32 embeddings and `((1 + T) * B,)` labels of the given type: the real rows first,
        unchanged, then `T` blocks of `B`.

    Raises:
        ValueError: on a bad argument, `top_k` above `d`, embeddings that are not of rank 2, labels that are not
            integers or whose number differs from the embeddings', and, eagerly, on invalid rows.

    Example:

        >>> layer = DASAugmentation(num_classes=100)
        >>> embeddings = keras.ops.normalize(keras.random.normal((8, 64)))
        >>> union, labels = layer(embeddings, keras.ops.array([0, 0, 1, 1, 2, 2, 3, 3]), training=True)
        >>> union.shape, labels.shape
        (TensorShape([32, 64]), TensorShape([32]))

    Reference:
        Liu et al., Densely-Anchored Sampling for Deep Metric Learning, ECCV 2022, arXiv 2208.00119. `detach`,
        `normalize=False` and the signed (not absolute) top values are taken from the authors' code.
    """

    def __init__(
        self,
        num_classes: int,
        num_produced: int = 3,
        top_k: int = 4,
        bank_size: int = 10,
        scale_range: tuple[float, float] = (0.99, 1.01),
        shift_scale: float = 0.01,
        detach: bool = True,
        normalize: bool = True,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        # No autocast: half precision inputs would otherwise be all that call() sees under a mixed policy.
        super().__init__(autocast=False, **kwargs)
        self.num_classes = _whole("num_classes", num_classes, 1)
        self.num_produced = _whole("num_produced", num_produced, 0)
        self.top_k = _whole("top_k", top_k, 1)
        self.bank_size = _whole("bank_size", bank_size, 1)
        self.scale_range = _range("scale_range", scale_range)
        self.shift_scale = _non_negative("shift_scale", shift_scale)
        self.detach = _flag("detach", detach)
        self.normalize = _flag("normalize", normalize)
        self.seed = None if seed is None else _whole("seed", seed, 0)
        self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, embeddings_shape: Shape, labels_shape: Shape | None = None) -> None:
        """Creates the state for embeddings of shape `(B, d)`; all of it non-trainable."""
        self._check_shapes(embeddings_shape, labels_shape)
        dim = embeddings_shape[1]
        if dim is None:
            raise ValueError(
                f"The width of `embeddings` must be known. Received: shape {tuple(embeddings_shape)}. "
                "End the encoder with a layer of fixed width."
            )
        if self.top_k > dim:
            raise ValueError(
                f"`top_k` must be at most the embedding width. Received: top_k={self.top_k}, embeddings of width "
                f"{dim}. Lower `top_k` or widen the encoder's output."
            )

        def weight(name: str, shape: tuple[int, ...], dtype: str = "int32") -> keras.Variable:
            return self.add_weight(
                name=name, shape=shape, dtype=dtype, initializer="zeros", trainable=False, autocast=False
            )

        self.frequency_recorder_matrix = weight("frequency_recorder_matrix", (self.num_classes, dim))
        self.transformation_bank = weight("transformation_bank", (self.num_classes, self.bank_size, dim), "float32")
        self.bank_fill = weight("bank_fill", (self.num_classes,))
        self.bank_cursor = weight("bank_cursor", (self.num_classes,))
        self.rejected_rows = weight("rejected_rows", (2,))

    def __call__(self, embeddings: Tensor, labels: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        integers.check_width(labels, "labels")
        return super().__call__(embeddings, labels, *args, **kwargs)

    def call(self, embeddings: Tensor, labels: Tensor, training: bool | None = None) -> tuple[Tensor, Tensor]:
        if not training:
            return embeddings, labels
        embeddings, labels = ops.convert_to_tensor(embeddings), ops.convert_to_tensor(labels)
        self._check_shapes(embeddings.shape, labels.shape)
        self._check_types(embeddings, labels)
        self._check_values(embeddings, labels)
        embeddings = ops.cast(embeddings, "float32")
        size = ops.shape(embeddings)[0]
        labels = ops.reshape(labels, (size,))

        # Rejected rows take part as class 0 and are masked wherever they could count.
        absolute = ops.stop_gradient(ops.abs(embeddings))
        known, sound = self._known(labels), ops.sum(absolute, axis=1) < _LARGEST
        valid = ops.logical_and(known, sound)
        classes = ops.cast(ops.where(known, labels, ops.zeros_like(labels)), "int32")
        # Only finite values go on (sorting NaNs is undefined), and no -0.0: it equals 0.0 but has other bits.
        plain = ops.logical_and(absolute > 0.0, absolute < _LARGEST)
        values = ops.stop_gradient(ops.where(plain, embeddings, ops.zeros_like(embeddings)))
        rejected = [ops.logical_not(known), ops.logical_and(known, ops.logical_not(sound))]
        self.rejected_rows.assign_add(ops.stack([ops.sum(ops.cast(rows, "int32")) for rows in rejected]))

        channels = self._record_frequencies(values, classes, valid)
        fill = self._push_differences(values, classes, valid)
        if self.num_produced == 0:
            return embeddings, labels
        produced = self._produce(embeddings, classes, valid, channels, fill)
        produced = ops.reshape(produced, (-1, embeddings.shape[1]))
        return ops.concatenate([embeddings, produced]), ops.tile(labels, (1 + self.num_produced,))

    def _record_frequencies(self, values: Tensor, classes: Tensor, valid: Tensor) -> Tensor:
        """Counts each row's `top_k` channels; returns the most counted channels of its class, `(B, top_k)`."""
        largest = ops.top_k(values, self.top_k)[1]
        rows = ops.broadcast_to(classes[:, None], ops.shape(largest))
        once = ops.broadcast_to(ops.cast(valid, "int32")[:, None], ops.shape(largest))
        indices = ops.stack([ops.reshape(rows, (-1,)), ops.reshape(largest, (-1,))], axis=1)
        state.scatter_add(self.frequency_recorder_matrix, indices, ops.reshape(once, (-1,)))
        counts = state.gather_rows(self.frequency_recorder_matrix, classes)
        # XLA sorts integers in full, ten times the cost of its float top-k. Read from the bits of 1.0 upwards, counts
        # keep their order and stay distinct as floats (up to 2**30).
        return ops.top_k(ops.view(counts + 0x3F800000, "float32"), self.top_k)[1]

    def _push_differences(self, values: Tensor, classes: Tensor, valid: Tensor) -> Tensor:
        """Pushes the batch's differences into the banks; returns the new fill of each row's bank, `(B,)`.

        All choices are made on `(B,)` integers in the order of their classes: `O(B log B + M)`, where `M` is the
        number of pairs that are kept at most, at which differences are formed.
        """
        size = ops.shape(values)[0]
        rows = ops.arange(size, dtype="int32")
        # Rejected rows get a class of their own, which makes them nobody's peer.
        keys = ops.where(valid, classes, -1 - rows)
        of_class = _Groups(keys, rows)
        twin = self._first_twin(values, keys, rows)
        of_twin = _Groups(twin, rows)

        # Anchor i makes `count` pairs; `later` counts those with an anchor of its class behind i.
        count = of_class.sizes - of_twin.sizes
        ordered = ops.cumsum(state.gather_rows(count, of_class.order))
        through = state.gather_rows(ordered, of_class.positions)
        last = state.gather_rows(ordered, of_class.starts + of_class.sizes - 1)
        before = state.gather_rows(ordered - state.gather_rows(count, of_class.order), of_class.starts)
        later = last - through
        pushed = ops.minimum(last - before, self.bank_size)
        kept = ops.clip(self.bank_size - later, 0, count)

        # List the kept pairs, `kept[i]` of them per anchor: find the anchor of an entry, then its partner. Entries
        # beyond the last repeat it; with no pair at all they rewrite what some slot holds (an index outside raises).
        ends = ops.cumsum(kept)
        total = ends[-1]
        entry = ops.minimum(ops.arange(self._most_kept(size), dtype="int32"), ops.maximum(total - 1, 0))
        anchor = ops.minimum(ops.cast(ops.searchsorted(ends, entry, side="right"), "int32"), size - 1)
        back = state.gather_rows(ends, anchor) - 1 - entry  # kept pairs of the same anchor behind this one
        # The partner is the member number `wanted` of the class among those that are no twins of the anchor. Before a
        # twin that is number t of its group and number f of the class there are f - t of them, which grows with t: the
        # twins before the partner are counted by a search.
        wanted = state.gather_rows(count, anchor) - back - 1
        stride = size + 1
        passed = of_twin.groups * stride + of_class.places - of_twin.places
        passed = state.gather_rows(passed, of_twin.order)
        sought = state.gather_rows(of_twin.groups, anchor) * stride + wanted
        found = ops.cast(ops.searchsorted(passed, sought, side="right"), "int32")
        member = wanted + found - state.gather_rows(of_twin.starts, anchor)
        place = ops.clip(state.gather_rows(of_class.starts, anchor) + member, 0, size - 1)
        partner = ops.where(ops.equal(total, 0), anchor, state.gather_rows(of_class.order, place))

        cursor = state.gather_rows(self.bank_cursor, classes)
        fill = state.gather_rows(self.bank_fill, classes)
        owner = state.gather_rows(classes, anchor)
        slot = ops.mod(state.gather_rows(cursor + pushed - 1 - later, anchor) - back, self.bank_size)
        differences = state.gather_rows(values, anchor) - state.gather_rows(values, partner)
        # With no pair, partner = anchor and the differences are 0.
        held = state.gather_rows(state.gather_rows(self.transformation_bank, owner[:1])[0], slot[:1])
        differences = differences + held * ops.cast(ops.equal(total, 0), "float32")
        state.scatter_write(self.transformation_bank, ops.stack([owner, slot], axis=1), differences)

        first = ops.cast(ops.logical_and(valid, ops.equal(of_class.places, 0)), "int32")
        new_fill = ops.minimum(fill + pushed, self.bank_size)
        state.scatter_add(self.bank_fill, classes[:, None], first * (new_fill - fill))
        state.scatter_add(
            self.bank_cursor, classes[:, None], first * (ops.mod(cursor + pushed, self.bank_size) - cursor)
        )
        return new_fill

    def _first_twin(self, values: Tensor, keys: Tensor, rows: Tensor) -> Tensor:
        """Index of the first row of the class (`keys`) that equals this row, `(B,)`.

        Rows are compared by an integer hash, whose sum is the same in any order (a float product is not), and a match
        is then verified value by value.
        """
        bits = ops.view(values, "int32")
        # Without the shift a flipped sign would add 2**31 whatever the multiplier, so v and -v would often collide.
        bits = ops.bitwise_xor(bits, ops.right_shift(bits, 15))
        code = ops.sum(bits * _odd_multipliers(values.shape[1]), axis=1)
        order = _stable_order(code)
        order = state.gather_rows(order, _stable_order(state.gather_rows(keys, order)))
        alike = ops.logical_and(*(_equals_last(state.gather_rows(of, order)) for of in (code, keys)))
        alike = _Runs(ops.logical_not(alike), size=ops.shape(values)[0])
        first = state.gather_rows(state.gather_rows(order, alike.starts), _inverse(order, rows))
        equal = ops.equal(ops.sum(ops.abs(values - state.gather_rows(values, first)), axis=1), 0.0)
        return ops.where(equal, first, rows)

    def _produce(self, embeddings: Tensor, classes: Tensor, valid: Tensor, channels: Tensor, fill: Tensor) -> Tensor:
        """`(T, B, d)` produced embeddings."""
        size, dim = ops.shape(embeddings)[0], embeddings.shape[1]
        source = ops.stop_gradient(embeddings) if self.detach else embeddings
        draws = keras.random.uniform(
            (self.num_produced, size, self.top_k + 1), dtype="float32", seed=self.seed_generator
        )
        low, high = self.scale_range
        gamma = ops.where(valid[:, None], low + (high - low) * draws[:, :, 1:], 1.0)
        rows = ops.arange(self.num_produced * size, dtype="int32")[:, None]
        spots = ops.stack(
            [
                ops.reshape(ops.broadcast_to(rows, (self.num_produced * size, self.top_k)), (-1,)),
                ops.reshape(ops.tile(channels, (self.num_produced, 1)), (-1,)),
            ],
            axis=1,
        )
        ones = ops.ones((self.num_produced * size, dim), "float32")
        scale = ops.scatter_update(ones, spots, ops.reshape(gamma, (-1,)))
        scale = ops.reshape(scale, (self.num_produced, size, dim))

        slot = ops.cast(draws[:, :, 0] * ops.cast(fill, "float32"), "int32")
        slot = ops.minimum(slot, ops.maximum(fill - 1, 0))
        slot = slot + self.bank_size * ops.arange(size, dtype="int32")
        banks = ops.reshape(state.gather_rows(self.transformation_bank, classes), (-1, dim))
        drawn = state.gather_rows(banks, slot)
        weight = ops.cast(ops.where(ops.logical_and(valid, fill > 0), self.shift_scale, 0.0), "float32")
        produced = scale * source + weight[:, None] * drawn
        if not self.normalize:
            return produced
        squared = ops.sum(ops.square(produced), axis=-1, keepdims=True)
        # Two `where`s: the inner one keeps the gradient of rsqrt finite in the rows that are left alone.
        safe = ops.logical_and(valid[:, None], squared > _SHORTEST_SQUARED)
        return produced * ops.where(safe, ops.rsqrt(ops.where(safe, squared, 1.0)), 1.0)

    def compute_output_spec(
        self, embeddings: Tensor, labels: Tensor, training: bool | None = None
    ) -> tuple[Tensor, Tensor]:
        if not training:
            return (
                keras.KerasTensor(embeddings.shape, embeddings.dtype),
                keras.KerasTensor(labels.shape, labels.dtype),
            )
        self._check_shapes(embeddings.shape, labels.shape)
        self._check_types(embeddings, labels)
        size = embeddings.shape[0]
        size = None if size is None else (1 + self.num_produced) * size
        return (
            keras.KerasTensor((size, embeddings.shape[1]), "float32"),
            keras.KerasTensor((size,), labels.dtype),
        )

    def bank_fill_ratio(self) -> Tensor:
        """Share of all rows of all banks that hold a difference, a float32 scalar in [0, 1].

        The cost grows with the number of classes: read it once per epoch, not per step.
        """
        return ops.mean(ops.cast(self.bank_fill.value, "float32")) / self.bank_size

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Called by `MetricLearner` at the end of an epoch: checks for rejected rows, and logs how full the bank is.

        Args:
            epoch: number of the epoch, from 0.
            logs: receives `bank_fill`, see `bank_fill_ratio`.

        Raises:
            ValueError: as `raise_if_rejected`.
        """
        self.raise_if_rejected()
        logs["bank_fill"] = float(self.bank_fill_ratio())

    def raise_if_rejected(self) -> None:
        """Raises if compiled steps rejected rows since the last call, and sets the counter back to zero.

        Raises:
            ValueError: naming how many labels were outside `[0, num_classes)` and how many embeddings were not finite.
        """
        if not self.built:
            return
        labels, embeddings = (int(count) for count in ops.convert_to_numpy(self.rejected_rows))
        if labels == embeddings == 0:
            return
        self.rejected_rows.assign(ops.zeros(self.rejected_rows.shape, self.rejected_rows.dtype))
        found = []
        if labels:
            found.append(
                f"{labels} rows with a label outside [0, num_classes={self.num_classes}) (renumber the training "
                "classes from 0 without gaps, or raise `num_classes`)"
            )
        if embeddings:
            found.append(
                f"{embeddings} rows whose embedding has a NaN, an infinite or a huge value (training has diverged, or "
                "the input images hold such values)"
            )
        raise ValueError(
            f"{self.name} received {' and '.join(found)}. These rows did not reach the frequency recorder matrix or "
            "the bank, but they did reach the loss."
        )

    def save_own_variables(self, store: Any) -> None:
        # Keras does not save a SeedGenerator's state; without it a resumed run would repeat its first draws.
        super().save_own_variables(store)
        store["seed_state"] = ops.convert_to_numpy(self.seed_generator.state)

    def load_own_variables(self, store: Any) -> None:
        super().load_own_variables({key: store[key] for key in store.keys() if key != "seed_state"})  # noqa: SIM118
        self.seed_generator.state.assign(np.asarray(store["seed_state"]))

    def get_config(self) -> dict[str, Any]:
        config: dict[str, Any] = super().get_config()
        config.update(
            num_classes=self.num_classes,
            num_produced=self.num_produced,
            top_k=self.top_k,
            bank_size=self.bank_size,
            scale_range=list(self.scale_range),
            shift_scale=self.shift_scale,
            detach=self.detach,
            normalize=self.normalize,
            seed=self.seed,
        )
        return config

    def _most_kept(self, size: Tensor) -> Tensor:
        """Upper bound on the pairs a batch of `size` rows can leave in the banks, at least 1.

        A class with `n` rows leaves `min(n (n - 1), bank_size)` pairs, that is at most `pairs / among` per row for the
        best `n`. `size` may be a tensor (unknown batch size); the bound is then a tensor too.
        """
        known = isinstance(size, int)
        largest = max(2, min(size, self.bank_size + 2)) if known else self.bank_size + 2
        among = max(range(2, largest + 1), key=lambda n: min(n * (n - 1), self.bank_size) / n)
        pairs = min(among * (among - 1), self.bank_size)
        return max(1, size * pairs // among) if known else ops.maximum(1, size * pairs // among)

    def _known(self, labels: Tensor) -> Tensor:
        """Which labels lie in `[0, num_classes)`, compared in a type that holds both."""
        wide = keras.backend.standardize_dtype(labels.dtype) in ("int64", "uint32", "uint64")
        labels = ops.cast(labels, integers.widest() if wide else "int32")
        return ops.logical_and(labels >= 0, labels < self.num_classes)

    def _check_shapes(self, embeddings_shape: Shape, labels_shape: Shape | None) -> None:
        if len(embeddings_shape) != 2:
            raise ValueError(
                f"`embeddings` must have shape (batch, dim). Received: shape {tuple(embeddings_shape)}. "
                "Pool or flatten the encoder's output first."
            )
        if embeddings_shape[0] is not None and embeddings_shape[0] > _MOST_ROWS:
            raise ValueError(
                f"A batch may have {_MOST_ROWS:,} rows: pairs are numbered in 32 bits. "
                f"Received: {embeddings_shape[0]:,} rows. Split the batch."
            )
        if labels_shape is None:
            return
        if len(labels_shape) not in (1, 2) or (len(labels_shape) == 2 and labels_shape[1] not in (None, 1)):
            raise ValueError(
                f"`labels` must have shape (batch,) or (batch, 1). Received: shape {tuple(labels_shape)}. "
                "Pass class numbers, not one-hot rows."
            )
        if None not in (embeddings_shape[0], labels_shape[0]) and embeddings_shape[0] != labels_shape[0]:
            raise ValueError(
                f"`embeddings` and `labels` must have the same length. Received: {embeddings_shape[0]} embeddings and "
                f"{labels_shape[0]} labels. Give one label per embedding."
            )

    def _check_types(self, embeddings: Tensor, labels: Tensor) -> None:
        found = keras.backend.standardize_dtype(labels.dtype)
        if not found.startswith(("int", "uint")):
            raise ValueError(f"`labels` must be integers. Received: dtype={found}. Cast them to int32.")
        found = keras.backend.standardize_dtype(embeddings.dtype)
        if "float" not in found:
            raise ValueError(f"`embeddings` must be floats. Received: dtype={found}. Cast them to float32.")

    def _check_values(self, embeddings: Tensor, labels: Tensor) -> None:
        """Raises on the first invalid row, where the values can be seen (eager calls)."""
        seen = state.concrete(labels)
        if seen is not None:
            seen = seen.reshape(-1)
            wrong = np.flatnonzero((seen < 0) | (seen >= self.num_classes))
            if wrong.size:
                raise ValueError(
                    f"`labels` must lie in [0, num_classes={self.num_classes}). Received: {seen[wrong[0]]} in row "
                    f"{wrong[0]} ({wrong.size} such rows). Renumber the training classes from 0 without gaps, or raise "
                    "`num_classes`. Nothing was recorded."
                )
        seen = state.concrete(ops.cast(embeddings, "float32"))
        if seen is not None:
            with np.errstate(invalid="ignore"):
                wrong_rows, wrong_columns = np.nonzero(~(np.abs(seen) < _LARGEST))
            if wrong_rows.size:
                value = seen[wrong_rows[0], wrong_columns[0]]
                raise ValueError(
                    f"`embeddings` must be finite and below {_LARGEST:g} in size. Received: {value} in row "
                    f"{wrong_rows[0]}, column {wrong_columns[0]} ({np.unique(wrong_rows).size} such rows). The network "
                    "has diverged, or its input holds such values. Nothing was recorded."
                )


class _Runs:
    """Stretches of equal values in sorted ones.

    Args:
        begins: `(B,)` bool, where a stretch begins; True at 0.
        size: B.

    Attributes:
        numbers: `(B,)` int32, the number of each entry's stretch.
        starts: `(B,)` int32, where it begins.
        sizes: `(B,)` int32, its length.
    """

    def __init__(self, begins: Tensor, size: Tensor) -> None:
        self.numbers = ops.cumsum(ops.cast(begins, "int32")) - 1
        lengths = ops.segment_sum(ops.ones_like(self.numbers), self.numbers, num_segments=size)
        self.sizes = state.gather_rows(lengths, self.numbers)
        self.starts = state.gather_rows(ops.cumsum(lengths) - lengths, self.numbers)


class _Groups:
    """Rows by their keys.

    Args:
        keys: `(B,)` int32.
        rows: `0 ... B - 1`, int32.

    Attributes:
        order: `(B,)` int32, the rows sorted by their keys, those of one key by their number.
        positions: `(B,)` int32, each row's place in `order`.
        groups: `(B,)` int32, the number of each row's group.
        starts: `(B,)` int32, where each row's group begins in `order`.
        sizes: `(B,)` int32, the rows of its group.
        places: `(B,)` int32, its number in its group, from 0.
    """

    def __init__(self, keys: Tensor, rows: Tensor) -> None:
        self.order = _stable_order(keys)
        self.positions = _inverse(self.order, rows)
        ordered = state.gather_rows(keys, self.order)
        runs = _Runs(ops.logical_not(_equals_last(ordered)), size=ops.shape(keys)[0])
        self.groups, self.starts, self.sizes = (
            state.gather_rows(of, self.positions) for of in (runs.numbers, runs.starts, runs.sizes)
        )
        self.places = self.positions - self.starts


def _stable_order(keys: Tensor) -> Tensor:
    """Places of `(B,)` int32 keys in ascending order, equal ones as they came."""
    return ops.cast(ops.argsort(keys), "int32")


def _inverse(order: Tensor, rows: Tensor) -> Tensor:
    """`inverse[order[k]] = k`."""
    return ops.scatter_update(ops.zeros_like(rows), order[:, None], rows)


def _equals_last(ordered: Tensor) -> Tensor:
    """Whether each value equals the one before, `(B,)`; False at 0."""
    return ops.concatenate([ops.zeros_like(ordered[:1], dtype="bool"), ops.equal(ordered[1:], ordered[:-1])])


def _odd_multipliers(dim: int) -> np.ndarray:
    drawn = np.random.default_rng(0).integers(0, 2**32, dim, dtype=np.uint32)
    return (drawn | np.uint32(1)).view(np.int32)


def _whole(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"`{name}` must be an integer of at least {least}. Received: {name}={value!r}")
    return int(value)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"`{name}` must be True or False. Received: {name}={value!r}")
    return bool(value)


def _non_negative(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 <= value < math.inf:
        raise ValueError(f"`{name}` must be a finite number of at least 0. Received: {name}={value!r}")
    return float(value)


def _range(name: str, value: Any) -> tuple[float, float]:
    try:
        low, high = (_non_negative(name, bound) for bound in value)
    except (TypeError, ValueError):
        low, high = 1.0, 0.0
    if low > high:
        raise ValueError(
            f"`{name}` must be two finite numbers (low, high) with 0 <= low <= high. Received: {name}={value!r}. "
            "The paper writes 1 - r_s and 1 + r_s: r_s = 0.01 is (0.99, 1.01)."
        )
    return low, high
