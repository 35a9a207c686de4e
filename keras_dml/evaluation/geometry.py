"""Distances within and between classes, and how evenly the embedding uses its directions."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Shape of an embedding, after "Revisiting Training Strategies ... in Deep Metric Learning" (ICML 2020), section 5.

    Args:
        intra_class_distance: Mean over classes of the mean distance between two items of the class. Classes with one
            item do not count; NaN if there is no other.
        inter_class_distance: Mean distance between two class centers (scaled to unit length with the vectors). NaN
            with one class.
        intra_over_inter: Ratio of the two, the paper's embedding density.
        spectral_decay: Kullback-Leibler divergence `KL(uniform || spectrum)` in nats, spectrum = the singular values
            of the (uncentered) embedding matrix divided by their sum, largest one included. 0 = every direction used
            alike; infinite where a direction is not used at all.
        spectral_decay_without_first: The same without the largest singular value, which in uncentered embeddings
            mostly carries the mean.
    """

    intra_class_distance: float
    inter_class_distance: float
    intra_over_inter: float
    spectral_decay: float
    spectral_decay_without_first: float


def embedding_geometry(embeddings: np.ndarray, labels: np.ndarray, normalize: bool = True) -> Geometry:
    """Measures class distances and spectral decay.

    Distances are cosine distances, `1 - cosine`, where `normalize` is True, else squared Euclidean.

    Args:
        embeddings: `(n, d)` vectors.
        labels: `(n,)` class labels.
        normalize: True scales every vector to unit length first.
    """
    vectors = np.asarray(embeddings, dtype=np.float64)
    if normalize:
        vectors = _unit(vectors)
    codes = np.unique(np.asarray(labels).ravel(), return_inverse=True)[1]
    if len(codes) != len(vectors):
        raise ValueError(
            f"Embeddings and labels must be equally many. Received: {len(vectors)} embeddings, {len(codes)} labels"
        )
    counts = np.bincount(codes)
    centers = np.zeros((len(counts), vectors.shape[1]))
    np.add.at(centers, codes, vectors)
    centers /= counts[:, None]
    # The mean squared distance of the distinct pairs of a class is twice its unbiased variance.
    spread = np.bincount(codes, weights=np.sum((vectors - centers[codes]) ** 2, axis=1))
    several = counts > 1
    scale = 1.0 if normalize else 2.0  # 1 - cosine is half the squared distance of unit vectors.
    intra = float(np.mean(scale * spread[several] / (counts[several] - 1))) if several.any() else float("nan")
    if normalize:
        centers = _unit(centers)
    inter = float("nan")
    if len(centers) > 1:
        deviations = centers - centers.mean(axis=0)
        inter = float(scale * np.sum(deviations**2) / (len(centers) - 1))
    spectrum = np.sqrt(np.maximum(np.linalg.eigvalsh(vectors.T @ vectors)[::-1], 0.0))
    spectrum = spectrum[: min(vectors.shape)]
    return Geometry(intra, inter, intra / inter if inter else float("nan"), _decay(spectrum), _decay(spectrum[1:]))


def _unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1.0)


def _decay(spectrum: np.ndarray) -> float:
    if not len(spectrum) or spectrum.sum() == 0:
        return float("nan")
    share = spectrum / spectrum.sum()
    # Squaring the matrix leaves rounding noise of this size where a singular value is 0.
    if share.min() <= 1e-7 * share.max():
        return float("inf")
    return float(-np.mean(np.log(share * len(share))))
