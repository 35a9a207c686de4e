"""What a search returns."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """Nearest gallery items per query, nearest first.

    Args:
        ids: `(queries, k)` strings, the gallery's ids. `k` is at most the size of the gallery.
        scores: `(queries, k)` float32, larger is nearer.
        indices: `(queries, k)` int32, row numbers in the gallery.
        metadata: The gallery's metadata columns for these items, each `(queries, k)`.
    """

    ids: np.ndarray
    scores: np.ndarray
    indices: np.ndarray
    metadata: dict[str, np.ndarray]

    @property
    def labels(self) -> np.ndarray:
        """`(queries, k)` class names, for galleries with a `label` column."""
        if "label" not in self.metadata:
            raise AttributeError(f"This gallery has no `label` column. It has: {', '.join(self.metadata) or 'none'}")
        return self.metadata["label"]

    def __len__(self) -> int:
        return len(self.ids)
