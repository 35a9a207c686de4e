"""A benchmark: class-disjoint training and test sides."""

import dataclasses
import hashlib
from typing import Any

from keras_dml.data.split import Split


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A zero-shot retrieval benchmark; no class is on both sides.

    Args:
        name: The name it is loaded by.
        train: Images of the training classes.
        test: Images of the test classes: the queries, and the gallery too where `gallery` is None.
        gallery: The gallery where the protocol has one of its own (query/gallery benchmarks).
            Its labels count the classes as those of `test` do.
        subset: Whether the data may be less than the whole benchmark: accepted without comparing their numbers with
            the protocol's, or without images that cannot be read.
    """

    name: str
    train: Split
    test: Split
    gallery: Split | None = None
    subset: bool = False

    def __post_init__(self) -> None:
        shared = set(self.train.class_names) & set(self.test.class_names)
        if shared:
            raise ValueError(
                f"Benchmark {self.name!r}: training and test classes must be disjoint. "
                f"On both sides: {', '.join(sorted(shared)[:5])}{' ...' if len(shared) > 5 else ''}"
            )
        if self.gallery is not None and self.gallery.class_names != self.test.class_names:
            raise ValueError(f"Benchmark {self.name!r}: test and gallery must number the same classes alike.")

    @property
    def fingerprint(self) -> str:
        """Checksum of all splits, 16 hexadecimal digits; see `Split.fingerprint`."""
        splits = [split.fingerprint for split in (self.train, self.test, self.gallery) if split is not None]
        return hashlib.sha256(" ".join(splits).encode()).hexdigest()[:16]

    @property
    def identity(self) -> dict[str, Any]:
        """What tells these data from others, JSON-able."""
        return {"subset": self.subset, "fingerprint": self.fingerprint}
