"""A benchmark: class-disjoint training and test sides."""

import dataclasses

from keras_dml.data.split import Split


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A zero-shot retrieval benchmark; no class is on both sides.

    Args:
        name: The name it is loaded by.
        train: Images of the training classes.
        test: Images of the test classes: the queries, and the gallery too where `gallery` is None.
        gallery: The gallery where the protocol has one of its own (query/gallery benchmarks).
    """

    name: str
    train: Split
    test: Split
    gallery: Split | None = None

    def __post_init__(self) -> None:
        shared = set(self.train.class_names) & set(self.test.class_names)
        if shared:
            raise ValueError(
                f"Benchmark {self.name!r}: training and test classes must be disjoint. "
                f"On both sides: {', '.join(sorted(shared)[:5])}{' ...' if len(shared) > 5 else ''}"
            )
