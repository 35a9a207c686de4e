"""Search among the items that a filter keeps."""

import json
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

from export.gallery import Gallery
from export.index.built_index import normalized
from export.where import where_mask

if TYPE_CHECKING:
    import keras

# Rows of the gallery that are looked at together, and scores that are held.
BLOCK_ROWS = 32768
BLOCK_SCORES = 2**23
# Answers to filters that are kept: a shop asks the same few again and again.
KEPT_FILTERS = 32
# Rows of all of them together: 64 MB.
KEPT_ROWS = 2**24
# How much longer than the rows that are kept a stretch may be.
STRETCH = 4
SHORTEST, LONGEST = 1e-15, 1e15


class FilteredSearch:
    """Exact search among the items of a gallery that a filter keeps, whatever index the model has.

    An approximate index that is asked for more and filtered afterwards loses recall as the filter keeps less. Here
    every item that is kept is compared: recall is 1 at any share, and the cost falls with what is kept.

    Args:
        gallery: The items; their embeddings may lie on disk.
        metric: One of `export.index.spec.METRICS`.
        pair_scorer: PDDMUnit that reorders the `shortlist` nearest items; scores are then its own.
        shortlist: Items that `pair_scorer` sees per query.
    """

    def __init__(
        self, gallery: Gallery, metric: str, pair_scorer: "keras.layers.Layer | None" = None, shortlist: int = 0
    ) -> None:
        self._gallery = gallery
        self._metric = metric
        self._pair_scorer = pair_scorer
        self._shortlist = shortlist
        self._rows: OrderedDict[str, np.ndarray] = OrderedDict()
        self._squares: np.ndarray | None = None
        self._uneven = False
        self._lock = threading.Lock()

    def rows(self, where: Any) -> np.ndarray:
        """`(m,)` row numbers, ascending, of the items that a filter keeps; see `export.where.where_mask`."""
        key = json.dumps(where, default=repr)
        with self._lock:
            if key in self._rows:
                self._rows.move_to_end(key)
                return self._rows[key]
        rows: np.ndarray = np.flatnonzero(where_mask(where, self._gallery)).astype(np.int32)
        with self._lock:
            self._rows[key] = rows
            while len(self._rows) > KEPT_FILTERS or sum(map(len, self._rows.values())) > KEPT_ROWS:
                self._rows.popitem(last=False)
        return rows

    def search(self, embeddings: np.ndarray, k: int, where: Any) -> tuple[np.ndarray, np.ndarray]:
        """The nearest kept items of each query, of equally near ones the lower row first.

        Args:
            embeddings: `(n, d)` finite float32.
            k: Neighbors per query.
            where: The filter.

        Returns:
            Row numbers `(n, min(k, m))` int32 and scores of the same shape, float32, nearest first, m the number of
            items that the filter keeps.

        Raises:
            ValueError: The filter does not fit the gallery.
        """
        kept = self.rows(where)
        if self._pair_scorer is None:
            return self.nearest(embeddings, k, kept)
        rows, _ = self.nearest(embeddings, max(k, self._shortlist), kept)
        if not rows.size:
            return rows, np.zeros(rows.shape, np.float32)
        scores, places = self._pair_scorer.rerank(embeddings, self._gallery.embeddings[rows])
        rows = np.take_along_axis(rows, np.asarray(places), axis=1)
        return rows[:, :k], np.asarray(scores, np.float32)[:, :k]

    def nearest(self, embeddings: np.ndarray, k: int, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `search`, among given rows, ascending, and by the metric alone."""
        k = min(k, len(kept))
        queries = normalized(embeddings, self._metric)
        best_rows: np.ndarray = np.zeros((len(queries), k), np.int32)
        best_scores: np.ndarray = np.zeros((len(queries), k), np.float32)
        if not k:
            return best_rows, best_scores
        step = max(k, min(BLOCK_ROWS, BLOCK_SCORES // max(1, len(queries))))
        for start in range(0, len(kept), step):
            block = kept[start : start + step]
            scores = self._scores(queries, block)
            for query, values in enumerate(scores):
                rows = block
                if start:
                    rows = np.concatenate([best_rows[query], block])
                    values = np.concatenate([best_scores[query], values])
                if len(values) > k:
                    # All that reach the k-th value: a partition alone would leave open which of equal ones stay.
                    reach = np.flatnonzero(values >= np.partition(values, len(values) - k)[len(values) - k])
                    rows, values = rows[reach], values[reach]
                order = np.argsort(-values, kind="stable")[:k]
                best_rows[query, : len(order)] = rows[order]
                best_scores[query, : len(order)] = values[order]
        return best_rows, best_scores

    def _scores(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """`(n, m)` scores of the given rows, ascending, as the index's."""
        first, end = int(rows[0]), int(rows[-1]) + 1
        # A stretch of the gallery is read as it lies, though some of it be left out: a copy of rows costs more.
        stretch = end - first <= STRETCH * len(rows)
        vectors = self._gallery.embeddings[first:end] if stretch else self._gallery.embeddings[rows]
        squares = self._squared_lengths()
        if self._metric == "cosine" and squares is None:
            vectors = normalized(vectors, self._metric)
        scores = queries @ vectors.T
        if stretch and end - first > len(rows):
            scores = scores[:, rows - first]
        if self._metric == "euclidean":
            assert squares is not None
            return -np.maximum(np.einsum("nd,nd->n", queries, queries)[:, None] + squares[rows] - 2 * scores, 0)
        if self._metric == "cosine" and squares is not None:
            scores /= np.sqrt(np.where(squares[rows] > 0, squares[rows], 1))
        return scores

    def _squared_lengths(self) -> np.ndarray | None:
        """`(n,)`, of the gallery's rows; None where cosines need rows that are normalized one by one."""
        with self._lock:
            if self._squares is None and not self._uneven:
                size = len(self._gallery)
                squares: np.ndarray = np.zeros(size, np.float32)
                for start in range(0, size, BLOCK_ROWS):
                    block = np.asarray(self._gallery.embeddings[start : start + BLOCK_ROWS], np.float32)
                    with np.errstate(over="ignore", under="ignore"):
                        squares[start : start + len(block)] = np.einsum("nd,nd->n", block, block)
                    # Squares of longer and shorter rows leave float32, or lose digits.
                    long = np.abs(block).max(axis=1, initial=0)
                    odd = (long > 0) & ((long < SHORTEST) | (long > LONGEST))
                    self._uneven = self._uneven or bool(odd.any() and self._metric == "cosine")
                self._squares = None if self._uneven else squares
            return self._squares
