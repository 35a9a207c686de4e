"""The published size of a benchmark, to tell the benchmark from something like it."""

import dataclasses

from keras_dml.data.data_error import DataError
from keras_dml.data.split import Split


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
                "cannot be compared with published ones. To use them all the same, ask for a subset: subset=True "
                "(in Python), --subset (on the command line)"
            )
