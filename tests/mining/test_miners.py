import json

import backends
import keras
import numpy as np
import pytest
from backends import tensor
from scipy import stats

from keras_dml import mining

DRAWS = 20000


def unit(count, dim, seed=0):
    x = np.random.default_rng(seed).normal(size=(count, dim))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def distances_of(x):
    return np.sqrt(np.maximum(((x[:, None] - x[None]) ** 2).sum(-1), 0.0))


def masks(labels):
    same = labels[:, None] == labels[None]
    return same & ~np.eye(len(labels), dtype=bool), ~same


def repeated(miner, distances, positives, negatives, anchor, jit=False, **arguments):
    """Counts of the positives and negatives drawn for one anchor, many times at once, each pair with each other."""

    run = backends.compiled(lambda d, p, n: miner(d, p, n, **arguments), jit, miner)
    rows = [np.repeat(matrix[anchor : anchor + 1], DRAWS, axis=0) for matrix in (distances, positives, negatives)]
    found = run(tensor(rows[0], "float32"), rows[1], rows[2])
    assert np.asarray(found.valid).all()
    pairs = np.zeros((distances.shape[1], distances.shape[1]))
    np.add.at(pairs, (np.asarray(found.positive), np.asarray(found.negative)), 1)
    return pairs


def assert_follows(counts, probabilities):
    """Chi-squared test of counts; entries of probability 0 must never be drawn."""
    counts, probabilities = np.ravel(counts), np.ravel(probabilities)
    assert counts[probabilities == 0].sum() == 0
    # Entries too rare for the chi-squared approximation count together.
    expected = probabilities * counts.sum()
    rare = expected < 5
    observed = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    observed, expected = observed[expected > 1e-9], expected[expected > 1e-9]
    if len(expected) > 1:
        assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-4


def uniform(mask):
    return mask / mask.sum()


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(
    ("dim", "near", "far", "count"), [(3, 0.1, 1.99, 20), (8, 0.3, 1.9, 20), (16, 0.7, 1.85, 90), (512, 1.3, 1.55, 90)]
)
def test_distance_weighted_follows_its_formula(dim, near, far, count, jit):
    # Ranges over which the law varies, but not so much that one entry has all the weight.
    distances = np.random.default_rng(1).uniform(near, far, (count, count)).astype("float32").astype("float64")
    positives, negatives = masks(np.arange(count) % 4)
    miner = mining.DistanceWeightedMiner(seed=3)
    counts = repeated(miner, distances, positives, negatives, 2, jit=jit, embedding_dim=dim)
    clamped = np.maximum(distances[2], 0.5)
    logs = (2.0 - dim) * np.log(clamped) - (dim - 3) / 2 * np.log(1 - clamped**2 / 4)
    weights = np.where(negatives[2], np.exp(logs - logs[negatives[2]].max()), 0.0)
    assert_follows(counts.sum(axis=0), weights / weights.sum())
    assert_follows(counts.sum(axis=1), uniform(positives[2]))


def test_distance_weighted_in_high_dimensions_and_at_the_limits():
    """log q^-1 spans thousands in 512 dimensions; distances of 0 and of 2 must not break it."""
    miner = mining.DistanceWeightedMiner(seed=3)
    distances = np.array([[0.0, 0.1, 0.0, 0.45, 0.6, 1.4142135, 2.0, 2.0000002]])
    positives, negatives = np.zeros((1, 8), bool), np.ones((1, 8), bool)
    positives[0, 1], negatives[0, :2] = True, False
    counts = repeated(miner, distances, positives, negatives, 0, embedding_dim=512).sum(axis=0)
    assert counts[6:].sum() == DRAWS  # log q^-1 is 3154 at the far end, 337 at the near
    near = mining.DistanceWeightedMiner(upper_cutoff=1.4, seed=3)
    counts = repeated(near, distances, positives, negatives, 0, embedding_dim=512).sum(axis=0)
    assert_follows(counts, np.array([0, 0, 0.5, 0.5, 0, 0, 0, 0]))
    negatives[0, :6] = False
    counts = repeated(near, distances, positives, negatives, 0, embedding_dim=512).sum(axis=0)
    assert_follows(counts, np.array([0, 0, 0, 0, 0, 0, 0.5, 0.5]))  # none is near: the limit gives way
    # Tiny, but allowed: every weight but the greatest underflows, and the greatest is drawn.
    only = np.zeros((1, 8), bool)
    only[0, 5] = True
    counts = repeated(miner, distances, positives, only, 0, embedding_dim=512).sum(axis=0)
    assert counts[5] == DRAWS


@pytest.mark.parametrize("jit", [False, True])
def test_random_is_uniform_and_draws_are_independent(jit):
    labels = np.arange(40) % 5
    positives, negatives = masks(labels)
    counts = repeated(mining.RandomMiner(seed=1), distances_of(unit(40, 3)), positives, negatives, 7, jit=jit)
    assert_follows(counts, uniform(np.outer(positives[7], negatives[7]).astype(float)))


def test_semi_hard_draws_from_the_band_of_its_positive():
    distances = np.array([[0.0, 0.3, 0.7, 1.5, 0.2, 0.45, 0.49, 0.5, 0.75, 0.89, 0.95]])
    positives = np.array([[False] + [True] * 3 + [False] * 7])
    negatives = np.array([[False] * 4 + [True] * 7])
    counts = repeated(mining.SemiHardMiner(seed=1), distances, positives, negatives, 0)
    expected = np.zeros((11, 11))
    expected[1, [5, 6]] = 1 / 3 / 2  # between .3 and .5: .45 and .49, not .5
    expected[2, [8, 9]] = 1 / 3 / 2  # between .7 and .9
    expected[3, 4:] = 1 / 3 / 7  # none between 1.5 and 1.7: any
    # .3 + .2 may round above .5: what lies within rounding of the border is free.
    counts[1, 6] += counts[1, 7] if np.float32(0.5) < np.float32(0.3) + np.float32(0.2) else 0
    counts[1, 7] = 0 if np.float32(0.5) < np.float32(0.3) + np.float32(0.2) else counts[1, 7]
    assert_follows(counts, expected)


def test_soft_hard_draws_hard_pairs_and_falls_back():
    distances = np.array([[0.0, 0.3, 0.7, 0.8, 0.5, 0.6, 0.8, 1.0], [0.0, 0.1, 0.2, 0.3, 0.5, 0.6, 0.8, 1.0]])
    positives = np.array([[False] + [True] * 3 + [False] * 4] * 2)
    negatives = np.array([[False] * 4 + [True] * 4] * 2)
    hard = repeated(mining.SoftHardMiner(seed=1), distances, positives, negatives, 0)
    expected = np.zeros((8, 8))
    expected[np.ix_([2, 3], [4, 5])] = 1 / 4  # positives beyond .5, negatives within .8
    assert_follows(hard, expected)
    easy = repeated(mining.SoftHardMiner(seed=1), distances, positives, negatives, 1)
    expected = np.zeros((8, 8))
    expected[np.ix_([1, 2, 3], [4, 5, 6, 7])] = 1 / 12
    assert_follows(easy, expected)


@pytest.mark.parametrize("jit", [None, False, True])
@pytest.mark.parametrize("name", mining.names())
def test_what_is_drawn_is_allowed_and_validity_is_told(name, jit):
    # A class of one, and sizes that are no multiple of a block.
    labels = np.array([0] * 30 + [1] * 20 + [2] + [3] * 26)
    x = unit(77, 16)
    x[:10] = x[0]
    positives, negatives = masks(labels)
    miner = mining.get(name)

    def run(d, p, n):
        return miner(d, p, n, embedding_dim=16)

    if jit is not None:
        run = backends.compiled(run, jit, miner)
    inputs = [tensor(distances_of(x), "float32"), tensor(positives), tensor(negatives)]
    for _ in range(5):
        found = run(*inputs)
        np.testing.assert_array_equal(found.anchor, np.arange(77))
        np.testing.assert_array_equal(found.valid, labels != 2)
        rows = np.flatnonzero(found.valid)
        positive, negative = np.asarray(found.positive), np.asarray(found.negative)
        assert positives[rows, positive[rows]].all()
        assert negatives[rows, negative[rows]].all()
        assert 0 <= negative.min() <= negative.max() < 77
    one_class = run(inputs[0], tensor(~np.eye(77, dtype=bool)), tensor(np.zeros((77, 77), bool)))
    assert not np.any(one_class.valid)


@pytest.mark.parametrize("name", mining.names())
def test_queries_and_keys_may_differ_in_number(name):
    distances = np.random.default_rng(0).uniform(0.1, 1.9, (5, 100)).astype("float32")
    positives = np.zeros((5, 100), bool)
    positives[:, 60:64] = True
    negatives = np.zeros((5, 100), bool)
    negatives[:, 97:] = True
    found = mining.get(name)(distances, positives, negatives, embedding_dim=4)
    assert found.anchor.shape == found.positive.shape == found.negative.shape == found.valid.shape == (5,)
    assert set(np.asarray(found.positive)) <= set(range(60, 64))
    assert set(np.asarray(found.negative)) <= set(range(97, 100))


@pytest.mark.parametrize("name", mining.names())
def test_seeds_repeat(name):
    labels = np.arange(40) % 4
    positives, negatives = masks(labels)
    distances = tensor(distances_of(unit(40, 8)), "float32")
    first, second = (type(mining.get(name))(seed=5) for _ in range(2))
    draws = [[s(distances, positives, negatives, embedding_dim=8) for _ in range(3)] for s in (first, second)]
    for a, b in zip(*draws, strict=True):
        np.testing.assert_array_equal(a.negative, b.negative)
        np.testing.assert_array_equal(a.positive, b.positive)
    assert np.any(draws[0][0].negative != draws[0][1].negative)
    # Row numbers, through which no gradient can flow.
    assert [rows.dtype for rows in draws[0][0][:3]] == ["int32"] * 3


@pytest.mark.parametrize("name", mining.names())
def test_config_and_state_survive(name, tmp_path):
    miner = type(mining.get(name))(seed=7)
    restored = mining.get(json.loads(json.dumps(keras.saving.serialize_keras_object(miner))))
    assert type(restored) is type(miner)
    assert restored.seed == 7
    assert restored.get_config() == miner.get_config()
    positives, negatives = masks(np.arange(40) % 4)
    arguments = (distances_of(unit(40, 8)).astype("float32"), positives, negatives)
    miner(*arguments, embedding_dim=8)

    def held(layer):
        model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1)])
        model.held = layer
        return model

    held(miner).save_weights(tmp_path / "a.weights.h5")
    held(restored).load_weights(tmp_path / "a.weights.h5")
    # It goes on where the saved one stood, rather than at its seed.
    np.testing.assert_array_equal(
        restored(*arguments, embedding_dim=8).negative, miner(*arguments, embedding_dim=8).negative
    )


def test_errors():
    with pytest.raises(ValueError, match=r"'distance_weighted'.*Known: distance_weighted, random"):
        mining.get("distance-weighted")
    with pytest.raises(ValueError, match="A miner must be a name"):
        mining.get(3)
    with pytest.raises(ValueError, match="embedding_dim"):
        mining.get("distance_weighted")(np.eye(3, dtype="float32"), np.eye(3) > 0, np.eye(3) < 1)
    with pytest.raises(ValueError, match="`negatives` must have the shape"):
        mining.get("random")(np.eye(3, dtype="float32"), np.eye(3) > 0, np.eye(2) < 1)
    with pytest.raises(ValueError, match="`lower_cutoff`"):
        mining.DistanceWeightedMiner(lower_cutoff=0.0)
    with pytest.raises(ValueError, match="`upper_cutoff`"):
        mining.DistanceWeightedMiner(upper_cutoff=0.1)
    with pytest.raises(ValueError, match="`margin`"):
        mining.SemiHardMiner(margin=0.0)
