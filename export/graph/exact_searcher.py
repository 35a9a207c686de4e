"""Exact search with TensorFlow's own ops."""

import numpy as np
import tensorflow as tf


class ExactSearcher(tf.Module):
    """`searcher(queries, k)` -> `(n, k)` row numbers and scores, by a matrix product and top_k: no custom op.

    Args:
        embeddings: `(size, d)` float32, normalised where the metric is cosine.
        metric: One of `export.index_settings.METRICS`.
    """

    def __init__(self, embeddings: np.ndarray, metric: str) -> None:
        super().__init__(name="exact_searcher")
        self._metric = metric
        self.embeddings = tf.Variable(embeddings, trainable=False, dtype=tf.float32, name="gallery_embeddings")
        if metric == "euclidean":
            self.squared_norms = tf.Variable(
                np.einsum("nd,nd->n", embeddings, embeddings), trainable=False, dtype=tf.float32
            )

    def __call__(self, queries: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Finds the `k` nearest items of each query, as `ScannSearcher` does.

        Args:
            queries: `(n, d)` finite float32.
            k: Scalar int32 in [0, size].

        Returns:
            `(n, k)` int32 row numbers and `(n, k)` float32 scores, nearest first; the lower row first among equals.
        """
        scores = tf.matmul(queries, self.embeddings, transpose_b=True)
        if self._metric == "euclidean":
            squares = tf.reduce_sum(tf.square(queries), axis=1, keepdims=True) + self.squared_norms
            scores = -tf.maximum(squares - 2.0 * scores, 0.0)
        best = tf.math.top_k(scores, k=k)
        return best.indices, best.values
