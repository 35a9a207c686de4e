"""How well k-means clusters of the embeddings agree with the classes."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Clustering:
    """Agreement of a clustering with the classes.

    Args:
        nmi: Normalized mutual information, arithmetic mean of the two entropies as denominator.
        ami: Mutual information adjusted for chance.
        f1: Harmonic mean of the precision and recall of "same cluster" as a statement about "same class", over all
            pairs of items.
        assignments: `(n,)` int32 cluster of each item.
    """

    nmi: float
    ami: float
    f1: float
    assignments: np.ndarray = dataclasses.field(repr=False)


def cluster_metrics(
    embeddings: np.ndarray,
    labels: np.ndarray,
    clusters: int | None = None,
    seed: int = 0,
    iterations: int = 20,
    normalize: bool = True,
) -> Clustering:
    """K-means on the embeddings, compared with the classes.

    Args:
        embeddings: `(n, d)` vectors.
        labels: `(n,)` class labels.
        clusters: Number of clusters, the number of distinct labels by default. The DAS authors' code takes the
            number of *training* classes: give that number to repeat its figures.
        seed: Seed of the initial centers.
        iterations: Most rounds of k-means.
        normalize: True scales every vector to unit length first.
    """
    from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

    labels = np.unique(np.asarray(labels).ravel(), return_inverse=True)[1]
    if len(labels) != len(embeddings):
        raise ValueError(
            f"Embeddings and labels must be equally many. Received: {len(embeddings)} embeddings, {len(labels)} labels"
        )
    if clusters is None:
        clusters = int(labels.max()) + 1
    if clusters < 1:
        raise ValueError(f"`clusters` must be positive. Received: clusters={clusters}")
    assignments = kmeans(embeddings, min(clusters, len(labels)), seed=seed, iterations=iterations, normalize=normalize)
    return Clustering(
        nmi=float(normalized_mutual_info_score(labels, assignments)),
        ami=float(adjusted_mutual_info_score(labels, assignments)),
        f1=pairwise_f1(labels, assignments),
        assignments=assignments,
    )


def kmeans(
    embeddings: np.ndarray, clusters: int, seed: int = 0, iterations: int = 20, normalize: bool = True
) -> np.ndarray:
    """K-means clusters of the embeddings, `(n,)` int32."""
    import warnings

    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    vectors = np.asarray(embeddings, dtype=np.float32)
    if normalize:
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    # k-means++ costs as much as k rounds over the data: beyond this many clusters random rows start as well.
    start = "k-means++" if clusters <= 1000 else "random"
    model = KMeans(clusters, init=start, n_init=1, max_iter=iterations, random_state=seed, algorithm="lloyd")
    with warnings.catch_warnings():
        # Fewer distinct points than clusters, as in collapsed embeddings: the metrics say so themselves.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit_predict(vectors).astype(np.int32)


def pairwise_f1(labels: np.ndarray, assignments: np.ndarray) -> float:
    """F1 over pairs of items: a pair is predicted positive if it shares a cluster, right if it shares a class.

    0 where no pair is right. Counts are exact integers, so no pair is lost to rounding.
    """
    labels = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    assignments = np.unique(assignments, return_inverse=True)[1].astype(np.int64)

    def pairs(codes: np.ndarray) -> int:
        counts = np.unique(codes, return_counts=True)[1].astype(np.int64)
        return int(np.sum(counts * (counts - 1) // 2))

    both = pairs(labels * (assignments.max() + 1) + assignments)
    predicted, present = pairs(assignments), pairs(labels)
    return 2.0 * both / (predicted + present) if both else 0.0
