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


def held_out_folds(train: "Split") -> "list[ClassFold]":
    """The training classes in fifths, each of which may be held out; none with fewer than four classes."""
    if train.num_classes < LEAST:
        return []
    return list(class_folds(train.labels, min(FOLDS, train.num_classes // 2)))


def held_out_fold(train: "Split") -> "ClassFold | None":
    """The last of `held_out_folds`, or None."""
    return next(reversed(held_out_folds(train)), None)


def held_out(benchmark: "Benchmark", number: int = -1) -> "Benchmark":
    """The training classes alone: a fifth of them takes the place of the test classes.

    Args:
        benchmark: The data.
        number: Which fifth; by default the last.

    Raises:
        ValueError: Fewer than four training classes.
    """
    train = benchmark.train
    folds = held_out_folds(train)
    if not folds:
        raise ValueError(
            f"{benchmark.name} has {train.num_classes} training classes; a choice on held-out training classes takes "
            f"at least {LEAST}, two to train on and two to choose with"
        )
    fold = folds[number]
    return dataclasses.replace(
        benchmark, train=train.subset(fold.train), test=train.subset(fold.validation), gallery=None, known=None
    )
