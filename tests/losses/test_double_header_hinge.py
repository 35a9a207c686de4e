import json

import backends
import keras
import numpy as np
import pytest
from backends import tensor, tensorflow_only
from keras import ops

from keras_dml import MetricLearner
from keras_dml.layers import DASAugmentation, PDDMUnit
from keras_dml.losses import DoubleHeaderHinge, EmbeddingBatch
from keras_dml.mining import hard_quadruplets

if backends.TENSORFLOW:
    import tensorflow as tf


def random_unit(d=5, seed=0, dtype="float64", **kwargs):
    unit = PDDMUnit(dtype=dtype, **kwargs)
    unit.build([(None, d), (None, d)])
    random = np.random.default_rng(seed)
    unit.set_weights([random.normal(scale=0.6, size=weight.shape) for weight in unit.weights])
    return unit


def rows(n, d=5, seed=0):
    # Not normalized: that is the loss's business.
    return np.random.default_rng(seed).normal(size=(n, d))


def naive_score(weights, x_i, x_j):
    w_u, b_u, w_v, b_v, w_c, b_c, w_s, b_s = weights
    hidden = []
    for kernel, bias, x in ((w_u, b_u, np.abs(x_i - x_j)), (w_v, b_v, (x_i + x_j) / 2)):
        out = np.maximum(x @ kernel + bias, 0)
        norm = np.linalg.norm(out)
        hidden.append(out / norm if norm > 0 else out)
    return float((np.maximum(np.concatenate(hidden) @ w_c + b_c, 0) @ w_s + b_s)[0])


def naive_loss(weights, labels, embeddings, alpha=0.5, beta=1.0, weight=0.5, mining="pair", triplets=False):
    """The loss by loops; returns the loss and the number of times each row was a positive or a negative."""
    x = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    n = len(x)

    def s(i, j):
        return naive_score(weights, x[i], x[j])

    def d(i, j):
        return float(np.sum((x[i] - x[j]) ** 2))

    quadruplets = []
    for i in range(n):
        positives = [j for j in range(n) if labels[j] == labels[i] and j != i]
        negatives = [j for j in range(n) if labels[j] != labels[i]]
        if positives and negatives:
            j = min(positives, key=lambda j: (j - i) % n if mining == "pair" else s(i, j))
            k = max(negatives, key=lambda k: s(i, k))
            quadruplets.append((i, j, k, max(negatives, key=lambda l: s(j, l))))  # noqa: E741
    if mining == "batch" and quadruplets:
        quadruplets = [min(quadruplets, key=lambda each: s(each[0], each[1]))]
    total, used = 0.0, np.zeros(n)
    for i, j, k, l in quadruplets:  # noqa: E741
        e_m = max(0.0, alpha - s(i, j) + s(i, k))
        e_e = max(0.0, beta + d(i, j) - d(i, k))
        if not triplets:
            e_m += max(0.0, alpha - s(i, j) + s(j, l))
            e_e += max(0.0, beta + d(i, j) - d(j, l))
        total += e_m + weight * e_e
        if e_m + weight * e_e > 0:
            for row in (j, k) if triplets else (j, k, l):
                used[row] += 1
    return (total / len(quadruplets) if quadruplets else 0.0), used


LABELS = np.array([0, 0, 1, 1, 1, 2, 0, 3])


@pytest.mark.parametrize("mode", [mode for mode in backends.MODES if mode != "eager"])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"mining": "anchor"},
        {"mining": "batch"},
        {"mining": "batch", "triplets": True},
        {"triplets": True, "alpha": 0.1, "beta": 0.2, "weight": 2.0},
        {"alpha": 0.0, "beta": 0.0},
    ],
)
def test_value_and_usage_equal_naive_loops(mode, arguments):
    unit = random_unit(dtype="float32")
    loss = DoubleHeaderHinge(**arguments)

    def compute(labels, x):
        return loss.compute(EmbeddingBatch.create(labels, x, pair_scorer=unit))[:2]

    x = rows(8).astype("float32")
    loss.build((None,), (None, 5))
    value, usage = backends.in_mode(compute, mode, loss, unit)(tensor(LABELS), tensor(x))
    expected, used = naive_loss([np.asarray(w, "float64") for w in unit.get_weights()], LABELS, x, **arguments)
    assert float(value) == pytest.approx(expected, rel=1e-4)
    np.testing.assert_array_equal(usage, used)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("arguments", [{}, {"mining": "anchor"}, {"mining": "batch"}, {"triplets": True}])
def test_gradients_equal_finite_differences_of_naive_loops(arguments):
    unit = random_unit()
    loss = DoubleHeaderHinge(dtype="float64", **arguments)
    x, weights = rows(8), unit.get_weights()
    _, gradients = gradients_of(loss, unit, LABELS, x)
    # The score bias cancels in a difference of scores.
    np.testing.assert_allclose(gradients.pop(), 0, atol=1e-12)
    arguments_of_naive = [x, *weights]
    random = np.random.default_rng(1)
    for position, gradient in enumerate(gradients):
        direction = random.normal(size=arguments_of_naive[position].shape)
        moved = []
        for sign in (1, -1):
            shifted = list(arguments_of_naive)
            shifted[position] = shifted[position] + sign * 1e-6 * direction
            moved.append(naive_loss(shifted[1:], LABELS, shifted[0], **arguments)[0])
        slope = (moved[0] - moved[1]) / 2e-6
        assert np.sum(np.asarray(gradient) * direction) == pytest.approx(slope, rel=1e-4, abs=1e-7)
        assert slope != 0


def gradients_of(loss, unit, labels, x):
    return backends.value_and_gradients(lambda x: loss(labels, x, pair_scorer=unit), [x], unit)


@pytest.mark.parametrize("mining", ["pair", "anchor", "batch"])
@pytest.mark.parametrize("labels", [np.arange(6), np.zeros(6, int)], ids=["no positive pair", "one class"])
def test_without_a_quadruplet_the_loss_is_zero(mining, labels):
    value, gradients = gradients_of(DoubleHeaderHinge(mining=mining), random_unit(dtype="float32"), labels, rows(6))
    assert value == 0
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("mining", ["pair", "anchor", "batch"])
@pytest.mark.parametrize("kind", ["zeros", "all equal", "duplicates"])
def test_degenerate_embeddings_give_finite_gradients(mining, kind):
    x = {"zeros": np.zeros((6, 5)), "all equal": np.ones((6, 5)), "duplicates": np.repeat(rows(3), 2, axis=0)}[kind]
    unit = PDDMUnit()
    unit.build([(None, 5)] * 2)
    value, gradients = gradients_of(DoubleHeaderHinge(mining=mining), unit, np.array([0, 0, 1, 1, 2, 2]), x)
    assert np.isfinite(value)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_embeddings(dtype):
    unit = random_unit(dtype="mixed_" + dtype)
    x = ops.cast(rows(8), dtype)
    value = DoubleHeaderHinge()(LABELS, x, pair_scorer=unit)
    assert value.dtype == "float32"
    exact = random_unit(dtype="float32")
    assert float(value) == pytest.approx(float(DoubleHeaderHinge()(LABELS, x, pair_scorer=exact)), rel=0.03)


@pytest.mark.usefixtures("double_precision")
def test_mining_carries_no_gradient():
    # A unit whose `pairwise` has another gradient than its call: only the call's may show.
    unit = random_unit()

    class Watched:
        def __call__(self, pairs, training=None):
            return unit(pairs)

        def pairwise(self, x, y=None, block_size=None):
            return unit.pairwise(x) * 3 + ops.sum(x) * 10

    loss = DoubleHeaderHinge(dtype="float64")
    _, expected = gradients_of(loss, unit, LABELS, rows(8))
    _, (gradient,) = backends.value_and_gradients(lambda x: loss(LABELS, x, pair_scorer=Watched()), [rows(8)])
    np.testing.assert_allclose(gradient, expected[0])


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("mining", ["pair", "anchor", "batch"])
def test_keys_and_empty_slots(mining):
    unit = random_unit()
    x, keys = rows(6), rows(9, seed=1)
    labels, key_labels = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 2, 0, 1, 2, 0, 1, 2])
    ids, key_ids = np.arange(6), np.array([0, 2, 4, 11, 12, 13, -1, -1, -1])
    loss = DoubleHeaderHinge(dtype="float64", mining=mining)
    value, usage, *_ = loss.compute(
        EmbeddingBatch.create(labels, x, keys=keys, key_labels=key_labels, ids=ids, key_ids=key_ids, pair_scorer=unit)
    )
    assert usage.shape == (9,)
    np.testing.assert_array_equal(usage[6:], 0)

    xs, ks = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, keys))
    weights = unit.get_weights()
    scores = np.array([[naive_score(weights, a, b) for b in ks] for a in xs])
    distances = ((xs[:, None] - ks[None]) ** 2).sum(-1)
    found = [np.asarray(f) for f in hard_quadruplets(scores, labels, key_labels, ids, key_ids, strategy=mining)]
    terms = []
    for i, j, k, l, valid in zip(*found, strict=True):  # noqa: E741
        assert valid
        terms.append(max(0, 0.5 - scores[i, j] + scores[i, k]) + max(0, 0.5 - scores[i, j] + scores[l, j]))
        terms[-1] += 0.5 * max(0, 1 + distances[i, j] - distances[i, k])
        terms[-1] += 0.5 * max(0, 1 + distances[i, j] - distances[l, j])
    assert float(value) == pytest.approx(np.mean(terms), rel=1e-6)


@pytest.mark.usefixtures("double_precision")
def test_statistics_tell_a_collapse():
    labels = np.array([0, 0, 1, 1, 2, 2])
    names = {"score_gap", "active_hinges", "embedding_spread"}
    unit = random_unit()
    loss = DoubleHeaderHinge(alpha=0.1, dtype="float64")
    x = rows(6, seed=5)
    value, usage, healthy, _ = loss.compute(EmbeddingBatch.create(labels, x, pair_scorer=unit))
    assert set(healthy) == names
    assert value == loss(labels, x, pair_scorer=unit)
    assert usage.shape == (6,)
    scores = np.asarray(unit.pairwise(x / np.linalg.norm(x, axis=1, keepdims=True)))
    same = labels[:, None] == labels[None]
    gap = scores[same & ~np.eye(6, dtype=bool)].mean() - scores[~same].mean()
    assert float(healthy["score_gap"]) == pytest.approx(gap, rel=1e-5)
    center = (x / np.linalg.norm(x, axis=1, keepdims=True)).mean(0)
    assert float(healthy["embedding_spread"]) == pytest.approx(1 - np.sum(center**2), rel=1e-5)
    active = []
    for i in range(6):
        j = i ^ 1
        for anchor in (i, j):
            active.append(0.1 - scores[i, j] + scores[anchor, labels != labels[anchor]].max() > 0)
    assert 0 < np.mean(active) < 1
    assert float(healthy["active_hinges"]) == pytest.approx(np.mean(active))

    collapsed = loss.compute(EmbeddingBatch.create(labels, np.ones((6, 5)), pair_scorer=unit)).statistics
    assert float(collapsed["score_gap"]) == pytest.approx(0, abs=1e-6)
    assert float(collapsed["active_hinges"]) == 1
    assert float(collapsed["embedding_spread"]) == pytest.approx(0, abs=1e-6)


@pytest.mark.usefixtures("double_precision")
def test_dropout_is_off_unless_training():
    unit = random_unit(dropout=0.5, seed=0)
    loss = DoubleHeaderHinge(dtype="float64")
    still = loss(LABELS, rows(8), pair_scorer=unit)
    assert still == loss(LABELS, rows(8), pair_scorer=unit, training=False)
    assert still != loss(LABELS, rows(8), pair_scorer=unit, training=True)


def test_config_round_trip():
    loss = DoubleHeaderHinge(
        0.25, 0.75, 2.0, mining="batch", triplets=True, block_size=64, loss_learning_rate=0.01, name="pddm"
    )
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(loss)))
    copy = keras.saving.deserialize_keras_object(config)
    assert isinstance(copy, DoubleHeaderHinge)
    assert copy.get_config() == loss.get_config()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": -1.0}, r"`alpha` must not be negative\. Received: alpha=-1.0"),
        ({"beta": -1.0}, r"`beta` must not be negative\. Received: beta=-1.0"),
        ({"weight": -1.0}, r"`weight` must not be negative\. Received: weight=-1.0"),
        ({"mining": "hard"}, r"`mining` must be one of batch, anchor, pair\. Received: mining='hard'"),
        ({"block_size": 0}, r"`block_size` must be positive\. Received: block_size=0"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DoubleHeaderHinge(**arguments)


def test_a_pair_scorer_is_asked_for():
    with pytest.raises(ValueError, match="DoubleHeaderHinge needs a `pair_scorer` layer"):
        DoubleHeaderHinge()(LABELS, rows(8))


def digits_model(augmentation=None):
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(16),
            keras.layers.UnitNormalization(),
        ]
    )
    model = MetricLearner(encoder, augmentation=augmentation, pair_scorer=PDDMUnit())
    model.compile(keras.optimizers.Adam(3e-3), loss="double_header_hinge")
    return model


def digits_batches(steps):
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images[..., None].astype("float32") / 16
    of_class = [np.flatnonzero(digits.target == label) for label in range(5)]
    random = np.random.default_rng(0)
    rows = np.concatenate([random.choice(of_class[label], 4) for _ in range(steps) for label in range(5)])
    return images[rows], digits.target[rows].astype("int32")


def test_learns_real_digits_from_scratch_without_collapse():
    images, labels = digits_batches(120)
    model = digits_model()

    def statistics():
        embeddings = model.encoder(images[:200], training=False)
        batch = EmbeddingBatch.create(labels[:200], embeddings, pair_scorer=model.pair_scorer)
        found = model.embedding_loss.compute(batch).statistics
        return {name: float(value) for name, value in found.items()}

    before = statistics()
    model.fit(images, labels, batch_size=20, shuffle=False, verbose=0)
    after = statistics()
    assert before["score_gap"] < 0.1
    assert after["score_gap"] > 0.5
    assert after["embedding_spread"] > 0.5
    assert after["active_hinges"] < before["active_hinges"]


def test_works_with_das():
    images, labels = digits_batches(4)
    model = digits_model(DASAugmentation(5, seed=0))
    history = model.fit(images, labels, batch_size=20, shuffle=False, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    # Three of four embeddings are produced, and mining must be able to pick them.
    assert 0.5 < history["produced_share"][0] < 0.95


@tensorflow_only("batches of unknown size")
@pytest.mark.parametrize("mining", ["pair", "anchor", "batch"])
def test_batches_of_unknown_size(mining):
    unit, loss = random_unit(dtype="float32"), DoubleHeaderHinge(mining=mining)
    compute = tf.function(
        lambda labels, x: loss.compute(EmbeddingBatch.create(labels, x, pair_scorer=unit))[:2],
        input_signature=[tf.TensorSpec((None,), "int32"), tf.TensorSpec((None, 5))],
        autograph=False,
    )
    for n in (8, 5):
        labels, x = LABELS[:n].astype("int32"), rows(n).astype("float32")
        value, usage = compute(labels, x)
        expected, expected_usage, *_ = loss.compute(EmbeddingBatch.create(labels, x, pair_scorer=unit))
        assert float(value) == pytest.approx(float(expected), rel=1e-5)
        np.testing.assert_array_equal(usage, expected_usage)
