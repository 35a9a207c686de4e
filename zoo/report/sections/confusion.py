"""Which class the nearest neighbor has."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from zoo.report.evaluated import EvaluatedRun
from zoo.report.sections.section import Section

MATRIX_CLASSES = 30
CONFUSED_PAIRS = 25


@dataclasses.dataclass(frozen=True)
class MatrixCell:
    """A cell of the confusion matrix.

    Args:
        count: Queries of the row's class whose nearest neighbor is of the column's.
        shade: Its share of the row in per cent, raised so that a single query is seen.
        right: Whether row and column are the same class.
    """

    count: int
    shade: float
    right: bool


@dataclasses.dataclass(frozen=True)
class ConfusedPair:
    """A class and the wrong class of nearest neighbors.

    Args:
        own: The queries' class.
        found: The neighbors'.
        queries: How many.
        share: Of the class's queries.
    """

    own: str
    found: str
    queries: int
    share: float


@dataclasses.dataclass(frozen=True, eq=False)
class ConfusionSection(Section):
    """A matrix of few classes, or the most frequent pairs of many.

    Args:
        columns: Names of the neighbors' classes; empty with many classes.
        matrix: Name of each query class and its cells.
        pairs: The most frequent wrong pairs of many classes.
        total_pairs: How many different ones there are.
    """

    key: ClassVar[str] = "confusion"
    heading: ClassVar[str] = "Confusion"
    columns: list[str]
    matrix: list[tuple[str, list[MatrixCell]]]
    pairs: list[ConfusedPair]
    total_pairs: int


def confusion_section(evaluated: EvaluatedRun) -> ConfusionSection | None:
    """Counts the classes of nearest neighbors; None if no query has one."""
    result = evaluated.result
    nearest = result.neighbors[:, 0]
    known = np.flatnonzero((nearest >= 0) & result.evaluated)
    if not len(known):
        return None
    own, found = result.labels[known], result.gallery_labels[nearest[known]]
    classes = np.unique(np.concatenate([own, found]))
    if len(classes) > MATRIX_CLASSES:
        return _pairs(evaluated, own, found)
    counts: np.ndarray = np.zeros((len(classes), len(classes)), int)
    np.add.at(counts, (np.searchsorted(classes, own), np.searchsorted(classes, found)), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    matrix = [
        (
            evaluated.class_name(label),
            [
                MatrixCell(int(count), 8 + 92 * share if count else 0, row == column)
                for column, (count, share) in enumerate(zip(counts[row], shares[row], strict=True))
            ],
        )
        for row, label in enumerate(classes)
    ]
    return ConfusionSection([evaluated.gallery_class(label) for label in classes], matrix, [], 0)


def _pairs(evaluated: EvaluatedRun, own: np.ndarray, found: np.ndarray) -> ConfusionSection:
    pairs: dict[tuple[Any, Any], int] = {}
    for a, b in zip(own.tolist(), found.tolist(), strict=True):
        if a != b:
            pairs[a, b] = pairs.get((a, b), 0) + 1
    sizes = dict(zip(*(part.tolist() for part in np.unique(own, return_counts=True)), strict=True))
    most = sorted(pairs.items(), key=lambda item: -item[1])[:CONFUSED_PAIRS]
    rows = [
        ConfusedPair(
            # Labels were made Python's own to be counted, and names are looked up by numpy's.
            evaluated.class_name(np.asarray(a)[()]),
            evaluated.gallery_class(np.asarray(b)[()]),
            count,
            count / sizes[a],
        )
        for (a, b), count in most
    ]
    return ConfusionSection([], [], rows, len(pairs))
