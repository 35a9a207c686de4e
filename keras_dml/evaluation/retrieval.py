"""Exact retrieval metrics from one pass over the nearest neighbors."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from keras_dml.evaluation.neighbors import NeighborSearch
from keras_dml.evaluation.retrieval_result import RetrievalResult
from keras_dml.typing import Tensor
from keras_dml.utils.deprecation import grouped_arguments

MAP_DEPTH = 1000


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class RetrievalOptions:
    """How `evaluate_retrieval` ranks, what it keeps, and how it clusters.

    Args:
        ids: `(n,)` ids of the queries. With a gallery, self exclusion needs both `ids` and `gallery_ids`.
        gallery_ids: `(m,)` ids of the gallery.
        metric: "cosine" or "euclidean". A zero vector has no direction: under cosine it stays at the origin, at
            distance 1 from every unit vector.
        keep_neighbors: Neighbors per query kept in the result; the largest of `ks` but at most 100 by default.
        clusters: Number of k-means clusters for `nmi`, `ami` and `f1`; the number of query classes by default.
            The DAS authors' code takes the number of training classes.
        seed: Seed of k-means.
        memory: Bytes for the blocks of scores, besides one float32 copy of the embeddings and the results.

    Raises:
        ValueError: `keep_neighbors` is negative.
    """

    ids: ArrayLike | None = None
    gallery_ids: ArrayLike | None = None
    metric: str = "cosine"
    keep_neighbors: int | None = None
    clusters: int | None = None
    seed: int = 0
    memory: int = 128 * 2**20

    def __post_init__(self) -> None:
        if self.keep_neighbors is not None and self.keep_neighbors < 0:
            raise ValueError(f"`keep_neighbors` must not be negative. Received: keep_neighbors={self.keep_neighbors}")


def evaluate_retrieval(
    embeddings: Tensor,
    labels: Tensor,
    gallery: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    ks: Sequence[int] = (1, 2, 4, 8),
    options: RetrievalOptions | None = None,
    **older: Any,
) -> RetrievalResult:
    """Ranks the gallery for every query, exactly, and measures how often and how early the right class comes up.

    Without `gallery` every embedding is a query against all the others. Queries never find themselves: an item of
    the gallery with the query's id is left out of its ranking, wherever it stands. Equal distances are ordered by
    position in the gallery. Scores are compared in float64 wherever float32 could swap two neighbors, so the order
    depends neither on block sizes nor on the number of threads.

    Args:
        embeddings: `(n, d)` query embeddings, any float dtype (taken as float32).
        labels: `(n,)` or `(n, 1)` class labels, integers or strings.
        gallery: `(m, d)` gallery embeddings, where it is not the queries themselves.
        gallery_labels: `(m,)` their labels.
        ks: Ranks for Recall@k and precision@k; k may exceed the gallery.
        options: Ids, metric, clustering, memory; see `RetrievalOptions`.
        older: Fields of `RetrievalOptions` as keyword arguments; deprecated.

    Returns:
        A `RetrievalResult`. Clustering metrics are computed when first read, so they cost nothing if unused.

    Raises:
        ValueError: Shapes, types or numbers do not fit each other, or embeddings are not finite.
    """
    options = grouped_arguments("evaluate_retrieval", older, "options", options, RetrievalOptions)
    ids, gallery_ids = options.ids, options.gallery_ids
    ks = tuple(sorted({int(k) for k in ks}))
    if ks and ks[0] < 1:
        raise ValueError(f"`ks` must be positive. Received: ks={ks}")
    keep_neighbors = min(max(ks, default=1), 100) if options.keep_neighbors is None else options.keep_neighbors
    if (gallery is None) != (gallery_labels is None):
        raise ValueError("`gallery` and `gallery_labels` go together. Received only one of them.")
    if gallery is None and gallery_ids is not None:
        raise ValueError("`gallery_ids` needs a `gallery`. Without one, `ids` names the embeddings.")
    if gallery is not None and (ids is None) != (gallery_ids is None):
        raise ValueError(
            "With a gallery, self exclusion needs both `ids` and `gallery_ids`. Received only one of them."
        )

    search = NeighborSearch(
        embeddings, gallery, ids=ids, gallery_ids=gallery_ids, metric=options.metric, memory=options.memory
    )
    query_labels = _labels("labels", labels, search.num_queries)
    reference_labels = (
        query_labels if gallery is None else _labels("gallery_labels", gallery_labels, search.num_gallery)
    )
    codes = np.unique(np.concatenate([query_labels, reference_labels]), return_inverse=True)[1].astype(np.int32)
    query_codes, gallery_codes = codes[: len(query_labels)], codes[len(codes) - len(reference_labels) :]

    # R: items of the class in the gallery, less those that are the query itself.
    class_sizes = np.bincount(gallery_codes, minlength=int(codes.max(initial=0)) + 1)[query_codes]
    own_rows, own_columns = search.self_pairs
    own_same = query_codes[own_rows] == gallery_codes[own_columns]
    relevant = class_sizes - np.bincount(own_rows[own_same], minlength=len(query_codes))

    n, m = search.num_queries, search.num_gallery
    depth = min(m, max(MAP_DEPTH, max(ks, default=1), int(relevant.max(initial=0)), keep_neighbors))
    kept = min(keep_neighbors, m)
    neighbors: np.ndarray = np.full((n, kept), -1, np.int32)
    distances: np.ndarray = np.full((n, kept), np.inf, np.float32)
    first_match: np.ndarray = np.zeros(n, np.int64)
    names = [*(f"precision@{k}" for k in ks), "map@r", "r_precision", "map@1000", "map@1000_reference", "mrr"]
    values = {name: np.full(n, np.nan) for name in names}

    # One more, for -1 in place of a neighbor: no class.
    padded_codes: np.ndarray = np.append(gallery_codes, np.int32(-1))

    def same_class(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        # No metric changes when two wrong answers change places.
        return gallery_codes[columns] == query_codes[rows, None]

    for rows, block_neighbors, block_distances in search.blocks(depth, accurate=kept, matters=same_class):
        neighbors[rows] = block_neighbors[:, :kept]
        distances[rows] = block_distances[:, :kept]
        # Right answers are few among the neighbors, so all sums run over them alone.
        line, place = np.nonzero(padded_codes[block_neighbors] == query_codes[rows, None])
        count = len(block_neighbors)
        hits = np.bincount(line, minlength=count)
        starts = np.cumsum(hits) - hits
        precision = (np.arange(1, len(line) + 1) - starts[line]) / (place + 1)
        total = relevant[rows]
        safe = np.maximum(total, 1)
        within_r = place < total[line]
        within_depth = place < MAP_DEPTH
        any_hit = hits > 0
        first: np.ndarray = np.zeros(count, np.int64)
        first[any_hit] = place[starts[any_hit]] + 1
        first_match[rows] = first
        for k in ks:
            values[f"precision@{k}"][rows] = np.bincount(line[place < k], minlength=count) / k
        values["r_precision"][rows] = np.bincount(line[within_r], minlength=count) / safe
        values["map@r"][rows] = np.bincount(line[within_r], precision[within_r], count) / safe
        at_depth = np.bincount(line[within_depth], precision[within_depth], count)
        values["map@1000"][rows] = at_depth / safe
        values["map@1000_reference"][rows] = at_depth / np.maximum(class_sizes[rows], 1)
        values["mrr"][rows] = np.where(any_hit, 1.0 / np.maximum(first, 1), 0.0)
    for array in values.values():
        array[relevant == 0] = np.nan
    first_match[relevant == 0] = 0
    return RetrievalResult(
        labels=query_labels,
        gallery_labels=reference_labels,
        ks=ks,
        depth=depth,
        neighbors=neighbors,
        distances=distances,
        relevant=relevant,
        class_sizes=class_sizes,
        first_match=first_match,
        per_query=values,
        metric=options.metric,
        embeddings=search.queries,
        clusters=options.clusters,
        seed=options.seed,
    )


def _labels(name: str, labels: Tensor | None, count: int) -> np.ndarray:
    array = np.asarray(labels)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "iubUSO":
        raise ValueError(
            f"`{name}` must be integers or strings of shape (n,) or (n, 1). "
            f"Received: shape {array.shape}, dtype {array.dtype}"
        )
    if len(array) != count:
        raise ValueError(
            f"`{name}` and the embeddings must be equally many. Received: {len(array)} labels, {count} embeddings"
        )
    # A copy: the caller may go on writing into its own array.
    return array.copy()
