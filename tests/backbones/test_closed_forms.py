"""Closed-form embeddings against loops, and on features that leave them little to work with."""

import math

import numpy as np
import pytest

from keras_dml.backbones.closed_forms import pca, within_class_whitening


@pytest.fixture
def features():
    random = np.random.default_rng(0)
    return random.normal(size=(40, 5)) @ random.normal(size=(5, 5)) + 3.0, np.repeat(np.arange(8), 5)


def covariance(rows, centers):
    size = len(rows[0])
    found = [[0.0] * size for _ in range(size)]
    for row, center in zip(rows, centers, strict=True):
        for i in range(size):
            for j in range(size):
                found[i][j] += (row[i] - center[i]) * (row[j] - center[j]) / len(rows)
    return np.array(found)


def test_principal_components_are_those_of_the_covariance(features):
    rows, _ = features
    kernel, bias = pca(rows, 3)
    found = rows @ kernel + bias
    expected = covariance(rows, [rows.mean(axis=0)] * len(rows))
    values = sorted(np.linalg.eigvalsh(expected))[::-1][:3]
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(covariance(found, [[0.0] * 3] * 40), np.diag(values), atol=1e-4)
    np.testing.assert_allclose(kernel.T @ kernel, np.eye(3), atol=1e-6)


@pytest.mark.parametrize("shrinkage", [0.0, 0.3, 1.0])
def test_whitening_makes_the_scatter_within_classes_a_sphere(features, shrinkage):
    rows, labels = features
    kernel, bias = within_class_whitening(rows, labels, 5, shrinkage)
    means = [rows[labels == label].mean(axis=0) for label in labels]
    within = covariance(rows, means)
    shrunk = (1 - shrinkage) * within + shrinkage * np.trace(within) / 5 * np.eye(5)
    np.testing.assert_allclose(kernel.T @ shrunk @ kernel, np.eye(5), atol=1e-4)
    # Components in the order of their variance, around 0.
    found = rows @ kernel + bias
    variances = np.diag(covariance(found, [[0.0] * 5] * 40))
    assert list(variances) == sorted(variances, reverse=True)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-4)


def test_full_shrinkage_keeps_all_distances_but_for_their_unit(features):
    rows, labels = features
    kernel, _ = within_class_whitening(rows, labels, 5, 1.0)
    scale = math.sqrt(np.trace(covariance(rows, [rows[labels == label].mean(axis=0) for label in labels])) / 5)
    np.testing.assert_allclose(kernel @ kernel.T, np.eye(5) / scale**2, atol=1e-5)


@pytest.mark.parametrize("form", [pca, lambda x, dim: within_class_whitening(x, np.arange(len(x)) // 2, dim, 0.1)])
def test_few_or_equal_features(form):
    random = np.random.default_rng(1)
    few = random.normal(size=(4, 9))
    kernel, bias = form(few, 6)
    assert kernel.shape == (9, 6)
    assert np.isfinite(few @ kernel + bias).all()
    # Four points span three directions at most.
    assert np.linalg.matrix_rank(few @ kernel + bias, tol=1e-3) <= 3
    for rows in (np.ones((6, 3)), np.zeros((6, 3)), np.repeat(random.normal(size=(3, 3)), 2, axis=0)):
        kernel, bias = form(rows, 2)
        assert np.isfinite(kernel).all()
        assert np.isfinite(rows @ kernel + bias).all()
        assert np.abs(rows @ kernel + bias).max() < 1e4


def test_one_image_per_class_is_not_whitened(features):
    rows, _ = features
    found, expected = within_class_whitening(rows, np.arange(40), 3, 0.5), pca(rows, 3)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_wrong_arguments(features):
    rows, labels = features
    with pytest.raises(ValueError, match=r"`\(n, d\)`. Received: shape \(5,\)"):
        pca(rows[0], 2)
    with pytest.raises(ValueError, match="finite"):
        pca(rows * np.nan, 2)
    with pytest.raises(ValueError, match="40 and 3"):
        within_class_whitening(rows, labels[:3], 2, 0.1)
    with pytest.raises(ValueError, match="shrinkage=2"):
        within_class_whitening(rows, labels, 2, 2)


@pytest.mark.parametrize("value", [0.1, 0.0, -3e4])
def test_what_rounding_leaves_of_equal_features_is_no_direction(value):
    rows, labels = np.full((40, 6), value), np.arange(40) % 5
    for kernel, bias in (pca(rows, 3), within_class_whitening(rows, labels, 3, 0.2)):
        assert not kernel.any()
        assert not bias.any()


def test_copies_of_an_image_are_not_whitened():
    random = np.random.default_rng(0)
    rows, labels = np.repeat(random.normal(size=(5, 6)), 3, axis=0), np.repeat(np.arange(5), 3)
    for found, expected in zip(within_class_whitening(rows, labels, 3, 0.2), pca(rows, 3), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
