import numpy as np
from loss_cases import multi_similarity
from loss_checks import Pairs, reference_gradient, value_and_gradients

from keras_dml import losses


def test_easy_pairs_are_left_out():
    # Three classes around three directions, one straggler each: most pairs are easy, some anchors keep none.
    generator = np.random.default_rng(2)
    labels = np.repeat(np.arange(3), 6)
    angles = labels * 2 * np.pi / 3 + generator.normal(scale=0.1, size=18)
    angles[::6] += 1.0
    x = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    pairs = Pairs(x.tolist(), labels.tolist())
    expected = multi_similarity(pairs, {})
    positives = sum(len(found) for found in pairs.positives)
    negatives = sum(len(found) for found in pairs.negatives)
    assert 0 < pairs.usage.sum() < 0.5 * (positives + negatives)
    value, gradient, _, usage = value_and_gradients(losses.MultiSimilarityLoss(), labels, x)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    np.testing.assert_array_equal(usage, pairs.usage)
    numeric = reference_gradient(lambda v: multi_similarity(Pairs(v.tolist(), labels.tolist()), {}), x)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-3, atol=1e-5)
