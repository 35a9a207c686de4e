import itertools

import numpy as np
import pytest

from keras_dml.evaluation import embedding_geometry


def naive(vectors, labels):
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    classes = sorted(set(labels))
    intra, centers = [], []
    for label in classes:
        members = [v for v, own in zip(vectors, labels, strict=True) if own == label]
        pairs = [1 - a @ b for a, b in itertools.combinations(members, 2)]
        if pairs:
            intra.append(np.mean(pairs))
        center = np.mean(members, axis=0)
        centers.append(center / np.linalg.norm(center))
    inter = np.mean([1 - a @ b for a, b in itertools.combinations(centers, 2)])
    return np.mean(intra), inter


def test_distances_agree_with_loops():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, 50)
    labels[0] = 17  # a class with one item
    vectors = rng.standard_normal((50, 8)) + 1
    result = embedding_geometry(vectors, labels)
    intra, inter = naive(vectors, labels)
    assert result.intra_class_distance == pytest.approx(intra)
    assert result.inter_class_distance == pytest.approx(inter)
    assert result.intra_over_inter == pytest.approx(intra / inter)


def test_squared_euclidean_distances_without_normalization():
    vectors = np.array([[0, 0], [3, 4], [10, 0], [10, 2]])
    result = embedding_geometry(vectors, [0, 0, 1, 1], normalize=False)
    assert result.intra_class_distance == pytest.approx((25 + 4) / 2)
    assert result.inter_class_distance == pytest.approx((10 - 1.5) ** 2 + (1 - 2) ** 2)


def test_spectral_decay_agrees_with_the_definition():
    vectors = np.random.default_rng(1).standard_normal((70, 6)) * [5, 4, 3, 2, 1, 0.5]
    result = embedding_geometry(vectors, np.arange(70) % 3, normalize=False)
    spectrum = np.linalg.svd(vectors, compute_uv=False)
    for values, decay in ((spectrum, result.spectral_decay), (spectrum[1:], result.spectral_decay_without_first)):
        share = values / values.sum()
        expected = sum((1 / len(share)) * np.log((1 / len(share)) / s) for s in share)
        assert decay == pytest.approx(expected)


def test_spectral_decay_of_an_even_and_of_a_flat_embedding():
    even = embedding_geometry(np.concatenate([np.eye(4), -np.eye(4)]), np.arange(8) % 4)
    assert even.spectral_decay == pytest.approx(0, abs=1e-12)
    flat = embedding_geometry(np.random.default_rng(2).standard_normal((20, 4)) * [1, 1, 1, 0], np.arange(20) % 2)
    assert np.isinf(flat.spectral_decay)


def test_degenerate_sets():
    assert np.isnan(embedding_geometry(np.eye(3), [0, 0, 0]).inter_class_distance)
    assert np.isnan(embedding_geometry(np.eye(3), [0, 1, 2]).intra_class_distance)
    with pytest.raises(ValueError, match="equally many"):
        embedding_geometry(np.eye(3), [0, 1])
