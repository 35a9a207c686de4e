"""Training classes that are held out to choose by, in place of the test classes."""

import dataclasses
from typing import TYPE_CHECKING

from keras_dml.evaluation import class_folds

if TYPE_CHECKING:
    from keras_dml.data import Benchmark, Split
    from keras_dml.evaluation import ClassFold

FOLDS = 5
"""One part in so many of the training classes is held out, but at least two classes."""
LEAST = 4
"""Two classes to train on and two to choose with are the least that mean something."""


def held_out_fold(train: "Split") -> "ClassFold | None":
    """The last fifth of the training classes as a fold; None with fewer than four classes."""
    if train.num_classes < LEAST:
        return None
    *_, last = class_folds(train.labels, min(FOLDS, train.num_classes // 2))
    return last


def held_out(benchmark: "Benchmark") -> "Benchmark":
    """The training classes alone: the last fifth of them takes the place of the test classes.

    Raises:
        ValueError: Fewer than four training classes.
    """
    train = benchmark.train
    fold = held_out_fold(train)
    if fold is None:
        raise ValueError(
            f"{benchmark.name} has {train.num_classes} training classes; a choice on held-out training classes takes "
            f"at least {LEAST}, two to train on and two to choose with"
        )
    return dataclasses.replace(
        benchmark, train=train.subset(fold.train), test=train.subset(fold.validation), gallery=None, known=None
    )
