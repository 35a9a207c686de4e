"""Choosing, building and calibrating an index."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from export import scann_ops
from export.index_settings import IndexSettings, largest_value

# Floats in the gallery up to which exact search is fast enough, and up to which hashing needs no tree in front.
BRUTE_FORCE_FLOATS = 5_500_000
HASHING_FLOATS = 40_000_000
# Hashing needs points to train its codebooks on, and blocks of more than a dimension or two.
HASHING_MIN_SIZE = 1000
HASHING_MIN_DIM = 8
# ScaNN refuses to train codebooks of 16 centres on fewer points; calibration leaves a tenth of them out.
SCANN_MIN_SIZE = 20
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
        at: Neighbours per query.
        queries: Number of queries.
        source: Where the queries came from.
        target: The recall asked for.
    """

    recall: float
    at: int
    queries: int
    source: str
    target: float


@dataclasses.dataclass(frozen=True)
class Index:
    """A built searcher with its settings.

    Args:
        searcher: ScaNN's TensorFlow searcher, or None for an empty gallery.
        settings: Calibrated settings.
        calibration: The measured recall, or None where there was nothing to measure.
        build_seconds: Wall time of building the final searcher.
    """

    searcher: Any
    settings: IndexSettings
    calibration: Calibration | None
    build_seconds: float


def normalised(embeddings: np.ndarray, metric: str) -> np.ndarray:
    """`(n, d)` float32 rows of length 1 where the metric is cosine (zero rows stay zero), else the input."""
    if metric != "cosine" or not len(embeddings):
        return np.asarray(embeddings, dtype=np.float32)
    largest = np.abs(embeddings).max(axis=1, keepdims=True)
    embeddings = embeddings / np.where(largest > 0, largest, 1).astype(np.float32)
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    embeddings /= np.where(norms > 0, norms, 1)
    return embeddings


def choose(
    size: int,
    dim: int,
    metric: str = "cosine",
    int8: bool = False,
    kind: str | None = None,
    leaves: int | None = None,
) -> IndexSettings:
    """Default settings for a gallery of `size` rows of `dim` floats, before calibration.

    Args:
        size: Rows.
        dim: Floats per row.
        metric: The metric.
        int8: Whether vectors are kept as 8-bit integers.
        kind: The kind of index, by the number of floats by default.
        leaves: Leaves of a tree, three times the root of `size` by default.
    """
    floats = size * dim
    if kind is None:
        if floats <= BRUTE_FORCE_FLOATS or size < HASHING_MIN_SIZE or dim < HASHING_MIN_DIM:
            kind = "brute_force"
        else:
            kind = "hashing" if floats <= HASHING_FLOATS else "tree"
    threshold = None if metric == "euclidean" else 0.2
    if kind != "tree":
        return IndexSettings(kind, metric, anisotropic_threshold=threshold, int8=int8)
    leaves = leaves or max(1, int(min(3 * math.sqrt(size), size / 20)))
    return IndexSettings(
        kind,
        metric,
        leaves=leaves,
        leaves_to_search=max(1, leaves // 50),
        anisotropic_threshold=threshold,
        int8=int8,
    )


def build(
    embeddings: np.ndarray,
    settings: IndexSettings | None = None,
    recall: float = 0.95,
    queries: np.ndarray | None = None,
    metric: str = "cosine",
    calibrate: bool | None = None,
    report: Callable[[str], None] = lambda text: None,
) -> Index:
    """Builds an index that reaches `recall` at 10.

    Without queries of the caller's, a sample of the gallery is held out: the search effort is calibrated on an index
    built without these rows, then the final index is built of all rows with the settings found.

    Args:
        embeddings: `(n, d)` finite float32, normalised where the metric is cosine.
        settings: Settings to use as given, or None to choose them.
        recall: Recall at 10 to reach, in (0, 1].
        queries: `(m, d)` float32 queries that are not rows of the gallery.
        metric: The metric where `settings` is None.
        calibrate: Whether the search effort may be raised or lowered; by default where `settings` is None.
        report: Is told what happens.
    """
    if not 0 < recall <= 1:
        raise ValueError(f"`recall` must lie in (0, 1]. Received: recall={recall}")
    size, dim = embeddings.shape
    if calibrate is None:
        calibrate = settings is None
    if settings is None:
        settings = choose(size, dim, metric)
    if settings.kind == "tree" and settings.leaves is not None and settings.leaves > size:
        raise ValueError(f"A tree cannot have more leaves than items. Received: leaves={settings.leaves}, {size} items")
    if not size:
        return Index(None, IndexSettings("brute_force", settings.metric), None, 0.0)
    if settings.kind != "brute_force" and size < SCANN_MIN_SIZE:
        raise ValueError(
            f"An index of kind {settings.kind} needs at least {SCANN_MIN_SIZE} items. Received: {size} items. "
            "Use brute_force, which is exact, and fast for so few"
        )
    if settings.metric != "cosine" and np.abs(embeddings).max() > largest_value(dim):
        raise ValueError(
            f"With the metric {settings.metric} embeddings may hold values up to {largest_value(dim):g}, beyond which "
            f"scores overflow. Received: {np.abs(embeddings).max():g} in the gallery"
        )
    if queries is not None:
        queries = np.asarray(queries, np.float32)
        if queries.ndim != 2 or queries.shape[1] != dim:
            raise ValueError(f"`queries` must have shape (queries, {dim}). Received: shape {queries.shape}")
        if not np.isfinite(queries).all():
            raise ValueError("`queries` must be finite. Received: NaN or infinity")
    if settings.kind == "brute_force" and not settings.int8:
        searcher, seconds = _build(embeddings, settings, report)
        return Index(searcher, settings, Calibration(1.0, RECALL_AT, 0, "exact by construction", recall), seconds)

    searcher = None
    seconds = 0.0
    at = min(RECALL_AT, size)
    if queries is not None and len(queries):
        source = "queries of the caller"
        rows = np.random.default_rng(0).permutation(len(queries))[:CALIBRATION_QUERIES]
        sample = normalised(queries[np.sort(rows)], settings.metric)
        searcher, seconds = _build(embeddings, settings, report)
        target_rows, probe = embeddings, searcher
    else:
        source = "held out of the gallery"
        held = np.sort(np.random.default_rng(0).permutation(size)[: min(CALIBRATION_QUERIES, max(1, size // 10))])
        sample = np.ascontiguousarray(embeddings[held])
        target_rows = np.delete(embeddings, held, axis=0)
        at = min(at, len(target_rows))
        if not at:
            searcher, seconds = _build(embeddings, settings, report)
            return Index(searcher, settings, None, seconds)
        report(f"calibrating with {len(sample)} queries held out of the gallery")
        probe, _ = _build(target_rows, _fit(settings, len(target_rows)), report)
    metric = settings.metric
    exact = exact_scores(sample, target_rows, at, metric)

    def measure(candidate: IndexSettings) -> float:
        indices = search(probe, sample, at, _fit(candidate, len(target_rows)), len(target_rows))
        return recall_of(indices, exact, sample, target_rows, metric)

    measured = measure(settings)
    if calibrate:
        settings, measured = _calibrate(settings, measured, measure, min(1.0, recall + MARGIN), len(target_rows))
    report(f"recall@{at} {measured:.4f} ({describe(settings)})")
    if searcher is None:
        del target_rows, probe
        searcher, seconds = _build(embeddings, settings, report)
    return Index(searcher, settings, Calibration(measured, at, len(sample), source, recall), seconds)


def describe(settings: IndexSettings) -> str:
    """The settings that matter, in a few words."""
    words = [settings.kind.replace("_", " "), settings.metric]
    if settings.kind == "tree":
        words.append(f"{settings.leaves_to_search} of {settings.leaves} leaves searched")
    if settings.kind != "brute_force":
        words.append(f"{settings.reorder} candidates reordered")
    if settings.int8:
        words.append("8-bit vectors")
    return ", ".join(words)


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


def search(searcher: Any, queries: np.ndarray, k: int, settings: IndexSettings, size: int) -> np.ndarray:
    """`(m, k)` row numbers from a ScaNN searcher, -1 where it found none."""
    indices, distances = searcher.search_batched_parallel(
        queries,
        final_num_neighbors=k,
        pre_reorder_num_neighbors=None if settings.reorder is None else min(settings.reorder, size),
        leaves_to_search=settings.leaves_to_search,
    )
    indices = np.where(np.isnan(distances.numpy()), -1, indices.numpy())
    return np.pad(indices, ((0, 0), (0, k - indices.shape[1])), constant_values=-1)


def _calibrate(
    settings: IndexSettings, measured: float, measure: Callable[[IndexSettings], float], target: float, size: int
) -> tuple[IndexSettings, float]:
    """The cheapest settings that reach `target`, or the most accurate ones."""
    tried = {settings: measured}

    def recall_for(candidate: IndexSettings) -> float:
        if candidate not in tried:
            tried[candidate] = measure(candidate)
        return tried[candidate]

    def cheapest(make: Callable[[int], IndexSettings], values: Sequence[int]) -> IndexSettings:
        """Bisection over growing effort; the most effort where none suffices."""
        low, high = 0, len(values) - 1
        while low < high:
            middle = (low + high) // 2
            if recall_for(make(values[middle])) >= target:
                high = middle
            else:
                low = middle + 1
        return make(values[low])

    if settings.kind == "tree":
        leaves = settings.leaves or 1
        efforts = sorted({max(1, min(leaves, round(1.12**step))) for step in range(200)})
        base = settings
        settings = cheapest(lambda value: dataclasses.replace(base, leaves_to_search=value), efforts)
    if settings.kind != "brute_force" and recall_for(settings) < target:
        # Every leaf searched and still short: the hashed scores lose the right candidates, so keep more of them.
        efforts = sorted({min(size, (settings.reorder or 100) * 2**step) for step in range(16)})
        base = settings
        settings = cheapest(lambda value: dataclasses.replace(base, reorder=value), efforts)
        if settings.kind == "tree":
            leaves_of = settings
            efforts = sorted({max(1, min(leaves, round(1.12**step))) for step in range(200)})
            settings = cheapest(lambda value: dataclasses.replace(leaves_of, leaves_to_search=value), efforts)
    return settings, recall_for(settings)


def _build(embeddings: np.ndarray, settings: IndexSettings, report: Callable[[str], None]) -> tuple[Any, float]:
    ops = scann_ops.register()
    start = time.perf_counter()
    measure = "squared_l2" if settings.metric == "euclidean" else "dot_product"
    builder = ops.builder(np.ascontiguousarray(embeddings, np.float32), RECALL_AT, measure)
    if settings.kind == "brute_force":
        builder = builder.score_brute_force(quantize=settings.int8)
    else:
        if settings.kind == "tree":
            builder = builder.tree(
                num_leaves=settings.leaves,
                num_leaves_to_search=settings.leaves_to_search,
                training_sample_size=min(len(embeddings), max(100_000, 50 * (settings.leaves or 1))),
                # Unit vectors want a spherical tree: recall at the same effort is much higher.
                spherical=settings.metric == "cosine",
            )
        threshold = settings.anisotropic_threshold
        builder = builder.score_ah(
            settings.dimensions_per_block,
            anisotropic_quantization_threshold=float("nan") if threshold is None else threshold,
        ).reorder(settings.reorder, quantize=settings.int8)
    searcher = builder.build()
    seconds = time.perf_counter() - start
    report(f"index of {len(embeddings)} x {embeddings.shape[1]} built in {seconds:.1f} s")
    return searcher, seconds


def _fit(settings: IndexSettings, size: int) -> IndexSettings:
    """The settings for a gallery that shrank by the held-out rows."""
    if settings.kind != "tree" or (settings.leaves or 1) <= size:
        return settings
    return dataclasses.replace(settings, leaves=size, leaves_to_search=min(settings.leaves_to_search or 1, size))


def _scores(queries: np.ndarray, rows: np.ndarray, metric: str) -> np.ndarray:
    scores = queries @ rows.T
    if metric == "euclidean":
        squares = np.einsum("nd,nd->n", queries, queries)[:, None] + np.einsum("nd,nd->n", rows, rows)
        return 2 * scores - squares
    return scores
