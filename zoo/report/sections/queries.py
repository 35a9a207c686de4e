"""The best and the worst queries of a run, with what they retrieve."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from zoo.report.evaluated import SHOWN_NEIGHBORS, EvaluatedRun
from zoo.report.sections.section import Section

SHOWN_QUERIES = 8


@dataclasses.dataclass(frozen=True)
class Tile:
    """An image in its frame.

    Args:
        kind: "query", "right" or "wrong".
        name: Its class.
        picture: A data URI, or None without images.
    """

    kind: str
    name: str
    picture: str | None


@dataclasses.dataclass(frozen=True, eq=False)
class QueriesSection(Section):
    """Queries with their neighbors.

    Args:
        problem: Why there are no thumbnails, or None.
        groups: Heading and, for each query, its tile and those of its neighbors.
    """

    key: ClassVar[str] = "queries"
    heading: ClassVar[str] = "Best and worst queries"
    problem: str | None
    groups: list[tuple[str, list[list[Tile]]]]


def queries_section(evaluated: EvaluatedRun) -> QueriesSection:
    """Chooses queries by average precision at R, at most two of a class; ties are broken by chance."""
    result = evaluated.result
    rows = np.flatnonzero(result.evaluated)
    score = result.per_query["map@r"][rows]
    first = np.where(result.first_match[rows] > 0, result.first_match[rows], result.depth + 1)
    shuffled = evaluated.random().permutation(len(rows))
    worst = shuffled[np.lexsort((-first[shuffled], score[shuffled]))]
    best = shuffled[np.argsort(-score[shuffled], kind="stable")]
    groups = [
        (heading, [[query_tile(evaluated, row), *neighbor_tiles(evaluated, row)] for row in chosen])
        for heading, order in (("Worst queries", worst), ("Best queries", best))
        if (chosen := spread_over_classes(rows[order], result.labels, SHOWN_QUERIES, 2))
    ]
    return QueriesSection(evaluated.pictures.problem, groups)


def spread_over_classes(rows: np.ndarray, labels: np.ndarray, count: int, each: int) -> list[int]:
    """The first `count` of `rows` with at most `each` of a class.

    Args:
        rows: Rows of `labels`, in the order they are taken.
        labels: `(n,)`.
        count: How many rows.
        each: How many of a class.
    """
    taken: dict[Any, int] = {}
    chosen: list[int] = []
    for row in rows:
        label = labels[row]
        if taken.get(label, 0) < each and len(chosen) < count:
            taken[label] = taken.get(label, 0) + 1
            chosen.append(int(row))
    return chosen


def query_tile(evaluated: EvaluatedRun, row: int) -> Tile:
    """The tile of a query."""
    return Tile("query", evaluated.class_name(evaluated.result.labels[row]), evaluated.pictures.thumbnail(row))


def neighbor_tiles(evaluated: EvaluatedRun, row: int, count: int = SHOWN_NEIGHBORS) -> list[Tile]:
    """The tiles of a query's nearest neighbors, nearest first."""
    result, tiles = evaluated.result, []
    for column in result.neighbors[row, :count]:
        # The gallery may hold fewer.
        if column >= 0:
            label = result.gallery_labels[column]
            kind = "right" if label == result.labels[row] else "wrong"
            picture = evaluated.pictures.thumbnail(int(column), gallery=True)
            tiles.append(Tile(kind, evaluated.gallery_class(label), picture))
    return tiles
