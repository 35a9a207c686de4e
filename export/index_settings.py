"""How the gallery is searched."""

import dataclasses
import math
from typing import Any

KINDS = ("brute_force", "hashing", "tree")
METRICS = ("cosine", "dot_product", "euclidean")
# Dot products and squared distances are kept below this: ScaNN crashes where they overflow.
MAX_SCORE = 1e30


@dataclasses.dataclass(frozen=True)
class IndexSettings:
    """Settings of a ScaNN index.

    Args:
        kind: `"brute_force"` (exact), `"hashing"` (asymmetric hashing, then exact scores for the best) or `"tree"`
            (k-means leaves in front of the hashing).
        metric: `"cosine"` (gallery and queries are normalised), `"dot_product"` or `"euclidean"`. Scores are
            larger for nearer items: the similarity, or minus the squared distance.
        leaves: Number of leaves of the tree.
        leaves_to_search: Leaves searched for a query.
        reorder: Candidates that get exact scores for a query. At least ten per neighbour asked for.
        dimensions_per_block: Embedding dimensions per hashed block.
        anisotropic_threshold: Threshold of the anisotropic quantisation loss (cosine and dot product).
        int8: True keeps the vectors for exact scores as 8-bit integers, a quarter of the memory; scores are then
            approximate too.
    """

    kind: str = "brute_force"
    metric: str = "cosine"
    leaves: int | None = None
    leaves_to_search: int | None = None
    reorder: int | None = None
    dimensions_per_block: int = 2
    anisotropic_threshold: float | None = 0.2
    int8: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"`kind` must be one of {', '.join(KINDS)}. Received: kind={self.kind!r}")
        if self.metric not in METRICS:
            raise ValueError(f"`metric` must be one of {', '.join(METRICS)}. Received: metric={self.metric!r}")
        for name in ("leaves", "leaves_to_search", "reorder", "dimensions_per_block"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be positive. Received: {name}={value}")
        if self.kind == "tree" and (self.leaves is None or self.leaves_to_search is None):
            raise ValueError(
                "A tree needs `leaves` and `leaves_to_search`. "
                f"Received: leaves={self.leaves}, leaves_to_search={self.leaves_to_search}"
            )
        if self.kind == "tree" and self.leaves_to_search > self.leaves:  # type: ignore[operator]
            raise ValueError(
                "`leaves_to_search` must be at most `leaves`. "
                f"Received: leaves_to_search={self.leaves_to_search}, leaves={self.leaves}"
            )
        if self.kind != "brute_force" and self.reorder is None:
            object.__setattr__(self, "reorder", 100)

    def to_config(self) -> dict[str, Any]:
        """The arguments as a JSON-able dict."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "IndexSettings":
        """The inverse of `to_config`."""
        return cls(**config)


def largest_value(dim: int) -> float:
    """The largest absolute value in embeddings of `dim` floats, gallery and queries, where the metric is not cosine."""
    return math.sqrt(MAX_SCORE / dim) / 2
