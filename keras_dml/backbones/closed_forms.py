"""Linear embeddings that need no training: principal components, and whitening within classes."""

import numpy as np

from keras_dml.typing import Tensor

ROUNDING = 1e-9
"""Spread, as a share of the largest feature, that is taken for rounding of equal features."""


def pca(features: Tensor, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """The map onto the first principal components.

    Args:
        features: `(n, d)`.
        dim: Width of the embedding. Components that n or d does not give are 0.

    Returns:
        Kernel `(d, dim)` and bias `(dim,)` of a linear layer, float32: `(x - mean) @ components`.

    Raises:
        ValueError: Features that are no finite matrix.
    """
    features = _checked(features)
    mean = features.mean(axis=0)
    values, vectors = np.linalg.eigh(_covariance(features - mean))
    # Of directions without any variance none is better than another.
    least = max(np.finfo(np.float64).eps * max(values[-1], 0.0) * len(values), _rounding(features))
    used = values[::-1][:dim] > least
    kernel = np.zeros((features.shape[1], dim))
    kernel[:, : len(used)] = vectors[:, ::-1][:, :dim] * used
    return kernel.astype(np.float32), (-mean @ kernel).astype(np.float32)


def within_class_whitening(
    features: Tensor, labels: Tensor, dim: int, shrinkage: float
) -> tuple[np.ndarray, np.ndarray]:
    """Principal components of features whose scatter within classes has been made a sphere.

    With `C` the covariance of the features around the means of their classes, `C' = (1 - s) C + s tr(C) / d I`, and
    the features `x C'^(-1/2)`. It is the linear embedding of LDA with shrinkage (Ledoit and Wolf, 2004), but for the
    choice of directions, which follows the whole variance and not that between classes.

    Args:
        features: `(n, d)`.
        labels: `(n,)` classes. Where no class has two images, or equal ones only, nothing is whitened.
        dim: Width of the embedding.
        shrinkage: s, from 0 to 1; 0 needs more images than features.

    Returns:
        Kernel `(d, dim)` and bias `(dim,)` of a linear layer, float32.

    Raises:
        ValueError: Features that are no finite matrix, labels that do not fit them, a shrinkage out of range.
    """
    features = _checked(features)
    labels = np.asarray(labels).ravel()
    if len(labels) != len(features):
        raise ValueError(f"Features and labels must be equally many. Received: {len(features)} and {len(labels)}")
    if not 0 <= shrinkage <= 1:
        raise ValueError(f"`shrinkage` must lie in [0, 1]. Received: shrinkage={shrinkage}")
    classes, rows = np.unique(labels, return_inverse=True)
    means = np.zeros((len(classes), features.shape[1]))
    np.add.at(means, rows, features)
    means /= np.bincount(rows)[:, None]
    covariance = _covariance(features - means[rows])
    size = len(covariance)
    scale = np.trace(covariance) / size
    if scale <= _rounding(features):
        return pca(features, dim)
    values, vectors = np.linalg.eigh((1 - shrinkage) * covariance + shrinkage * scale * np.eye(size))
    # Without shrinkage, directions in which no class varies would be stretched without bound.
    values = np.maximum(values, 1e-6 * scale)
    whitening = vectors / np.sqrt(values) @ vectors.T
    kernel, bias = pca(features @ whitening, dim)
    return (whitening @ kernel).astype(np.float32), bias


def _checked(features: Tensor) -> np.ndarray:
    found = np.asarray(features, np.float64)
    if found.ndim != 2 or not found.size or not np.isfinite(found).all():
        raise ValueError(f"Features must be finite numbers `(n, d)`. Received: shape {found.shape}")
    return found


def _rounding(features: np.ndarray) -> float:
    """The variance that rounding alone may leave."""
    return float((ROUNDING * np.abs(features).max()) ** 2)


def _covariance(centered: np.ndarray) -> np.ndarray:
    found: np.ndarray = centered.T @ centered / len(centered)
    return found
