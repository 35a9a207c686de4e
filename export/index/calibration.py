"""Measuring an index against exact search, and the least effort that reaches a recall."""

import dataclasses
from collections.abc import Callable

import numpy as np

from export.index.engine import Engine, EngineSettings, Ladder

RECALL_AT = 10
CALIBRATION_QUERIES = 1000
# Scores that are held at once, 200 MB.
BLOCK_SCORES = 50_000_000
# Calibration aims this far above the recall asked for: other queries will do a little worse than the ones at hand.
MARGIN = 0.005


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What was measured when an index was chosen.

    Args:
        recall: Share of the exact `at` nearest items that the index returned.
        at: Neighbors per query.
        queries: Number of queries.
        source: Where the queries came from.
        target: The recall asked for.
    """

    recall: float
    at: int
    queries: int
    source: str
    target: float


def held_out_rows(size: int) -> np.ndarray:
    """Row numbers, ascending, that calibration takes out of a gallery of `size` rows to use them as queries."""
    return np.sort(np.random.default_rng(0).permutation(size)[: min(CALIBRATION_QUERIES, max(1, size // 10))])


def sample_queries(queries: np.ndarray) -> np.ndarray:
    """At most `CALIBRATION_QUERIES` of the caller's queries, in their order."""
    rows = np.random.default_rng(0).permutation(len(queries))[:CALIBRATION_QUERIES]
    return queries[np.sort(rows)]


def cheapest_settings(
    engine: Engine, settings: EngineSettings, measure: Callable[[EngineSettings], float], target: float, size: int
) -> tuple[EngineSettings, float]:
    """The cheapest settings whose recall reaches `target`, or the most accurate ones, and their recall.

    Args:
        engine: Says what may be changed.
        settings: What to begin with.
        measure: The recall with some settings; called once for each.
        target: Recall to reach.
        size: Rows of the index that `measure` searches.
    """
    tried: dict[EngineSettings, float] = {}

    def recall_for(candidate: EngineSettings) -> float:
        if candidate not in tried:
            tried[candidate] = measure(candidate)
        return tried[candidate]

    def climb(base: EngineSettings, ladder: Ladder) -> EngineSettings:
        """Bisection over growing effort; the most effort where none suffices."""
        low, high = 0, len(ladder.values) - 1
        while low < high:
            middle = (low + high) // 2
            if recall_for(ladder.step(base, middle)) >= target:
                high = middle
            else:
                low = middle + 1
        return ladder.step(base, low)

    for ladder in engine.ladders(settings, size):
        if ladder.if_short and recall_for(settings) >= target:
            break
        settings = climb(settings, ladder)
    return settings, recall_for(settings)


def exact_scores(queries: np.ndarray, rows: np.ndarray, k: int, metric: str) -> np.ndarray:
    """`(m,)` score of the k-th nearest row of each query, by exact search in blocks."""
    best: np.ndarray = np.full((len(queries), k), -np.inf, np.float32)
    block = max(1, BLOCK_SCORES // max(1, len(queries)))
    for start in range(0, len(rows), block):
        scores = np.concatenate([best, _scores(queries, rows[start : start + block], metric)], axis=1)
        best = -np.partition(-scores, k - 1, axis=1)[:, :k]
    return best.min(axis=1)


def recall_of(indices: np.ndarray, kth: np.ndarray, queries: np.ndarray, rows: np.ndarray, metric: str) -> float:
    """Share of the returned rows that are at least as near as the exact k-th, so that ties count as found.

    Args:
        indices: `(m, k)` row numbers, -1 where nothing was returned.
        kth: `(m,)` exact score of the k-th nearest row.
        queries: `(m, d)`.
        rows: `(n, d)`.
        metric: The metric.
    """
    hits = 0
    for query, found, limit in zip(queries, indices, kth, strict=True):
        found = np.unique(found[found >= 0])
        scores = _scores(query[None], rows[found], metric)[0]
        hits += int((scores >= limit - 1e-5 * max(1.0, abs(float(limit)))).sum())
    return hits / max(1, indices.size)


def _scores(queries: np.ndarray, rows: np.ndarray, metric: str) -> np.ndarray:
    scores = queries @ rows.T
    if metric == "euclidean":
        squares = np.einsum("nd,nd->n", queries, queries)[:, None] + np.einsum("nd,nd->n", rows, rows)
        return 2 * scores - squares
    return scores
