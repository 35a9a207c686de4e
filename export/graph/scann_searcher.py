"""Approximate or exact search by ScaNN inside a graph."""

from typing import Any

import tensorflow as tf

from export.graph.scann_resource import ScannResource
from export.index_settings import IndexSettings

# Exact scores are computed for this many candidates per neighbour asked for.
CANDIDATES_PER_NEIGHBOUR = 10
# Queries from which on ScaNN's thread pool pays for itself.
PARALLEL_QUERIES = 32


class ScannSearcher(tf.Module):
    """`searcher(queries, k)` -> `(n, k)` row numbers and scores.

    Args:
        scann_ops: The module returned by `export.scann_ops.register`.
        resource: The index.
        settings: What the index was built with.
        size: Number of gallery items, at least 1.
    """

    def __init__(self, scann_ops: Any, resource: ScannResource, settings: IndexSettings, size: int) -> None:
        super().__init__(name="scann_searcher")
        self._scann_ops = scann_ops
        self.resource = resource
        self._settings = settings
        self._size = size

    def __call__(self, queries: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Finds the `k` nearest items of each query.

        Args:
            queries: `(n, d)` finite float32, n at least 1.
            k: Scalar int32 in [1, size].

        Returns:
            `(n, k)` int32 row numbers and `(n, k)` float32 scores, nearest first, always k of them.
        """
        settings = self._settings
        if settings.kind == "brute_force":
            return self._search(queries, k, tf.constant(-1), tf.constant(-1))
        candidates = tf.minimum(tf.maximum(settings.reorder, CANDIDATES_PER_NEIGHBOUR * k), self._size)
        leaves = tf.constant(-1)
        if settings.kind == "tree":
            # As many leaves as hold the candidates on average, where k is far beyond what was calibrated.
            needed = tf.cast(
                tf.math.ceil(2.0 * tf.cast(k, tf.float32) * ((settings.leaves or 1) / self._size)), tf.int32
            )
            leaves = tf.minimum(tf.maximum(settings.leaves_to_search, needed), settings.leaves)
        indices, scores = self._search(queries, k, candidates, leaves)

        # ScaNN returns fewer columns, or pads with NaN, where the leaves it visited hold too few items.
        short = tf.logical_or(tf.shape(scores)[1] < k, tf.reduce_any(tf.math.is_nan(scores)))
        every_leaf = tf.constant(settings.leaves if settings.kind == "tree" else -1)
        return tf.cond(
            short,
            lambda: self._search(queries, k, tf.constant(self._size), every_leaf),
            lambda: (indices, scores),
        )

    def _search(
        self, queries: tf.Tensor, k: tf.Tensor, candidates: tf.Tensor, leaves: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        indices, distances = self._scann_ops.scann_search_batched(
            scann_handle=self.resource.handle(),
            queries=queries,
            final_num_neighbors=k,
            pre_reordering_num_neighbors=candidates,
            leaves_to_search=leaves,
            parallel=tf.shape(queries)[0] >= PARALLEL_QUERIES,
        )
        indices = tf.ensure_shape(indices, (None, None))
        distances = tf.ensure_shape(distances, (None, None))
        return indices, -distances if self._settings.metric == "euclidean" else distances
