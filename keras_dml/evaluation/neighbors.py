"""Exact nearest neighbors in bounded memory."""

import concurrent.futures
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from keras_dml.typing import METRICS, Tensor
from keras_dml.utils.cores import available_cores
from keras_dml.utils.requirements import uses_tensorflow

UNIT_ROUNDOFF = 2.0**-24
# Queries sorted at a time by one thread: few enough for their scores to stay near the core.
CHUNK_ROWS = 32
# Columns of a score block: a gallery above this is ranked piece by piece, with a running top k.
BLOCK_COLUMNS = 131072
# Squared distance of two unit vectors that differ by no more than float64's rounding of their length.
SAME_DIRECTION = 1e-28
# Multiplications below which handing a product to TensorFlow does not pay.
SMALL = 2**33
# Pairs compared in float64 at a time.
PAIRS = 4096


class NeighborSearch:
    """Ranks a gallery for every query, exactly, block by block.

    Scores come from a float32 matrix product of centered vectors, so that vectors with a large common part lose no
    digits. Candidates whose scores lie closer together than the product's rounding error are compared again in
    float64, difference by difference: near-duplicates keep their true order, ties (squared distances equal to ten
    digits) go to the lower row, and the result depends neither on block sizes nor on threads.

    Args:
        queries: `(n, d)` vectors, any float dtype (taken as float32).
        gallery: `(m, d)` vectors; the queries themselves by default.
        ids: `(n,)` ids of the queries; row numbers by default where there is no gallery.
        gallery_ids: `(m,)` ids of the gallery. A gallery row with the query's id is no neighbor of it.
        metric: "cosine" (Euclidean distance of the normalized vectors) or "euclidean".
        memory: Bytes for the blocks of scores.
    """

    def __init__(
        self,
        queries: Tensor,
        gallery: Tensor | None = None,
        *,
        ids: Tensor | None = None,
        gallery_ids: Tensor | None = None,
        metric: str = "cosine",
        memory: int = 128 * 2**20,
    ) -> None:
        if metric not in METRICS:
            from keras_dml.utils.suggestions import unknown_name

            raise ValueError(unknown_name("metric", metric, METRICS))
        self.metric = metric
        self.memory = memory
        self.queries = _vectors("embeddings", queries)
        self.gallery = self.queries if gallery is None else _vectors("gallery", gallery)
        if self.queries.shape[1] != self.gallery.shape[1]:
            raise ValueError(
                "Queries and gallery must have the same width. "
                f"Received: {self.queries.shape[1]} and {self.gallery.shape[1]}"
            )
        if not len(self.gallery):
            raise ValueError("There is nothing to search: the gallery is empty.")
        self._own_starts, self._own_order, self._own_counts = self._match_ids(ids, gallery_ids, gallery is None)

        # A power of two, so exact: squares of very large or very small vectors would leave float32.
        largest = max(_largest_magnitude(self.gallery), _largest_magnitude(self.queries))
        self._unit = 1.0 if metric == "cosine" or largest == 0 else 2.0 ** np.frexp(largest)[1]
        self._gallery_scale = self._scale_of(self.gallery)
        self._query_scale = self._gallery_scale if gallery is None else self._scale_of(self.queries)
        self._center = _mean(self.gallery, self._gallery_scale)
        self._gallery_work = self._working_copy(self.gallery, self._gallery_scale)
        self._query_work = (
            self._gallery_work if gallery is None else self._working_copy(self.queries, self._query_scale)
        )
        self._gallery_norms = _squared_norms(self._gallery_work)
        self._query_norms = self._gallery_norms if gallery is None else _squared_norms(self._query_work)
        self._bias = (self._gallery_norms * -0.5).astype(np.float32)
        self._representative: np.ndarray | None = None
        self._scores: np.ndarray | None = None
        self._gallery_tensor: tuple[tuple[int, int], Any] | None = None

    @property
    def num_queries(self) -> int:
        """Number of queries, n."""
        return len(self.queries)

    @property
    def num_gallery(self) -> int:
        """Number of gallery items, m."""
        return len(self.gallery)

    @property
    def self_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Query rows and gallery rows that have the same id, as two arrays of equal length."""
        return self._own_pairs(0, self.num_queries)

    def blocks(
        self, k: int, accurate: int | None = None, matters: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    ) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """The k nearest gallery rows of every query, some queries at a time.

        Args:
            k: Number of neighbors, at most the size of the gallery.
            accurate: How many of them need distances accurate to float32 where vectors nearly coincide; all by
                default. Beyond, a squared distance has the rounding error of the matrix product.
            matters: `matters(rows, columns)` says of candidates `columns` `(rows, c)` of queries `rows` which of them
                may not be swapped with a neighbor at a distance that is equal in float32; all by default. The
                first `accurate` neighbors are always in order.

        Yields:
            The queries as a slice, `(rows, k)` int32 neighbors, nearest first, -1 where none is left, and `(rows, k)`
            float32 Euclidean distances, infinite where none is left.
        """
        if not 1 <= k <= self.num_gallery:
            raise ValueError(f"`k` must lie in [1, {self.num_gallery}], the size of the gallery. Received: k={k}")
        accurate = k if accurate is None else accurate
        columns = min(self.num_gallery, BLOCK_COLUMNS)
        # A score, and per neighbor: value, column and distance, each with room to sort in.
        rows = int(self.memory // (4 * columns + 96 * k))
        rows = max(1, min(rows, 1024, self.num_queries))
        threads = available_cores()
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            for start in range(0, self.num_queries, rows):
                stop = min(start + rows, self.num_queries)
                chunk = max(1, min(CHUNK_ROWS, -(-(stop - start) // threads)))
                bounds = [(low, min(low + chunk, stop)) for low in range(start, stop, chunk)]
                best: list[tuple[np.ndarray, np.ndarray] | None] = [None] * len(bounds)
                for left in range(0, self.num_gallery, columns):
                    right = min(left + columns, self.num_gallery)
                    scores = self._products(start, stop, left, right)
                    pieces = [scores[low - start : high - start] for low, high in bounds]
                    best = list(pool.map(functools.partial(self._merge, k=k, left=left), pieces, bounds, best))
                    # One block of scores at a time: the next is computed after this one is gone.
                    del scores, pieces
                finish = functools.partial(self._finish, k=k, accurate=accurate, matters=matters)
                done = list(pool.map(finish, best, bounds))
                yield (
                    slice(start, stop),
                    np.concatenate([neighbors for neighbors, _ in done]),
                    np.concatenate([distances for _, distances in done]),
                )

    def _products(self, start: int, stop: int, left: int, right: int) -> np.ndarray:
        """Dot products of some queries with some of the gallery, `(stop - start, right - left)` float32."""
        queries, gallery = self._query_work[start:stop], self._gallery_work[left:right]
        if self.num_queries * self.num_gallery * queries.shape[1] < SMALL:
            return queries @ gallery.T
        if not uses_tensorflow():
            # Into the block before: fresh memory of this size costs a page fault every 4 KiB.
            shape = (len(queries), len(gallery))
            if self._scores is None or self._scores.shape != shape:
                self._scores = np.empty(shape, np.float32)
            return np.matmul(queries, gallery.T, out=self._scores)
        # NumPy's BLAS falls back to narrow vectors on some processors; TensorFlow's product was twice as fast there.
        import tensorflow as tf

        # On the processor: a GPU may multiply float32 with fewer digits than `_band` counts on.
        with tf.device("CPU:0"):
            if self._gallery_tensor is None or self._gallery_tensor[0] != (left, right):
                self._gallery_tensor = ((left, right), tf.convert_to_tensor(gallery))
            return np.asarray(
                tf.linalg.matmul(tf.convert_to_tensor(queries), self._gallery_tensor[1], transpose_b=True)
            )

    def _merge(
        self,
        scores: np.ndarray,
        bound: tuple[int, int],
        before: tuple[np.ndarray, np.ndarray] | None,
        k: int,
        left: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Candidates among `before` and a block of scores: values and columns, ascending by column, -1 = none."""
        low, high = bound
        scores = scores + self._bias[left : left + scores.shape[1]]
        own_rows, own_columns = self._own_pairs(low, high)
        inside = (own_columns >= left) & (own_columns < left + scores.shape[1])
        scores[own_rows[inside] - low, own_columns[inside] - left] = -np.inf
        band = self._band(low, high)
        values, columns = _largest(scores, k, band)
        columns = np.where(columns >= 0, columns + left, -1).astype(np.int32)
        if before is not None:
            values = np.concatenate([before[0], values], axis=1)
            columns = np.concatenate([before[1], columns], axis=1)
            values, positions = _largest(values, k, band)
            columns = np.where(positions >= 0, np.take_along_axis(columns, np.maximum(positions, 0), 1), -1)
        cap = k + max(k, 1024)
        if values.shape[1] > cap:
            values, columns = self._cap(values, columns, low, cap)
        return values, columns

    def _cap(self, values: np.ndarray, columns: np.ndarray, low: int, cap: int) -> tuple[np.ndarray, np.ndarray]:
        """Keeps the `cap` best candidates where collapsed embeddings leave far more than k within rounding error."""
        if self._representative is None:
            self._representative = _first_equal_row(self.gallery)
        # Equal vectors get equal scores, whatever edge of the matrix product they came from.
        first = self._representative[np.maximum(columns, 0)]
        order = np.lexsort((columns, first), axis=1)
        grouped = np.take_along_axis(first, order, 1)
        lead = np.concatenate([np.ones((len(first), 1), bool), grouped[:, 1:] != grouped[:, :-1]], axis=1)
        leader = np.maximum.accumulate(np.where(lead, np.arange(lead.shape[1]), 0), axis=1)
        sorted_values = np.take_along_axis(values, order, 1)
        sorted_columns = np.take_along_axis(columns, order, 1)
        sorted_values = np.where(sorted_columns >= 0, np.take_along_axis(sorted_values, leader, 1), -np.inf)
        best = np.lexsort(
            (np.where(sorted_columns >= 0, sorted_columns, np.iinfo(np.int32).max), -sorted_values), axis=1
        )
        best = best[:, :cap]
        values, columns = np.take_along_axis(sorted_values, best, 1), np.take_along_axis(sorted_columns, best, 1)
        order = np.argsort(np.where(columns >= 0, columns, np.iinfo(np.int32).max), axis=1)
        return np.take_along_axis(values, order, 1), np.take_along_axis(columns, order, 1)

    def _finish(
        self,
        found: tuple[np.ndarray, np.ndarray],
        bound: tuple[int, int],
        k: int,
        accurate: int,
        matters: Callable[[np.ndarray, np.ndarray], np.ndarray] | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Sorts the candidates of some queries; near-ties by their float64 distances, then by column."""
        values, columns = found
        low, high = bound
        rows = np.arange(low, high)
        order = np.argsort(-values, axis=1, kind="stable")
        values = np.take_along_axis(values, order, 1)
        columns = np.take_along_axis(columns, order, 1)
        present = columns >= 0
        squared = np.where(present, self._query_norms[rows, None] - 2.0 * values.astype(np.float64), np.inf)

        band = self._band(low, high)
        with np.errstate(invalid="ignore"):  # -inf minus -inf behind the last candidate
            close = (values[:, :-1] - values[:, 1:] <= band[:, None]) & present[:, 1:]
        edge: np.ndarray = np.zeros((len(values), 1), bool)
        runs = np.cumsum(np.concatenate([edge, ~close], axis=1), axis=1)
        tied = np.concatenate([close, edge], axis=1) | np.concatenate([edge, close], axis=1)
        if matters is not None and tied.any():
            tied &= self._runs_that_matter(runs, tied, matters(rows, columns), accurate)
        # Where nearly all of |q|^2 - 2s cancels, the difference of the vectors is the only accurate way.
        scale = self._query_norms[rows, None] + self._gallery_norms.max()
        again = tied.copy()
        again[:, :accurate] |= present[:, :accurate] & (squared[:, :accurate] < 0.1 * scale)
        line, place = np.nonzero(again)
        if len(line):
            squared[line, place] = self._exact(rows[line], columns[line, place])
            line, place = np.nonzero(tied)
            better = np.lexsort((columns[line, place], squared[line, place], runs[line, place], line))
            columns[line, place], squared[line, place] = columns[line, place][better], squared[line, place][better]
        neighbors: np.ndarray = np.full((len(values), k), -1, np.int32)
        distances: np.ndarray = np.full((len(values), k), np.inf, np.float32)
        width = min(k, values.shape[1])
        neighbors[:, :width] = columns[:, :width]
        distances[:, :width] = np.sqrt(np.maximum(squared[:, :width], 0.0)) * self._unit
        return neighbors, distances

    @staticmethod
    def _runs_that_matter(runs: np.ndarray, tied: np.ndarray, marked: np.ndarray, accurate: int) -> np.ndarray:
        """Which places belong to a run of near-ties with a marked candidate or a place before `accurate`."""
        marked = marked.copy()
        marked[:, :accurate] = True
        offset = np.arange(len(runs))[:, None] * (runs.shape[1] + 1)
        keys = (runs + offset).ravel()
        wanted = np.zeros(len(runs) * (runs.shape[1] + 1), bool)
        wanted[keys[(marked & tied).ravel()]] = True
        return wanted[keys].reshape(runs.shape)

    def _exact(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Squared distances of pairs in float64, by differences of the vectors as given."""
        result = np.empty(len(rows))
        for start in range(0, len(rows), PAIRS):
            part = slice(start, start + PAIRS)
            query = self.queries[rows[part]].astype(np.float64)
            query *= self._query_scale[rows[part], None]
            item = self.gallery[columns[part]].astype(np.float64)
            item *= self._gallery_scale[columns[part], None]
            query -= item
            result[part] = np.einsum("ij,ij->i", query, query)
        # Pairs that tie on paper must tie here, though float64 rounds each of them differently: keep 36 bits.
        if self.metric == "cosine":
            result[result < SAME_DIRECTION] = 0.0
        mantissa, exponent = np.frexp(result)
        return np.ldexp(np.round(np.ldexp(mantissa, 36)), exponent - 36)

    def _band(self, low: int, high: int) -> np.ndarray:
        """`(high - low,)` float32: two scores that differ by more are in the right order.

        Twice a probable bound (Higham and Mary, 2019: error of a sum grows with the root of its length) on the
        rounding error of `q . g - |g|^2 / 2`.
        """
        width = self.queries.shape[1]
        largest = np.sqrt(self._gallery_norms.max())
        norms = np.sqrt(self._query_norms[low:high])
        error = UNIT_ROUNDOFF * ((np.sqrt(width) + 4.0) * norms + 2.0 * largest) * largest
        return (2.0 * error).astype(np.float32)

    def _scale_of(self, vectors: np.ndarray) -> np.ndarray:
        """What each vector is multiplied by before it is compared, `(rows,)` float64."""
        if self.metric == "cosine":
            norms = np.sqrt(_squared_norms(vectors))
            return 1.0 / np.where(norms > 0, norms, 1.0)
        return np.full(len(vectors), 1.0 / self._unit)

    def _working_copy(self, vectors: np.ndarray, scale: np.ndarray) -> np.ndarray:
        copy = np.empty_like(vectors)
        for start in range(0, len(vectors), PAIRS):
            part = slice(start, start + PAIRS)
            copy[part] = vectors[part].astype(np.float64) * scale[part, None] - self._center
        return copy

    def _match_ids(self, ids: Tensor, gallery_ids: Tensor, same: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For each query the range of `order` that holds the gallery rows with its id."""
        n, m = len(self.queries), len(self.gallery)
        if same and ids is None:
            return np.arange(n), np.arange(m), np.ones(n, np.int64)
        if ids is None or (gallery_ids is None and not same):
            return np.zeros(n, np.int64), np.arange(m), np.zeros(n, np.int64)
        query_ids = _ids("ids", ids, n)
        other_ids = query_ids if same else _ids("gallery_ids", gallery_ids, m)
        order = np.argsort(other_ids, kind="stable")
        ordered = other_ids[order]
        starts = np.asarray(np.searchsorted(ordered, query_ids, side="left"))
        ends = np.asarray(np.searchsorted(ordered, query_ids, side="right"))
        return starts, order, ends - starts

    def _own_pairs(self, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
        counts = self._own_counts[low:high]
        rows: np.ndarray = np.repeat(np.arange(low, high), counts)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        return rows, self._own_order[self._own_starts[rows] + within]


def nearest_neighbors(
    queries: Tensor,
    gallery: Tensor | None = None,
    k: int = 10,
    *,
    ids: Tensor | None = None,
    gallery_ids: Tensor | None = None,
    metric: str = "cosine",
    memory: int = 128 * 2**20,
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest gallery rows of every query, exactly; see `NeighborSearch` for the arguments.

    Returns:
        `(n, k)` int32 rows of the gallery, nearest first, -1 where none is left, and `(n, k)` float32 Euclidean
        distances (of the normalized vectors under cosine), infinite where none is left.
    """
    search = NeighborSearch(queries, gallery, ids=ids, gallery_ids=gallery_ids, metric=metric, memory=memory)
    if k < 1:
        raise ValueError(f"`k` must be positive. Received: k={k}")
    neighbors: np.ndarray = np.full((search.num_queries, k), -1, np.int32)
    distances: np.ndarray = np.full((search.num_queries, k), np.inf, np.float32)
    for rows, block_neighbors, block_distances in search.blocks(min(k, search.num_gallery)):
        neighbors[rows, : block_neighbors.shape[1]] = block_neighbors
        distances[rows, : block_distances.shape[1]] = block_distances
    return neighbors, distances


def _largest(scores: np.ndarray, k: int, band: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All entries of each row that may be among its k largest, given errors within `band`.

    Returns:
        `(rows, c)` values, padded with -inf, and `(rows, c)` columns, ascending, padded with -1. Entries of -inf are
        never chosen.
    """
    threshold = _kth_largest(scores, k) - band if k < scores.shape[1] else np.full(len(scores), -np.inf, np.float32)
    # The lowest finite number: -inf marks what is no candidate.
    threshold = np.maximum(threshold, np.finfo(np.float32).min)
    flat = np.flatnonzero(scores >= threshold[:, None])
    lines, columns = np.divmod(flat, scores.shape[1])
    counts = np.bincount(lines, minlength=len(scores))
    places = np.arange(len(flat)) - np.repeat(np.cumsum(counts) - counts, counts)
    width = max(1, int(counts.max(initial=0)))
    values: np.ndarray = np.full((len(scores), width), -np.inf, np.float32)
    chosen: np.ndarray = np.full((len(scores), width), -1, np.int64)
    values[lines, places] = scores.ravel()[flat] if scores.flags.c_contiguous else scores[lines, columns]
    chosen[lines, places] = columns
    return values, chosen


def _kth_largest(scores: np.ndarray, k: int) -> np.ndarray:
    width = scores.shape[1]
    return np.partition(scores, width - k, axis=1)[:, width - k]


def _vectors(name: str, array: Tensor) -> np.ndarray:
    vectors = np.asarray(array)
    if vectors.ndim != 2 or not vectors.shape[1] or vectors.dtype.kind in "OUSb":
        raise ValueError(
            f"`{name}` must be numbers of shape (n, dim). Received: shape {vectors.shape}, dtype {vectors.dtype}"
        )
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        bad = np.flatnonzero(~np.isfinite(vectors.sum(axis=1)))
    # A finite sum can overflow, so only suspects are looked at in full.
    bad = bad[~np.isfinite(vectors[bad]).all(axis=1)]
    if len(bad):
        rows = ", ".join(map(str, bad[:10])) + (", ..." if len(bad) > 10 else "")
        raise ValueError(
            f"`{name}` must be finite. Received NaN or infinity in {len(bad)} of {len(vectors)} rows: {rows}. "
            "An encoder that produces NaN cannot be evaluated; look at its training loss."
        )
    return vectors


def _ids(name: str, ids: Tensor, count: int) -> np.ndarray:
    array = np.asarray(ids)
    if array.shape != (count,):
        raise ValueError(f"`{name}` must have one entry per embedding, {count}. Received: shape {array.shape}")
    return array


def _largest_magnitude(vectors: np.ndarray) -> float:
    return max(float(vectors.max(initial=0.0)), -float(vectors.min(initial=0.0)))


def _mean(vectors: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return (scale @ vectors) / len(vectors)


def _squared_norms(vectors: np.ndarray) -> np.ndarray:
    norms = np.empty(len(vectors))
    for start in range(0, len(vectors), PAIRS):
        part: np.ndarray = vectors[start : start + PAIRS].astype(np.float64)
        norms[start : start + PAIRS] = np.einsum("ij,ij->i", part, part)
    return norms


def _first_equal_row(vectors: np.ndarray) -> np.ndarray:
    """For each row the number of the first row that equals it."""
    keys = np.ascontiguousarray(vectors + np.float32(0.0)).view(np.dtype((np.void, vectors.shape[1] * 4))).ravel()
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return first[inverse]
