import backends
import keras
import numpy as np
import pytest
from backends import MODES, in_mode, tensorflow_only, value_and_gradients
from keras import ops
from layer_checks import check_layer

from keras_dml.layers import PDDMUnit

if backends.TENSORFLOW:
    import tensorflow as tf


def unit_rows(n, d, seed=0, dtype="float32"):
    x = np.random.default_rng(seed).normal(size=(n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(dtype)


def random_unit(d=5, seed=0, **kwargs):
    """A unit with every weight away from its initial value, biases included."""
    unit = PDDMUnit(**kwargs)
    unit.build([(None, d), (None, d)])
    random = np.random.default_rng(seed)
    unit.set_weights([random.normal(scale=0.6, size=weight.shape) for weight in unit.weights])
    return unit


def naive_score(weights, x_i, x_j):
    """The paper's formulas for one pair."""
    w_u, b_u, w_v, b_v, w_c, b_c, w_s, b_s = weights
    hidden = []
    for kernel, bias, x in ((w_u, b_u, np.abs(x_i - x_j)), (w_v, b_v, (x_i + x_j) / 2)):
        out = np.maximum(x @ kernel + bias, 0)
        norm = np.linalg.norm(out)
        hidden.append(out / norm if norm > 0 else out)
    return float((np.maximum(np.concatenate(hidden) @ w_c + b_c, 0) @ w_s + b_s)[0])


def naive_matrix(unit, x, y):
    weights = [np.asarray(weight, "float64") for weight in unit.get_weights()]
    return np.array([[naive_score(weights, a, b) for b in y] for a in x])


@pytest.mark.parametrize("units", [None, 7])
def test_weights_are_those_of_the_paper(units):
    unit = PDDMUnit(units)
    unit([np.zeros((2, 5), "float32")] * 2)
    u = units or 5
    assert [tuple(w.shape) for w in unit.weights] == [(5, u), (u,), (5, u), (u,), (2 * u, u), (u,), (u, 1), (1,)]
    assert len(unit.trainable_weights) == 8


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("units", [None, 3])
def test_scores_equal_naive_loops(mode, units):
    unit = random_unit(units=units)
    x, y = unit_rows(9, 5), unit_rows(9, 5, seed=1)
    scores = in_mode(lambda x, y: unit([x, y]), mode, unit)(x, y)
    assert scores.shape == (9,)
    np.testing.assert_allclose(scores, np.diag(naive_matrix(unit, x, y)), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("double_precision")
def test_gradients_equal_finite_differences_of_naive_loops():
    unit = random_unit(dtype="float64")
    x, y = unit_rows(6, 5, dtype="float64"), unit_rows(6, 5, seed=1, dtype="float64")
    weights = unit.get_weights()
    _, gradients = value_and_gradients(lambda x, y: ops.sum(unit([x, y]) ** 2), [x, y], unit)
    assert all(keras.backend.standardize_dtype(gradient.dtype) == "float64" for gradient in gradients)

    def naive(x, y, *weights):
        return sum(naive_score(weights, a, b) ** 2 for a, b in zip(x, y, strict=True))

    arguments = [x, y, *weights]
    random = np.random.default_rng(2)
    for position, gradient in enumerate(gradients):
        for _ in range(3):
            direction = random.normal(size=arguments[position].shape)
            moved = []
            for sign in (1, -1):
                shifted = list(arguments)
                shifted[position] = shifted[position] + sign * 1e-6 * direction
                moved.append(naive(*shifted))
            expected = pytest.approx((moved[0] - moved[1]) / 2e-6, rel=1e-5, abs=1e-7)
            assert np.sum(np.asarray(gradient) * direction) == expected


@pytest.mark.parametrize("mode", MODES)
def test_score_is_symmetric_to_the_last_bit(mode):
    unit = random_unit(32)
    x, y = unit_rows(50, 32), unit_rows(50, 32, seed=1)
    score = in_mode(lambda x, y: unit([x, y]), mode, unit)
    np.testing.assert_array_equal(score(x, y), score(y, x))
    matrix = np.asarray(in_mode(lambda x: unit.pairwise(x, block_size=64), mode, unit)(x))
    np.testing.assert_array_equal(matrix, matrix.T)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_pairwise_equals_naive_loops(mode, n):
    unit = random_unit()
    x, y = unit_rows(n, 5), unit_rows(3, 5, seed=1)

    def matrices(x, y):
        return unit.pairwise(x, block_size=4), unit.pairwise(x, y, block_size=4)

    own, other = in_mode(matrices, mode, unit)(x, y)
    np.testing.assert_allclose(own, naive_matrix(unit, x, x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(other, naive_matrix(unit, x, y), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("block_size", [1, 30, 1024])
def test_block_size_does_not_matter(block_size):
    unit = random_unit()
    x, y = unit_rows(6, 5), unit_rows(5, 5, seed=1)
    np.testing.assert_allclose(unit.pairwise(x, block_size=block_size), naive_matrix(unit, x, x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        unit.pairwise(x, y, block_size=block_size), naive_matrix(unit, x, y), rtol=1e-4, atol=1e-5
    )


@tensorflow_only("batches of unknown size")
def test_pairwise_takes_batches_of_unknown_size():
    unit = random_unit()
    rows = tf.TensorSpec((None, 5))
    own = tf.function(lambda x: unit.pairwise(x, block_size=4), input_signature=[rows], autograph=False)
    both = tf.function(lambda x, y: unit.pairwise(x, y, block_size=4), input_signature=[rows, rows], autograph=False)
    y = unit_rows(3, 5, seed=1)
    for n in (1, 4, 7):
        x = unit_rows(n, 5)
        np.testing.assert_allclose(own(x), naive_matrix(unit, x, x), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(both(x, y), naive_matrix(unit, x, y), rtol=1e-4, atol=1e-5)


def test_pairwise_of_nothing():
    unit = random_unit()
    assert unit.pairwise(np.zeros((0, 5), "float32")).shape == (0, 0)
    assert unit.pairwise(np.zeros((0, 5), "float32"), unit_rows(2, 5)).shape == (0, 2)


@pytest.mark.parametrize("mode", MODES)
def test_gradient_of_pairwise_equals_that_of_calls(mode):
    unit = random_unit()
    x = unit_rows(5, 5)
    first, second = np.repeat(np.arange(5), 5), np.tile(np.arange(5), 5)

    def by_blocks(x):
        return value_and_gradients(lambda x: ops.sum(unit.pairwise(x, block_size=4) ** 2), [x], unit)[1]

    def by_calls(x):
        return ops.sum(unit([ops.take(x, first, axis=0), ops.take(x, second, axis=0)]) ** 2)

    _, expected = value_and_gradients(by_calls, [x], unit)
    for ours, theirs in zip(in_mode(by_blocks, mode, unit)(x), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["eager", pytest.param("graph", marks=tensorflow_only("a look into the graph"))])
def test_memory_does_not_hold_all_pairs(mode):
    # No operation of the program may make a tensor with a row per pair: 40 x 40 pairs of width 8, blocks of 32.
    unit = random_unit(8)
    if mode == "eager":
        sizes = []
        score = unit._score
        unit._score = lambda *args, **kwargs: sizes.append(args[0].shape[0]) or score(*args, **kwargs)
        unit.pairwise(unit_rows(40, 8), block_size=32)
        assert set(sizes) == {32}
        return
    concrete = tf.function(lambda x: unit.pairwise(x, block_size=32), autograph=False).get_concrete_function(
        tf.TensorSpec((40, 8))
    )
    graphs = [concrete.graph, *[f.graph for f in concrete.graph._functions.values() if hasattr(f, "graph")]]
    shapes = [out.shape for graph in graphs for op in graph.get_operations() for out in op.outputs]
    assert tf.TensorShape((32, 8)) in shapes
    # The largest is the matrix of the scores itself.
    assert max(shape.num_elements() or 0 for shape in shapes if shape.rank is not None) == 40 * 40


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dead", ["difference", "mean", "both"])
def test_all_zero_hidden_layer_gives_finite_value_and_gradient(mode, dead):
    unit = random_unit()
    values = unit.get_weights()
    for position in {"difference": [1], "mean": [3], "both": [1, 3]}[dead]:
        values[position] = np.full_like(values[position], -50.0)
    unit.set_weights(values)
    x = unit_rows(4, 5)

    def step(x):
        def square(x):
            scores = unit([x, x[::-1]])
            return ops.sum(scores**2), scores

        (_, scores), gradients = value_and_gradients(square, [x], unit)
        return scores, gradients

    scores, gradients = in_mode(step, mode, unit)(x)
    np.testing.assert_allclose(scores, np.diag(naive_matrix(unit, x, x[::-1])), rtol=1e-4, atol=1e-5)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_without_biases_the_distance_is_out_of_sight():
    # What the docstring says of the initial weights: pairs with one mean and one direction, near and far.
    unit = PDDMUnit()
    mean, direction = unit_rows(1, 5), unit_rows(1, 5, seed=1)
    near, far = (unit([mean + t * direction, mean - t * direction]) for t in (0.01, 1.0))
    np.testing.assert_allclose(near, far, rtol=1e-4)
    unit.difference_bias.assign(np.ones(5))
    near, far = (unit([mean + t * direction, mean - t * direction]) for t in (0.01, 1.0))
    assert np.abs(near - far) > 1e-3


def test_duplicates_and_zero_vectors_give_finite_gradients_without_biases():
    # |x - x| = 0 and no bias: u' is exactly zero, and so is everything for a pair of zero vectors.
    unit = PDDMUnit()
    x = np.concatenate([unit_rows(2, 5), np.zeros((1, 5), "float32")])
    unit.build([(None, 5)] * 2)

    def total(x):
        scores = unit([x, x])
        return ops.sum(scores), scores

    (_, scores), gradients = value_and_gradients(total, [x], unit)
    assert np.isfinite(scores).all()
    assert scores[2] == 0
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16"])
def test_low_precision_stays_near_float32(policy):
    exact, low = random_unit(16), random_unit(16, dtype=policy)
    x = unit_rows(12, 16)
    # Far below what float16 can square (6e-8 is its smallest number).
    for unit in (exact, low):
        values = unit.get_weights()
        values[0], values[1] = values[0] * 1e-3, values[1] * 1e-3
        unit.set_weights(values)
    reference = np.asarray(exact.pairwise(x))
    tolerance = 0.03 if "bfloat16" in policy else 0.005
    for scores in (low.pairwise(x), ops.reshape(low([np.repeat(x, 12, 0), np.tile(x, (12, 1))]), (12, 12))):
        assert scores.dtype == "float32"
        assert np.abs(scores - reference).max() < tolerance * np.abs(reference).max()


def test_half_precision_gradients_are_finite():
    unit = random_unit(16, dtype="mixed_float16")

    def total(x):
        return ops.sum(unit([x, ops.concatenate([x[:3], x[:3]])]))  # three pairs of duplicates

    _, gradients = value_and_gradients(total, [unit_rows(6, 16)], unit)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_dropout_acts_in_training_alone():
    unit = random_unit(32, dropout=0.5, seed=3)
    x, y = unit_rows(20, 32), unit_rows(20, 32, seed=1)
    still = unit([x, y], training=False)
    np.testing.assert_array_equal(still, unit([x, y]))
    dropped = unit([x, y], training=True)
    assert np.abs(dropped - still).max() > 1e-3
    assert np.abs(unit([x, y], training=True) - dropped).max() > 1e-3
    np.testing.assert_allclose(np.diag(unit.pairwise(x, y)), still, rtol=1e-4, atol=1e-5)


def test_kernels_of_one_shape_start_unequal():
    unit = PDDMUnit()
    unit.build([(None, 6), (None, 6)])
    assert not np.allclose(unit.difference_kernel, unit.mean_kernel)


def test_rerank_sorts_by_score():
    unit = random_unit()
    queries, gallery = unit_rows(4, 5), unit_rows(9, 5, seed=1)
    shortlist = np.stack([np.random.default_rng(i).permutation(9)[:6] for i in range(4)])
    scores, order = unit.rerank(queries, gallery[shortlist])
    expected = np.take_along_axis(naive_matrix(unit, queries, gallery), shortlist, axis=1)
    np.testing.assert_array_equal(order, np.argsort(-expected, axis=1))
    np.testing.assert_allclose(scores, -np.sort(-expected, axis=1), rtol=1e-4, atol=1e-5)
    assert order.dtype == "int32"


def test_shared_check(tmp_path):
    shapes = {
        "difference_kernel": (5, 7),
        "difference_bias": (7,),
        "mean_kernel": (5, 7),
        "mean_bias": (7,),
        "combined_kernel": (14, 7),
        "combined_bias": (7,),
        "score_kernel": (7, 1),
        "score_bias": (1,),
    }
    check_layer(
        PDDMUnit,
        {"units": 7, "dropout": 0.25, "epsilon": 1e-4, "seed": 5},
        [unit_rows(4, 5), unit_rows(4, 5, seed=1)],
        {name: (shape, "float32") for name, shape in shapes.items()},
        8,
        [(4,)],
        ["float32"],
        tmp_path,
        # Scaled down: at the initial loss scale of 2**15 float16 has no room for gradients above 2.
        call=lambda unit, pair: unit(list(pair)) * 0.1,
    )


def test_saved_model_gives_the_same_scores(tmp_path):
    first, second = keras.Input((5,)), keras.Input((5,))
    unit = random_unit()
    model = keras.Model([first, second], unit([first, second]))
    x, y = unit_rows(6, 5), unit_rows(6, 5, seed=1)
    model.save(tmp_path / "similarity.keras")
    restored = keras.saving.load_model(tmp_path / "similarity.keras")
    np.testing.assert_array_equal(restored([x, y]), unit([x, y]))
    restored_unit = next(layer for layer in restored.layers if isinstance(layer, PDDMUnit))
    np.testing.assert_array_equal(restored_unit.pairwise(x), unit.pairwise(x))


@pytest.mark.parametrize(
    ("kwargs", "name"),
    [
        ({"units": 0}, "units"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": -0.1}, "dropout"),
        ({"epsilon": 0}, "epsilon"),
    ],
)
def test_wrong_arguments_are_refused(kwargs, name):
    with pytest.raises(ValueError, match=f"`{name}` must .*Received: {name}="):
        PDDMUnit(**kwargs)


def test_wrong_inputs_are_refused():
    with pytest.raises(ValueError, match="same, known last dimension"):
        PDDMUnit()([np.zeros((2, 3)), np.zeros((2, 4))])
    unit = random_unit()
    with pytest.raises(ValueError, match="list of two tensors"):
        unit(np.zeros((2, 5)))
    with pytest.raises(ValueError, match="`block_size` must be positive"):
        unit.pairwise(unit_rows(2, 5), block_size=0)
