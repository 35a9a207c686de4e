"""DASAugmentation against plain loops written from the formulae."""

import collections
import json
import subprocess
import sys

import backends
import keras
import numpy as np
import pytest
from backends import tensor, tensorflow_only, value_and_gradients
from layer_checks import check_layer

from keras_dml.layers import DASAugmentation

if backends.TENSORFLOW:
    import tensorflow as tf

C, D, K, Z = 6, 12, 3, 5


class Reference:
    """Frequency recorder and banks, one sample and one pair at a time."""

    def __init__(self, num_classes=C, dim=D, top_k=K, bank_size=Z):
        self.top_k = top_k
        self.counts = np.zeros((num_classes, dim), np.int64)
        self.banks = [collections.deque(maxlen=bank_size) for _ in range(num_classes)]

    def step(self, embeddings, labels):
        num_classes = len(self.banks)
        ok = [0 <= y < num_classes and bool(np.isfinite(v).all()) for v, y in zip(embeddings, labels, strict=True)]
        for i, y in enumerate(labels):
            if ok[i]:
                order = sorted(range(len(embeddings[i])), key=lambda k: (-embeddings[i][k], k))
                for k in order[: self.top_k]:
                    self.counts[y, k] += 1
        for i, y in enumerate(labels):
            for j, other in enumerate(labels):
                if i != j and y == other and ok[i] and ok[j]:
                    difference = embeddings[i] - embeddings[j]
                    if difference.any():
                        self.banks[y].append(difference)

    def channels(self, label):
        order = sorted(range(self.counts.shape[1]), key=lambda k: (-self.counts[label, k], k))
        return set(order[: self.top_k])


def bank_of(layer, label):
    """The class's differences, oldest first."""
    fill, cursor = int(layer.bank_fill[label]), int(layer.bank_cursor[label])
    rows = layer.transformation_bank.numpy()[label]
    assert not rows[fill:].any(), "rows that were never filled must stay 0"
    return [rows[(cursor - fill + k) % layer.bank_size] for k in range(fill)]


def assert_same_state(layer, reference):
    np.testing.assert_array_equal(layer.frequency_recorder_matrix.numpy(), reference.counts)
    for label, expected in enumerate(reference.banks):
        found = bank_of(layer, label)
        assert len(found) == len(expected), f"class {label}"
        for mine, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(mine, other, err_msg=f"class {label}")


def rows(rng, n, dim=D):
    values = rng.normal(size=(n, dim)).astype("float32")
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def called(layer):
    return lambda v, y: layer(v, y, training=True)


def compiled(layer, jit=False):
    return backends.compiled(called(layer), jit, layer)


def of_unknown_size(layer):
    return tf.function(called(layer), input_signature=[tf.TensorSpec((None, D)), tf.TensorSpec((None,), "int32")])


MODES = {
    "eager": called,
    "graph": compiled,
    "jit": lambda layer: compiled(layer, jit=True),
    "unknown batch": of_unknown_size,
}
GRAPHS = tensorflow_only("graphs, for batches of unknown size too")


@pytest.fixture(
    params=["eager", pytest.param("graph", marks=GRAPHS), "jit", pytest.param("unknown batch", marks=GRAPHS)]
)
def mode(request):
    return MODES[request.param]


# ---------------------------------------------------------------------------------------------------- state


def test_state_follows_the_reference_over_many_batches(mode):
    # Class 5 never appears. Sizes vary the pairs per class from none (one sample) to beyond the bank (4 samples: 12).
    rng = np.random.default_rng(0)
    layer = DASAugmentation(C, num_produced=2, top_k=K, bank_size=Z, seed=0)
    reference, step = Reference(), None
    for turn in range(12):
        labels = rng.integers(0, C - 1, 10).astype("int32")
        values = rows(rng, 10)
        if turn % 3 == 0:
            values[rng.integers(0, 10, 4)] = values[0]  # duplicates, within a class and across
        if step is None:
            step = mode(layer)
        step(tensor(values), tensor(labels))
        reference.step(values, labels)
        assert_same_state(layer, reference)
    assert layer.bank_fill.numpy()[C - 1] == 0
    assert not layer.rejected_rows.numpy().any()


def test_state_follows_the_reference_in_large_batches_with_duplicates(mode):
    rng = np.random.default_rng(1)
    layer = DASAugmentation(C, num_produced=0, top_k=K, bank_size=Z, seed=0)
    reference, step = Reference(), None
    for turn in range(3):
        # From classes that are all twins of one another to some among many others, in no order.
        values = rows(rng, 120)[rng.integers(0, (2, 12, 80)[turn], 120)]
        labels = rng.integers(0, C, 120).astype("int32")
        step = step or mode(layer)
        step(tensor(values), tensor(labels))
        reference.step(values, labels)
        assert_same_state(layer, reference)


@pytest.mark.parametrize(
    ("labels", "bank_size", "jit"),
    [
        ([2, 2, 2, 2, 2, 2, 2], 10, False),  # one class: 42 pairs for 10 rows
        ([2, 2, 2, 2, 2, 2, 2], 10, True),
        ([2, 2, 2, 2, 2, 2, 2], 50, False),  # one class, all kept
        ([1, 2, 3, 4], 10, False),  # no pair at all
        ([1, 2, 3, 4], 10, True),
        ([0, 1, 0, 1, 0, 1, 0], 1, False),
        ([3], 10, False),
        ([0, 0, 1, 1, 1, 2, 2, 2, 2], 7, False),  # all of 2, 6 and 12 pairs
        ([4, 4, 4, 4, 4, 4, 5, 5, 5, 5, 5, 5], 4, False),
    ],
)
def test_banks_in_extreme_batches(labels, bank_size, jit):
    rng = np.random.default_rng(1)
    layer = DASAugmentation(C, top_k=K, bank_size=bank_size, seed=0)
    step, reference = compiled(layer, jit), Reference(bank_size=bank_size)
    for _ in range(3):
        values = rows(rng, len(labels))
        step(tensor(values), tensor(labels))
        reference.step(values, labels)
        assert_same_state(layer, reference)


@pytest.mark.parametrize("n", range(1, 25))
def test_room_for_the_kept_pairs_is_never_too_small(n):
    """The worst way to deal `n` rows to classes, by brute force over class sizes, fits the bound."""
    for bank_size in (1, 2, 3, 6, 7, 10, 12, 30):
        best = [0] * (n + 1)
        for total in range(1, n + 1):
            best[total] = max(best[total - k] + min(k * (k - 1), bank_size) for k in range(1, total + 1))
        layer = DASAugmentation(C, bank_size=bank_size)
        assert layer._most_kept(n) >= max(best[n], 1)
        assert int(layer._most_kept(tensor(n))) >= max(best[n], 1)


def test_identical_rows_leave_no_difference():
    rng = np.random.default_rng(2)
    a, b = rows(rng, 2)
    values = np.stack([a, b, a, b, a])
    layer, reference = DASAugmentation(C, bank_size=30), Reference(bank_size=30, top_k=4)
    layer(values, np.zeros(5, "int32"), training=True)
    reference.step(values, [0] * 5)
    assert len(reference.banks[0]) == 12  # of 20 ordered pairs, 6 + 2 are between identical rows
    assert_same_state(layer, reference)
    layer(np.stack([a, a, a]), np.ones(3, "int32"), training=True)
    assert layer.bank_fill.numpy()[1] == 0


@pytest.mark.parametrize("cast", ["float32", "bfloat16", "float16"])
def test_opposite_permuted_and_nearly_equal_rows_are_not_identical(cast):
    # What a hash of the bits could confuse: signs, places, and one unit in the last place.
    rng = np.random.default_rng(3)
    a = keras.ops.convert_to_numpy(keras.ops.cast(keras.ops.cast(rows(rng, 1)[0], cast), "float32"))
    near = a.copy()
    near[3] = np.nextafter(near[3], np.float32(2))
    two_signs = a.copy()
    two_signs[:2] *= -1
    values = np.stack([a, -a, -a, a[::-1], near, two_signs, two_signs, np.roll(a, 1)])
    layer, reference = DASAugmentation(C, bank_size=60, top_k=K), Reference(bank_size=60)
    layer(values, np.zeros(len(values), "int32"), training=True)
    reference.step(values, [0] * len(values))
    assert len(reference.banks[0]) == 52  # 56 ordered pairs, two identical ones
    assert_same_state(layer, reference)


def test_a_negative_zero_equals_zero():
    zero, negative = np.zeros((2, D), "float32")
    negative[:] = -0.0
    layer = DASAugmentation(C)
    layer(np.stack([zero, negative, negative]), np.zeros(3, "int32"), training=True)
    assert layer.bank_fill.numpy()[0] == 0


def test_a_hash_collision_drops_no_difference(monkeypatch):
    monkeypatch.setattr("keras_dml.layers.das_augmentation._odd_multipliers", lambda dim: np.zeros(dim, "int32"))
    rng = np.random.default_rng(4)
    layer, reference = DASAugmentation(C, bank_size=20, top_k=K), Reference(bank_size=20)
    values = rows(rng, 4)
    layer(values, np.zeros(4, "int32"), training=True)
    reference.step(values, [0] * 4)
    assert_same_state(layer, reference)


def test_equal_values_and_counts_go_to_the_lower_channel():
    layer, reference = (
        DASAugmentation(C, top_k=3, scale_range=(0.5, 0.5), shift_scale=0.0, normalize=False),
        Reference(),
    )
    values = np.ones((2, D), "float32")
    values[1, ::2] = 2.0
    union, _ = layer(values, np.array([0, 1]), training=True)
    reference.step(values, [0, 1])
    assert_same_state(layer, reference)
    np.testing.assert_array_equal(np.flatnonzero(union[2] != values[0]), [0, 1, 2])
    np.testing.assert_array_equal(np.flatnonzero(union[3] != values[1]), [0, 2, 4])


def test_frequencies_count_signed_values():
    layer = DASAugmentation(1, top_k=1)
    values = np.full((1, D), -0.5, "float32")
    values[0, 4], values[0, 7] = -0.9, 0.1
    layer(values, np.array([0]), training=True)
    np.testing.assert_array_equal(np.flatnonzero(layer.frequency_recorder_matrix[0]), [7])


def test_counters_stay_exact_beyond_half_precision_and_float32():
    layer = DASAugmentation(1, top_k=1, scale_range=(0.5, 0.5), normalize=False, dtype="mixed_bfloat16")
    values = np.zeros((1, 4), "float32")
    values[0, 2] = 1.0
    layer(values, np.array([0]), training=True)
    layer.frequency_recorder_matrix.assign(np.array([[0, 2**24, 2**24, 0]]))
    union, _ = layer(values, np.array([0]), training=True)
    # Channel 2 leads by one, which a cast to float32 would lose.
    np.testing.assert_array_equal(layer.frequency_recorder_matrix[0], [0, 2**24, 2**24 + 1, 0])
    np.testing.assert_array_equal(union[1], [0, 0, 0.5, 0])


# ------------------------------------------------------------------------------------------------- produced


@pytest.mark.parametrize("jit", [False, True])
def test_produced_embeddings_scale_the_mask_and_shift_by_a_bank_row(jit):
    rng = np.random.default_rng(5)
    low, high, weight = 0.5, 2.0, 0.1
    layer = DASAugmentation(
        C, num_produced=4, top_k=K, bank_size=Z, scale_range=(low, high), shift_scale=weight, normalize=False, seed=0
    )
    step, reference = compiled(layer, jit), Reference()
    drawn, factors = collections.Counter(), []
    for _ in range(40):
        labels = rng.integers(0, C, 9).astype("int32")
        values = rows(rng, 9)
        union, union_labels = map(np.asarray, step(tensor(values), tensor(labels)))
        reference.step(values, labels)  # the batch's own differences can be drawn already
        np.testing.assert_array_equal(union[:9], values)
        np.testing.assert_array_equal(union_labels, np.tile(labels, 5))
        cursor = layer.bank_cursor.numpy()
        for block in range(1, 5):
            for i, label in enumerate(labels):
                produced = union[block * 9 + i]
                mask = np.isin(np.arange(D), list(reference.channels(label)))
                bank = [weight * row for row in reference.banks[label]] or [np.zeros(D, "float32")]
                # The channels outside the mask tell which row was drawn.
                errors = [np.abs(produced - values[i] - row)[~mask].max() for row in bank]
                best = int(np.argmin(errors))
                assert errors[best] < 1e-6
                drawn["age", len(bank), best] += 1
                drawn["slot", len(bank), (cursor[label] + best) % Z] += 1  # of a full bank: the cursor is at the oldest
                factor = ((produced - bank[best]) / values[i])[mask]
                large = np.abs(values[i][mask]) > 0.05
                assert ((factor >= low - 1e-4) & (factor <= high + 1e-4))[large].all()
                factors.extend(factor[large])
    # Every filled row is drawn, about equally often; the factors fill their range evenly.
    for kind in ("age", "slot"):
        counts = np.array([drawn[kind, Z, k] for k in range(Z)])
        assert counts.sum() > 500
        assert (np.abs(counts / counts.sum() - 1 / Z) < 0.06).all()
    quartiles = np.histogram(factors, np.linspace(low, high, 5))[0] / len(factors)
    np.testing.assert_allclose(quartiles, 0.25, atol=0.03)
    assert len(np.unique(np.round(factors, 5))) > 0.9 * len(factors)


def test_each_produced_embedding_has_its_own_draws():
    layer = DASAugmentation(1, num_produced=3, top_k=2, shift_scale=0.0, scale_range=(0.5, 2.0), normalize=False)
    values = np.ones((2, D), "float32")
    values[:, :2] = 3.0
    union = np.asarray(layer(values, np.zeros(2, "int32"), training=True)[0])
    assert len(np.unique(union[2:, :2])) == 3 * 2 * 2
    again = np.asarray(layer(values, np.zeros(2, "int32"), training=True)[0])
    assert not np.isin(again[2:, :2], union[2:, :2]).any()


def test_scaling_alone_and_shifting_alone_are_exact():
    rng = np.random.default_rng(7)
    values, labels = rows(rng, 6), np.array([0, 0, 1, 1, 2, 3])
    scaling = DASAugmentation(C, top_k=K, shift_scale=0.0, scale_range=(2.0, 2.0), normalize=False)
    union = np.asarray(scaling(values, labels, training=True)[0])
    reference = Reference()
    reference.step(values, labels)
    for row, label, produced in zip(np.tile(values, (3, 1)), np.tile(labels, 3), union[6:], strict=True):
        mask = np.isin(np.arange(D), list(reference.channels(label)))
        np.testing.assert_array_equal(produced, np.where(mask, 2 * row, row))
    assert scaling.bank_fill.numpy().tolist() == [2, 2, 0, 0, 0, 0]  # kept up all the same

    shifting = DASAugmentation(C, top_k=K, shift_scale=0.25, scale_range=(1, 1), normalize=False)
    union = np.asarray(shifting(values, labels, training=True)[0])
    for i, produced in enumerate(union[6:]):
        row, label = values[i % 6], labels[i % 6]
        bank = [np.float32(0.25) * t for t in reference.banks[label]] or [np.zeros(D, "float32")]
        assert any(np.array_equal(produced, row + t) for t in bank)

    neither = DASAugmentation(C, top_k=K, shift_scale=0, scale_range=(1, 1), normalize=False)
    np.testing.assert_array_equal(neither(values, labels, training=True)[0], np.tile(values, (4, 1)))


def test_normalized_rows_have_length_one_and_real_rows_stay():
    rng = np.random.default_rng(8)
    values = 3 * rows(rng, 6)
    union = DASAugmentation(C, scale_range=(0.5, 2.0), shift_scale=0.5)(
        values, np.array([0, 0, 1, 1, 2, 2]), training=True
    )
    union = np.asarray(union[0])
    np.testing.assert_array_equal(union[:6], values)
    np.testing.assert_allclose(np.linalg.norm(union[6:], axis=1), 1, rtol=1e-5)
    raw = DASAugmentation(C, normalize=False)(values, np.array([0, 0, 1, 1, 2, 2]), training=True)
    raw = np.asarray(raw[0])
    np.testing.assert_allclose(np.linalg.norm(raw[6:], axis=1), 3, rtol=0.1)


def test_no_production_only_keeps_the_state():
    rng = np.random.default_rng(9)
    values, labels = rows(rng, 4), np.array([0, 0, 1, 1])
    layer, reference = DASAugmentation(C, num_produced=0, top_k=K), Reference(bank_size=10)
    union, union_labels = layer(values, labels, training=True)
    reference.step(values, labels)
    np.testing.assert_array_equal(union, values)
    np.testing.assert_array_equal(union_labels, labels)
    assert_same_state(layer, reference)


@pytest.mark.parametrize("training", [False, None])
def test_outside_training_inputs_pass_unchanged(training):
    layer = DASAugmentation(C)
    values, labels = keras.random.normal((4, D)), tensor([[0], [1], [2], [99]])
    out, out_labels = layer(values, labels, training=training)
    np.testing.assert_array_equal(out, values)
    np.testing.assert_array_equal(out_labels, labels)
    assert all(not w.numpy().any() for w in layer.non_trainable_weights)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "uint32", "uint64"])
def test_label_types_and_columns(dtype):
    layer = DASAugmentation(300)
    values = rows(np.random.default_rng(10), 4)
    labels = np.array([[0], [0], [3], [7]], dtype)
    union, union_labels = layer(values, labels, training=True)
    assert union.shape == (16, D)
    assert keras.backend.standardize_dtype(union_labels.dtype) == dtype
    np.testing.assert_array_equal(union_labels, np.tile([0, 0, 3, 7], 4))
    assert layer.bank_fill.numpy()[[0, 3, 7]].tolist() == [2, 0, 0]


# ------------------------------------------------------------------------------------------------- gradient


def test_gradient_without_detach_goes_through_scale_shift_and_normalization():
    rng = np.random.default_rng(11)
    values, labels = rows(rng, 5), np.array([0, 0, 1, 1, 1])
    layer = DASAugmentation(
        C, num_produced=2, top_k=K, scale_range=(0.5, 2.0), shift_scale=0.3, detach=False, normalize=False, seed=3
    )
    twin = DASAugmentation(C, num_produced=2, top_k=K, scale_range=(0.5, 2.0), shift_scale=0.3, detach=False, seed=3)
    weight = rng.normal(size=(15, D)).astype("float32")
    twin.build((5, D))
    for _ in range(2):  # the second step also draws from what the first left
        unnormalized = np.asarray(layer(values, labels, training=True)[0])

        def weighted(x):
            union = twin(x, labels, training=True)[0]
            return keras.ops.sum(union * weight), union

        (_, union), (found,) = value_and_gradients(weighted, [values], twin)
        # Closed form: d(p / |p|) = (g - (g . u) u) / |p|, u = p / |p|; then d p / d v = s. The bank is a constant.
        expected = weight[:5].astype("float64")
        reference_bank = twin.transformation_bank.numpy()
        for row in range(5, 15):
            i = row % 5
            p = unnormalized[row].astype("float64")
            length = np.linalg.norm(p)
            unit = p / length
            np.testing.assert_allclose(union[row], unit, atol=1e-6)
            shifts = [0.3 * t for t in reference_bank[labels[i], : twin.bank_fill[labels[i]]]]
            mask = np.isin(
                np.arange(D), np.argsort(-twin.frequency_recorder_matrix.numpy()[labels[i]], kind="stable")[:K]
            )
            shift = min(shifts, key=lambda t: np.abs(p - values[i] - t)[~mask].max())
            scale = np.where(mask, (p - shift) / values[i], 1.0)
            g = weight[row]
            expected[i] += scale * (g - (g @ unit) * unit) / length
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("jit", [False, True])
def test_gradient_with_detach_comes_from_real_rows_only(jit):
    rng = np.random.default_rng(12)
    values, labels = rows(rng, 4), tensor([0, 0, 1, 1])
    weight = rng.normal(size=(16, D)).astype("float32")
    layer = DASAugmentation(C, detach=True)
    layer(values, labels, training=True)

    def weighted(x):
        return keras.ops.sum(layer(x, labels, training=True)[0] * weight)

    gradient = backends.compiled(lambda x: value_and_gradients(weighted, [x], layer)[1][0], jit, layer)
    np.testing.assert_array_equal(gradient(tensor(values)), weight[:4])


@pytest.mark.parametrize("length", [0.0, 1e-30, 1e-7])
def test_zero_vectors_give_finite_values_and_gradients(length):
    layer = DASAugmentation(C, detach=False)

    def total(x):
        union, _ = layer(x, tensor([0, 0, 1, 2]), training=True)
        return keras.ops.sum(union), union

    layer.build((4, D))
    (_, union), (gradient,) = value_and_gradients(total, [np.full((4, D), length, "float32")], layer)
    assert np.abs(union).max() <= 1.01 * length  # too short to normalize: left as they are
    np.testing.assert_allclose(gradient, 4, rtol=0.01)


# ------------------------------------------------------------------------------------ precision, compiling, saving


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16", "float64"])
def test_state_and_output_are_exact_under_every_policy(policy):
    rng = np.random.default_rng(13)
    layer, plain = DASAugmentation(C, seed=1, dtype=policy), DASAugmentation(C, seed=1)
    for _ in range(5):
        values, labels = rows(rng, 8), rng.integers(0, C, 8)
        found, expected = layer(values, labels, training=True)[0], plain(values, labels, training=True)[0]
        assert found.dtype == "float32"
        np.testing.assert_array_equal(found, expected)
    assert [w.dtype for w in layer.non_trainable_weights] == ["int32", "float32", "int32", "int32", "int32"]
    assert not any(w._autocast for w in layer.non_trainable_weights)
    half = keras.ops.cast(rows(rng, 4), "bfloat16")
    union = layer(half, np.array([0, 0, 1, 1]), training=True)[0]
    assert union.dtype == "float32"
    np.testing.assert_array_equal(union[:4], keras.ops.cast(half, "float32"))


@tensorflow_only("a look into the graph")
@pytest.mark.parametrize("jit", [False, True])
def test_no_dense_access_to_the_state_inside_a_compiled_step(jit):
    # A dense read after a scatter copies the variable on TensorFlow: 232 MB a step for 11,318 classes.
    layer = DASAugmentation(C)
    values, labels = tf.constant(rows(np.random.default_rng(14), 4)), tf.constant([0, 0, 1, 1])
    graph = compiled(layer, jit).get_concrete_function(values, labels).graph
    handles = {
        id(inner)
        for outer, inner in graph.captures
        if any(
            outer is w.value.handle
            for w in (layer.frequency_recorder_matrix, layer.transformation_bank, layer.bank_fill, layer.bank_cursor)
        )
    }
    assert len(handles) == 4
    used = collections.Counter(
        op.type for op in graph.get_operations() for tensor in op.inputs if id(tensor) in handles
    )
    assert set(used) == {"ResourceGather", "ResourceScatterNdAdd", "ResourceScatterNdUpdate"}, used


def test_generic_path_gives_the_same_state():
    """`stateless_call` hands the layer plain tensors, the path other backends take."""
    rng = np.random.default_rng(15)
    layer, twin = DASAugmentation(C, seed=2), DASAugmentation(C, seed=2)
    layer.build((8, D))
    variables = [w.numpy() for w in layer.non_trainable_variables]
    untouched = [w.copy() for w in variables]
    for _ in range(4):
        values, labels = rows(rng, 8), rng.integers(0, C, 8)
        (union, _), variables = layer.stateless_call([], variables, values, labels, training=True)
        np.testing.assert_array_equal(union, twin(values, labels, training=True)[0])
    for found, expected in zip(variables, twin.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(found, expected)
    for now, before in zip(layer.non_trainable_variables, untouched, strict=True):
        np.testing.assert_array_equal(now, before)


@pytest.mark.parametrize("name", ["eager", "jit"])
def test_a_seeded_run_repeats_bit_for_bit(name):
    def run(seed, name=name):
        rng = np.random.default_rng(16)
        layer = DASAugmentation(C, seed=seed)
        step = MODES[name](layer)
        outputs = [step(tensor(rows(rng, 8)), tensor(rng.integers(0, C, 8), "int32"))[0] for _ in range(4)]
        return np.stack([np.asarray(output) for output in outputs])

    np.testing.assert_array_equal(run(5), run(5))
    if name == "eager":
        assert (run(5) != run(6)).any()


class Trainer(keras.Model):
    """The least of a training loop around the layer."""

    def __init__(self, layer):
        super().__init__()
        self.encoder, self.layer = keras.layers.Dense(D), layer

    def call(self, x):
        return self.encoder(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        union, labels = self.layer(y_pred, y, training=True)
        return keras.ops.mean(keras.ops.square(union - keras.ops.cast(labels[:, None], union.dtype)))


class OwnStep(Trainer):
    """The same, with a step of TensorFlow's."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            union, labels = self.layer(self.encoder(x), y, training=True)
            loss = tf.reduce_mean(tf.square(union - tf.cast(labels[:, None], union.dtype)))
        self.optimizer.apply(tape.gradient(loss, self.encoder.trainable_weights), self.encoder.trainable_weights)
        return {"loss": loss}


TRAINERS = [Trainer, pytest.param(OwnStep, marks=tensorflow_only("a `train_step` with a gradient tape"))]


@pytest.mark.parametrize(("jit", "steps"), [(False, 1), (False, 3), (True, 3)])
@pytest.mark.parametrize("trainer", TRAINERS)
def test_fit_with_several_steps_per_execution(trainer, jit, steps):
    rng = np.random.default_rng(17)
    x, y = rng.normal(size=(48, 5)).astype("float32"), rng.integers(0, C, 48)
    layer = DASAugmentation(C, top_k=K, bank_size=Z)
    model = trainer(layer)
    model.compile("sgd", jit_compile=jit, steps_per_execution=steps)
    model.fit(x, y, batch_size=8, epochs=2, verbose=0)
    assert layer.frequency_recorder_matrix.numpy().sum() == 2 * 48 * K
    assert layer.bank_fill.numpy().sum() > C
    layer.raise_if_rejected()


@pytest.mark.parametrize("trainer", TRAINERS)
def test_last_batch_of_another_size(trainer):
    rng = np.random.default_rng(18)
    x, y = rng.normal(size=(21, 5)).astype("float32"), rng.integers(0, C, 21)
    layer = DASAugmentation(C, top_k=K)
    model = trainer(layer)
    model.compile("sgd", jit_compile=False)
    model.fit(x, y, batch_size=8, epochs=1, verbose=0)
    assert layer.frequency_recorder_matrix.numpy().sum() == 21 * K


def test_the_shared_layer_check(tmp_path):
    arguments = {
        "num_classes": C,
        "num_produced": 2,
        "top_k": 3,
        "bank_size": Z,
        "scale_range": (0.5, 2.0),
        "shift_scale": 0.1,
        "detach": False,
        "normalize": False,
        "seed": 7,
    }
    values = rows(np.random.default_rng(19), 8)
    check_layer(
        DASAugmentation,
        arguments,
        inputs=(values, np.array([0, 0, 1, 1, 2, 2, 2, 3], "int32")),
        weights={
            "frequency_recorder_matrix": ((C, D), "int32"),
            "transformation_bank": ((C, Z, D), "float32"),
            "bank_fill": ((C,), "int32"),
            "bank_cursor": ((C,), "int32"),
            "rejected_rows": ((2,), "int32"),
        },
        trainable=0,
        output_shapes=((24, D), (24,)),
        output_dtypes=("float32", "int32"),
        folder=tmp_path,
        call=lambda layer, inputs: layer(*inputs, training=True),
    )


def test_config_is_plain_json():
    config = DASAugmentation(C, scale_range=(0.5, 2)).get_config()
    assert DASAugmentation.from_config(json.loads(json.dumps(config))).get_config() == config


def test_bank_fill_ratio():
    layer = DASAugmentation(4, bank_size=4)
    layer(rows(np.random.default_rng(20), 5), np.array([0, 0, 1, 1, 1]), training=True)
    assert float(layer.bank_fill_ratio()) == pytest.approx((2 + 4) / 16)


# --------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "`num_classes`.*num_classes=0"),
        ({"num_classes": 2.5}, "`num_classes`.*2.5"),
        ({"num_classes": True}, "`num_classes`"),
        ({"num_produced": -1}, "`num_produced`.*num_produced=-1"),
        ({"top_k": 0}, "`top_k`.*top_k=0"),
        ({"bank_size": 0}, "`bank_size`.*bank_size=0"),
        ({"scale_range": (1.1, 0.9)}, r"`scale_range`.*\(1.1, 0.9\)"),
        ({"scale_range": 0.01}, "`scale_range`.*0.01"),
        ({"scale_range": (0.9, 1.0, 1.1)}, "`scale_range`"),
        ({"scale_range": (-1, 1)}, "`scale_range`"),
        ({"scale_range": (0.9, float("nan"))}, "`scale_range`"),
        ({"shift_scale": -0.1}, "`shift_scale`.*shift_scale=-0.1"),
        ({"shift_scale": float("inf")}, "`shift_scale`"),
        ({"detach": "no"}, "`detach`.*'no'"),
        ({"normalize": 1}, "`normalize`"),
        ({"seed": "x"}, "`seed`.*'x'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        DASAugmentation(**{"num_classes": C, **arguments})


@pytest.mark.parametrize(
    ("values", "labels", "message"),
    [
        (np.zeros((4, 3), "f"), np.zeros(4, int), "`top_k`.*top_k=4.*width 3"),
        (np.zeros((4, 5, 6), "f"), np.zeros(4, int), "`embeddings`.*(4, 5, 6)"),
        (np.zeros((4, D), "f"), np.zeros(5, int), "4 embeddings and 5 labels"),
        (np.zeros((4, D), "f"), np.zeros((4, 2), int), r"`labels`.*\(4, 2\)"),
        (np.zeros((4, D), "f"), np.zeros(4, "f"), "`labels` must be integers.*float32"),
        (np.zeros((4, D), "f"), np.zeros(4, bool), "`labels` must be integers.*bool"),
        (np.zeros((4, D), "i4"), np.zeros(4, int), "`embeddings` must be floats.*int32"),
    ],
)
def test_bad_inputs_are_refused_eagerly_and_while_tracing(values, labels, message):
    with pytest.raises(ValueError, match=message):
        DASAugmentation(C)(values, labels, training=True)
    with pytest.raises(ValueError, match=message):
        compiled(DASAugmentation(C), jit=True)(tensor(values), tensor(labels))


@tensorflow_only("batches of unknown size")
def test_lengths_that_differ_at_run_time_are_refused():
    step = MODES["unknown batch"](DASAugmentation(C))
    for count in (1, 3, 5):
        with pytest.raises(tf.errors.InvalidArgumentError):
            step(tf.zeros((4, D)), tf.zeros((count,), tf.int32))


BAD_ROWS = [
    ("label", -1, r"`labels`.*\[0, num_classes=6\).*-1 in row 2"),
    ("label", C, "6 in row 2"),
    ("label", 2**32 + 1, "4294967297 in row 2"),  # would be class 1 as int32
    ("value", np.nan, "nan in row 2, column 3"),
    ("value", -np.inf, "-inf in row 2, column 3"),
    ("value", 3e38, "in row 2, column 3"),
]


def bad_batch(kind, bad):
    values, labels = rows(np.random.default_rng(21), 6), np.array([1, 1, 1, 0, 0, 2], "int64")
    if kind == "label":
        labels[2] = bad
    else:
        values[2, 3] = bad
    return values, labels


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize(("kind", "bad", "message"), BAD_ROWS)
def test_invalid_rows_raise_eagerly_before_any_change(kind, bad, message):
    layer = DASAugmentation(C)
    layer(rows(np.random.default_rng(22), 6), np.array([1, 1, 1, 0, 0, 2]), training=True)
    before = [w.numpy() for w in layer.variables]
    values, labels = bad_batch(kind, bad)
    with pytest.raises(ValueError, match=message):
        layer(values, labels, training=True)
    for old, new in zip(before, layer.variables, strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.skipif(backends.TENSORFLOW, reason="JAX only: without 64-bit numbers, unless they are asked for")
def test_labels_that_do_not_fit_are_refused_rather_than_cut():
    layer = DASAugmentation(C)
    with pytest.raises(ValueError, match=r"`labels` must fit into 32 bits.*4294967297.*jax_enable_x64"):
        layer(*bad_batch("label", 2**32 + 1), training=True)
    layer(*bad_batch("label", 2), training=True)


# Where there is no graph, an eager call of another test raises.
COMPILATIONS = [
    *((kind, bad, not backends.TENSORFLOW) for kind, bad, _ in BAD_ROWS),
    *([("label", C, True), ("value", np.nan, True)] if backends.TENSORFLOW else []),
]


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize(("kind", "bad", "jit"), COMPILATIONS)
def test_invalid_rows_leave_the_state_of_a_compiled_step_alone(kind, bad, jit):
    layer, reference = DASAugmentation(C, top_k=K, bank_size=Z, shift_scale=0.2, seed=0), Reference()
    step = compiled(layer, jit)
    values, labels = bad_batch(kind, bad)
    good, good_labels = rows(np.random.default_rng(22), 6), np.array([0, 0, 1, 1, 1, 2], "int64")
    step(tensor(good), tensor(good_labels))
    union, union_labels = map(np.asarray, step(tensor(values), tensor(labels)))
    reference.step(good, good_labels)
    reference.step(np.where(np.abs(values) > 1e18, np.nan, values), labels)
    assert_same_state(layer, reference)
    assert np.isfinite(layer.transformation_bank.numpy()).all()
    np.testing.assert_array_equal(union_labels, np.tile(labels, 4))
    np.testing.assert_array_equal(union[2::6], np.tile(values[2], (4, 1)))  # the row itself, unscaled, unshifted
    others = np.delete(union, np.s_[2::6], axis=0)
    assert np.isfinite(others).all()
    assert layer.rejected_rows.numpy().tolist() == ([1, 0] if kind == "label" else [0, 1])
    with pytest.raises(ValueError, match="received 1 rows"):
        layer.raise_if_rejected()
    layer.raise_if_rejected()  # counted afresh


@pytest.mark.parametrize("jit", [False, True] if backends.TENSORFLOW else [True])
def test_a_batch_of_invalid_rows_only_changes_nothing(jit):
    layer = DASAugmentation(C, top_k=K, bank_size=2)
    layer(rows(np.random.default_rng(23), 4), np.array([0, 0, 5, 5]), training=True)
    before = [w.numpy() for w in layer.non_trainable_weights[:4]]
    values = rows(np.random.default_rng(24), 3)
    union, _ = compiled(layer, jit)(tensor(values), tensor([-1, C, -1]))
    np.testing.assert_array_equal(union, np.tile(values, (4, 1)))
    for old, new in zip(before, layer.non_trainable_weights, strict=False):
        np.testing.assert_array_equal(old, new)
    assert layer.rejected_rows.numpy().tolist() == [3, 0]
    with pytest.raises(ValueError, match=r"3 rows with a label outside \[0, num_classes=6\)"):
        layer.raise_if_rejected()


@tensorflow_only("tf.distribute")
def test_replicas_keep_the_same_state():
    """In a process of its own: TensorFlow takes the number of logical devices once, at start-up."""
    code = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from keras_dml.layers import DASAugmentation
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    layer = DASAugmentation(6, seed=1)
    layer.build((4, 12))
    batch, labels = tf.random.stateless_normal((4, 12), (1, 2)), tf.constant([0, 0, 1, 1])
    strategy = tf.distribute.get_strategy()
    strategy.run(tf.function(lambda: layer(batch, labels, training=True)))
    for variable in layer.variables:
        one, other = strategy.experimental_local_results(variable.value)
        assert (one.numpy() == other.numpy()).all(), variable.path
    assert layer.bank_fill.numpy().tolist() == [2, 2, 0, 0, 0, 0]
with tf.distribute.OneDeviceStrategy("CPU:1").scope():
    layer = DASAugmentation(6)
    layer(tf.random.normal((4, 12)), tf.constant([0, 0, 1, 1]), training=True)
    assert layer.bank_fill.numpy().tolist() == [2, 2, 0, 0, 0, 0]
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_a_batch_whose_pairs_32_bits_cannot_number_is_refused():
    layer = DASAugmentation(3, top_k=1)
    most = 46_340
    assert most * (most + 1) < 2**31 <= (most + 1) * (most + 2)
    labels = keras.KerasTensor((most,), "int32")
    assert layer.compute_output_spec(keras.KerasTensor((most, 2)), labels, training=True)[0].shape == (4 * most, 2)
    labels = keras.KerasTensor((most + 1,), "int32")
    with pytest.raises(ValueError, match="may have 46,340 rows"):
        layer.compute_output_spec(keras.KerasTensor((most + 1, 2)), labels, training=True)


@pytest.mark.parametrize("low", [-3, -(2**31)])
def test_equal_keys_keep_their_order(low):
    from keras_dml.layers.das_augmentation import _stable_order

    keys = np.random.default_rng(0).choice([low, -1, 0, 5, 2**31 - 1], 5000).astype("int32")
    order = keras.ops.convert_to_numpy(_stable_order(tensor(keys)))
    np.testing.assert_array_equal(order, np.argsort(keys, kind="stable"))
