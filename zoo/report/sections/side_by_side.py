"""What every arm retrieves for the same queries."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from zoo.report.evaluated import EvaluatedRun
from zoo.report.sections.queries import Tile, neighbor_tiles, query_tile, spread_over_classes
from zoo.report.sections.section import Section

SHOWN_QUERIES, SHOWN_NEIGHBORS = 8, 6


@dataclasses.dataclass(frozen=True)
class ArmNeighbors:
    """What an arm retrieves for a query.

    Args:
        arm: Its name.
        tiles: Its nearest neighbors.
        right: How many of them are of the query's class.
    """

    arm: str
    tiles: list[Tile]
    right: int


@dataclasses.dataclass(frozen=True, eq=False)
class SideBySideSection(Section):
    """Queries, and below each the neighbors under every arm.

    Args:
        queries: A query's tile, and what each arm retrieves.
        seed: What the queries were drawn with.
        neighbors: How many of each are shown.
        problem: Why there are no thumbnails, or None.
        runs: Titles of the runs.
        left_out: Arms with other test images than the first.
    """

    key: ClassVar[str] = "neighbors"
    heading: ClassVar[str] = "The same queries under each arm"
    queries: list[tuple[Tile, list[ArmNeighbors]]]
    seed: int
    neighbors: int
    problem: str | None
    runs: list[str]
    left_out: list[str]


class SideBySide:
    """Draws queries from the first run it is shown, and collects what this and each further run retrieves for them.

    Runs come one by one, since all embeddings of an experiment may not fit in memory together. The draw looks at labels
    only, never at a result: queries that have another image of their class to find, at most one of a class, in the
    order of a random permutation.

    Args:
        seed: Of the permutation.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._rows: list[int] = []
        self._queries: list[Tile] = []
        self._found: list[list[ArmNeighbors]] = []
        self._first: tuple[np.ndarray, Sequence[str] | None] | None = None
        self._problem: str | None = None
        self._runs: list[str] = []
        self._left_out: list[str] = []

    def add(self, arm: str, evaluated: EvaluatedRun) -> None:
        """Collects the neighbors under an arm."""
        result, ids = evaluated.result, evaluated.queries.ids
        if self._first is None:
            self._first, self._problem = (result.labels, ids), evaluated.pictures.problem
            order = evaluated.random().permutation(np.flatnonzero(result.evaluated))
            self._rows = spread_over_classes(order, result.labels, SHOWN_QUERIES, 1)
            # Of few classes some come again.
            more = [row for row in order if row not in self._rows]
            self._rows += list(map(int, more[: SHOWN_QUERIES - len(self._rows)]))
            self._queries = [query_tile(evaluated, row) for row in self._rows]
            self._found = [[] for _ in self._rows]
        elif not np.array_equal(self._first[0], result.labels) or self._first[1] != ids:
            self._left_out.append(arm)
            return
        self._runs.append(evaluated.run.title)
        for found, row in zip(self._found, self._rows, strict=True):
            tiles = neighbor_tiles(evaluated, row, SHOWN_NEIGHBORS)
            found.append(ArmNeighbors(arm, tiles, sum(tile.kind == "right" for tile in tiles)))

    def section(self) -> SideBySideSection | None:
        """What was collected; None if no query has anything to find."""
        if not self._rows:
            return None
        queries = list(zip(self._queries, self._found, strict=True))
        return SideBySideSection(queries, self._seed, SHOWN_NEIGHBORS, self._problem, self._runs, self._left_out)
