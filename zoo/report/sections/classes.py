"""Metrics of every class."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from keras_dml.evaluation import RetrievalResult
from zoo.report.evaluated import EvaluatedRun
from zoo.report.sections.section import Section
from zoo.titles import title

CLASS_ROWS = 300


@dataclasses.dataclass(frozen=True)
class ClassRow:
    """A class.

    Args:
        name: What it is called.
        images: How many queries it has.
        values: Its metrics; NaN where none of its queries can be answered.
        taken_for: The wrong class that its nearest neighbors most often have, or None.
        times: How often they have it.
    """

    name: str
    images: int
    values: list[float]
    taken_for: str | None
    times: int


@dataclasses.dataclass(frozen=True, eq=False)
class ClassesSection(Section):
    """Classes by MAP@R, worst first.

    Args:
        columns: Titles of the metrics.
        rows: The classes, or the worst and best of many.
        total: How many classes there are.
    """

    key: ClassVar[str] = "classes"
    heading: ClassVar[str] = "Classes"
    columns: list[str]
    rows: list[ClassRow]
    total: int


def classes_section(evaluated: EvaluatedRun) -> ClassesSection:
    """Metrics of every class, and what it is taken for."""
    result = evaluated.result
    table, wrong = result.per_class(), taken_for(result)
    order = np.argsort(np.nan_to_num(table["map@r"], nan=2.0), kind="stable")
    if len(order) > CLASS_ROWS:
        order = np.concatenate([order[: CLASS_ROWS // 2], order[-CLASS_ROWS // 2 :]])
    names = [*(f"recall@{k}" for k in result.ks[:1]), "map@r", "r_precision"]
    rows = []
    for index in order:
        label = table["class"][index]
        other, times = wrong.get(label, (None, 0))
        rows.append(
            ClassRow(
                evaluated.class_name(label),
                int(table["queries"][index]),
                [float(table[name][index]) for name in names],
                None if other is None else evaluated.gallery_class(other),
                times,
            )
        )
    return ClassesSection(list(map(title, names)), rows, len(table["class"]))


def taken_for(result: RetrievalResult) -> dict[Any, tuple[Any, int]]:
    """Class -> the wrong class that its queries' nearest neighbors most often have, and how often."""
    nearest = result.neighbors[:, 0]
    rows = np.flatnonzero((nearest >= 0) & result.evaluated)
    rows = rows[result.gallery_labels[nearest[rows]] != result.labels[rows]]
    if not len(rows):
        return {}
    pairs = np.stack([result.labels[rows], result.gallery_labels[nearest[rows]]], axis=1)
    unique, counts = np.unique(pairs, axis=0, return_counts=True)
    most: dict[Any, tuple[Any, int]] = {}
    for (own, other), count in zip(unique, counts, strict=True):
        if count > most.get(own, (None, 0))[1]:
            most[own] = (other, int(count))
    return most
