"""How a version is built, beside what its index shall do."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras


@dataclasses.dataclass(frozen=True, eq=False)
class BuildOptions:
    """Settings of `export.build_model`.

    Args:
        default_k: Neighbors returned where a request names none.
        keep: Older versions are deleted but for the newest `keep`, the new one included; None keeps all.
        queries: `(m, d)` embeddings to calibrate the index with; a sample is held out of the gallery by default.
        pair_scorer: PDDMUnit that re-ranks; the manifest then says what it costs and gains.
        shortlist: Nearest items that `pair_scorer` puts into a new order.
        thumbnails: Whether pictures for the search page are stored, where the gallery is a `Split`.
        pictures: Writes the search page's pictures into a folder, for a `Gallery` whose images are elsewhere.
        source: What the manifest says about the origin, JSON-able; nothing by default.
        cache: Folder for shards of embeddings, for a build that can be resumed.
        batch_size: Images per forward pass while embedding.
        name: The model's name; that of the model directory by default.
        number: The number of the new version, for who must not overwrite what others publish in the meantime: where it
            is taken by then, FileExistsError. The next free one by default.
        allow_empty: Whether a gallery without items is accepted.
        changes_through: Sequence number of the last change that the gallery holds, of those that a server took.

    Raises:
        ValueError: A number below 1.
    """

    default_k: int = 10
    keep: int | None = None
    queries: np.ndarray | None = None
    pair_scorer: "keras.layers.Layer | None" = None
    shortlist: int = 100
    thumbnails: bool = True
    pictures: Callable[[pathlib.Path], None] | None = None
    source: Mapping[str, Any] | None = None
    cache: pathlib.Path | None = None
    batch_size: int = 64
    name: str | None = None
    number: int | None = None
    allow_empty: bool = False
    changes_through: int = 0

    def __post_init__(self) -> None:
        for name in ("default_k", "shortlist", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be positive. Received: {name}={getattr(self, name)}")
        if self.keep is not None and self.keep < 1:
            raise ValueError(f"`keep` must be at least 1. Received: keep={self.keep}")
