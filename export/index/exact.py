"""Exact search with TensorFlow's own ops: the twin that every version has, and an index of its own."""

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from export.index.engine import EXACT, Engine, EngineSettings, register_engine
from keras_dml.typing import Tensor

if TYPE_CHECKING:
    from export.graph.searcher import Searcher
    from export.index.spec import IndexSpec


@register_engine
class ExactEngine(Engine):
    """A matrix product and top_k: no custom op, any TensorFlow loads it."""

    name = EXACT
    kinds = (EXACT,)

    def choose(self, spec: "IndexSpec", size: int, dim: int) -> EngineSettings:
        return EngineSettings(EXACT, spec.chosen_metric)

    def from_manifest(self, entry: Mapping[str, Any]) -> EngineSettings:
        # Manifests of format 1 call the index of an empty gallery by another kind.
        return EngineSettings(EXACT, entry["metric"])

    def is_exact(self, settings: EngineSettings) -> bool:
        return True

    def build(self, rows: np.ndarray, settings: EngineSettings) -> np.ndarray:
        return np.asarray(rows, np.float32)

    def search(self, index: np.ndarray, queries: np.ndarray, k: int, settings: EngineSettings) -> np.ndarray:
        scores = queries @ index.T
        if settings.metric == "euclidean":
            scores = 2 * scores - np.einsum("nd,nd->n", index, index)
        return np.argsort(-scores, axis=1, kind="stable")[:, :k]

    def searcher(self, index: np.ndarray, settings: EngineSettings, scratch: pathlib.Path) -> "Searcher":
        """Scores of equal items come with the lower row first."""
        import tensorflow as tf

        from export.graph.searcher import Searcher

        rows = tf.Variable(index, trainable=False, dtype=tf.float32, name="gallery_embeddings")
        parts = {"embeddings": rows}
        if settings.metric == "euclidean":
            squares = np.einsum("nd,nd->n", index, index)
            parts["squared_norms"] = tf.Variable(squares, trainable=False, dtype=tf.float32)

        def search(queries: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
            scores = tf.matmul(queries, rows, transpose_b=True)
            if settings.metric == "euclidean":
                squares = tf.reduce_sum(tf.square(queries), axis=1, keepdims=True) + parts["squared_norms"]
                scores = -tf.maximum(squares - 2.0 * scores, 0.0)
            best = tf.math.top_k(scores, k=k)
            return best.indices, best.values

        memory = sum(int(np.prod(part.shape)) * part.dtype.size for part in parts.values())
        return Searcher(search, parts, memory)
