"""A benchmark, the published numbers it is compared with, and the archives its data come in."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_dml.data.errors import DataError
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
        origin: Further facts that tell these data from others, JSON-able.
        known: Held-out images of training classes, numbered as `train` numbers them; `train` is their gallery. None
            where the protocol has none.
    """

    name: str
    train: Split
    test: Split
    gallery: Split | None = None
    subset: bool = False
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    known: Split | None = None

    def __post_init__(self) -> None:
        shared = set(self.train.class_names) & set(self.test.class_names)
        if shared:
            raise ValueError(
                f"Benchmark {self.name!r}: training and test classes must be disjoint. "
                f"On both sides: {', '.join(sorted(shared)[:5])}{' ...' if len(shared) > 5 else ''}"
            )
        if self.gallery is not None and self.gallery.class_names != self.test.class_names:
            raise ValueError(f"Benchmark {self.name!r}: test and gallery must number the same classes alike.")
        if self.known is not None and self.known.class_names != self.train.class_names:
            raise ValueError(f"Benchmark {self.name!r}: train and known must number the same classes alike.")

    @property
    def fingerprint(self) -> str:
        """Checksum of all splits, 16 hexadecimal digits; see `Split.fingerprint`."""
        sides = (self.train, self.test, self.gallery, self.known)
        splits = [split.fingerprint for split in sides if split is not None]
        return hashlib.sha256(" ".join(splits).encode()).hexdigest()[:16]

    @property
    def identity(self) -> dict[str, Any]:
        """What tells these data from others, JSON-able."""
        return {"subset": self.subset, "fingerprint": self.fingerprint, **self.origin}

    def with_known(self, share: float) -> "Benchmark":
        """The benchmark with a part of the images of each training class held out as `known`.

        Args:
            share: Which part, of classes with three images or more: one image at least, and two stay.

        Raises:
            ValueError: A share that is not in (0, 1).
        """
        if not 0 < share < 1:
            raise ValueError(f"`share` must lie between 0 and 1. Received: share={share}")
        held = []
        for label in range(self.train.num_classes):
            rows = np.flatnonzero(self.train.labels == label)
            count = min(max(1, round(share * len(rows))), len(rows) - 2)
            # Spread over the class: neighbors in a list of photos are often of one series.
            if count > 0:
                held.append(rows[np.linspace(0, len(rows) - 1, count).round().astype(int)])
        if not held:
            return self
        known = np.concatenate(held)
        rest = np.setdiff1d(np.arange(len(self.train)), known)
        return dataclasses.replace(
            self, train=self.train.subset(rest, renumber=False), known=self.train.subset(known, renumber=False)
        )


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How many classes and images each side of a benchmark has; None where no number is published.

    Args:
        train_classes: Classes of the training side.
        train_images: Images of the training side.
        test_classes: Classes of the test side.
        test_images: Images of the test side (the queries).
        gallery_images: Images of the gallery, where the benchmark has one.
    """

    train_classes: int | None = None
    train_images: int | None = None
    test_classes: int | None = None
    test_images: int | None = None
    gallery_images: int | None = None

    def check(self, name: str, train: Split, test: Split, gallery: Split | None = None) -> None:
        """Compares the splits with the protocol.

        Raises:
            DataError: If a number differs; the text names all that do.
        """
        found = {
            "train_classes": train.num_classes,
            "train_images": len(train),
            "test_classes": test.num_classes,
            "test_images": len(test),
            "gallery_images": None if gallery is None else len(gallery),
        }
        wrong = [
            f"{count.replace('_', ' ')} {found[count]} instead of {expected}"
            for count, expected in dataclasses.asdict(self).items()
            if expected is not None and expected != found[count]
        ]
        if wrong:
            raise DataError(
                f"The data are not the whole benchmark {name!r}: {'; '.join(wrong)}. Numbers measured on other data "
                "cannot be compared with published ones. To use them anyway, ask for a subset: subset=True "
                "(in Python), --subset (on the command line)"
            )


@dataclasses.dataclass(frozen=True)
class Archive:
    """An archive of a data set's publisher.

    Args:
        name: File name.
        url: Where it was published; addresses of data sets die, the checksum stays.
        size: Bytes, or None where not known.
        sha256: Checksum, or None where not known.
    """

    name: str
    url: str
    size: int | None = None
    sha256: str | None = None

    def __str__(self) -> str:
        size = "" if self.size is None else f", {self.size:,} bytes"
        checksum = "checksum not known" if self.sha256 is None else f"sha256 {self.sha256}"
        return f"{self.name}{size}, {checksum}, from {self.url}"
