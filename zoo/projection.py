"""Embeddings on a plane."""

import numpy as np


def project(vectors: np.ndarray, metric: str, projection: str, seed: int) -> tuple[np.ndarray | None, str]:
    """Places vectors on a plane so that neighbors there are neighbors by the metric.

    Args:
        vectors: `(n, d)`.
        metric: "cosine" or "euclidean".
        projection: "tsne" or "pca".
        seed: Of t-SNE.

    Returns:
        Their `(n, 2)` positions, or None for fewer than three, and the name of the method.
    """
    vectors = np.asarray(vectors, np.float32)
    if len(vectors) < 3:
        return None, ""
    if metric == "cosine":
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    centered = vectors - vectors.mean(axis=0)
    _, _, directions = np.linalg.svd(centered.astype(np.float64), full_matrices=False)
    plane = centered @ directions[:2].T
    if plane.shape[1] < 2:
        plane = np.concatenate([plane, np.zeros((len(plane), 2 - plane.shape[1]))], axis=1)
    if projection == "tsne" and len(vectors) >= 20 and centered.std() > 0:
        from sklearn.manifold import TSNE

        start = plane / max(plane[:, 0].std(), 1e-12) * 1e-4
        model = TSNE(perplexity=min(30, len(vectors) / 4), init=start, random_state=seed, learning_rate="auto")
        return model.fit_transform(centered), "t-SNE"
    return plane, "first two principal components"
