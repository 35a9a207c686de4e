"""The search of an index inside a graph."""

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from keras_dml.typing import Tensor


class Searcher(tf.Module):
    """`searcher(queries, k)` -> `(n, k)` row numbers and scores.

    Args:
        search: From queries and k to row numbers and scores. Queries are `(n, d)` finite float32, n at least 1, of
            length 1 where the metric is cosine; k is a scalar int32 in [1, size]. Row numbers are `(n, k)` int32,
            scores `(n, k)` float32, nearest first, always k of them.
        parts: Variables and resources that `search` uses, by name: what is saved with the graph.
        memory_bytes: What they take when loaded.
    """

    def __init__(
        self, search: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], parts: Mapping[str, Any], memory_bytes: int
    ) -> None:
        super().__init__(name="searcher")
        self._search = search
        self.memory_bytes = memory_bytes
        # As attributes, where TensorFlow finds what to save.
        for name, part in parts.items():
            setattr(self, name, part)

    def __call__(self, queries: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Finds the `k` nearest items of each query; see the class."""
        return self._search(queries, k)
