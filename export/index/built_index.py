"""Choosing, calibrating and building an index."""

import dataclasses
import time
from typing import Any

import numpy as np

from export.index.calibration import (
    MARGIN,
    RECALL_AT,
    Calibration,
    cheapest_settings,
    exact_scores,
    held_out_rows,
    recall_of,
    sample_queries,
)
from export.index.engine import EXACT, Engine, EngineSettings, engine_named
from export.index.spec import IndexSpec, largest_value
from keras_dml.utils.progress import SILENT, Progress


@dataclasses.dataclass(frozen=True)
class BuiltIndex:
    """An index with how it was built.

    Args:
        engine: What built it and searches it.
        index: The engine's own.
        settings: Calibrated settings.
        calibration: The measured recall, or None where there was nothing to measure.
        build_seconds: Wall time of building the final index.
    """

    engine: Engine
    index: Any
    settings: EngineSettings
    calibration: Calibration | None
    build_seconds: float


def normalized(embeddings: np.ndarray, metric: str) -> np.ndarray:
    """`(n, d)` float32 rows of length 1 where the metric is cosine (zero rows stay zero), else the input."""
    if metric != "cosine" or not len(embeddings):
        return np.asarray(embeddings, dtype=np.float32)
    largest = np.abs(embeddings).max(axis=1, keepdims=True)
    embeddings = embeddings / np.where(largest > 0, largest, 1).astype(np.float32)
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    embeddings /= np.where(norms > 0, norms, 1)
    return embeddings


def build_index(
    rows: np.ndarray, spec: IndexSpec | None = None, queries: np.ndarray | None = None, progress: Progress = SILENT
) -> BuiltIndex:
    """Builds the index that `spec` asks for.

    Without queries of the caller's, a sample of the gallery is held out: the search effort is calibrated on an index
    built without these rows, then the final index is built of all rows with the settings found.

    Args:
        rows: `(n, d)` finite float32, normalized where the metric is cosine.
        spec: What is wanted; by default an index chosen by size that reaches recall 0.95.
        queries: `(m, d)` float32 queries that are not rows of the gallery.
        progress: Is told what happens.

    Raises:
        ValueError: The rows cannot be indexed so, or `queries` are unusable.
    """
    spec = spec or IndexSpec()
    size, dim = rows.shape
    engine = spec.engine()
    settings = engine.choose(spec, size, dim)
    if not size:
        engine = engine_named(EXACT)
        settings = engine.choose(IndexSpec(EXACT, spec.metric), size, dim)
        return BuiltIndex(engine, engine.build(rows, settings), settings, None, 0.0)
    engine.check(settings, size)
    if settings.metric != "cosine" and np.abs(rows).max() > largest_value(dim):
        raise ValueError(
            f"With the metric {settings.metric} embeddings may hold values up to {largest_value(dim):g}, beyond which "
            f"scores overflow. Received: {np.abs(rows).max():g} in the gallery"
        )
    if queries is not None:
        queries = _checked_queries(queries, dim)
    if engine.is_exact(settings):
        index, seconds = _build(engine, rows, settings, progress)
        exact = Calibration(1.0, RECALL_AT, 0, "exact by construction", spec.recall)
        return BuiltIndex(engine, index, settings, exact, seconds)

    at = min(RECALL_AT, size)
    index, seconds = None, 0.0
    if queries is not None and len(queries):
        source = "queries of the caller"
        sample = normalized(sample_queries(queries), settings.metric)
        index, seconds = _build(engine, rows, settings, progress)
        searched, probe = rows, index
    else:
        source = "held out of the gallery"
        held = held_out_rows(size)
        sample = np.ascontiguousarray(rows[held])
        searched = np.delete(rows, held, axis=0)
        at = min(at, len(searched))
        if not at:
            index, seconds = _build(engine, rows, settings, progress)
            return BuiltIndex(engine, index, settings, None, seconds)
        progress.message(f"calibrating with {len(sample)} queries held out of the gallery")
        probe, _ = _build(engine, searched, engine.fit(settings, len(searched)), progress)
    kth = exact_scores(sample, searched, at, settings.metric)

    def measure(candidate: EngineSettings) -> float:
        found = engine.search(probe, sample, at, engine.fit(candidate, len(searched)))
        return recall_of(found, kth, sample, searched, candidate.metric)

    if spec.calibrates:
        target = min(1.0, spec.recall + MARGIN)
        settings, measured = cheapest_settings(engine, settings, measure, target, len(searched))
    else:
        measured = measure(settings)
    progress.message(f"recall@{at} {measured:.4f} ({engine.describe(settings)})")
    if index is None:
        del searched, probe
        index, seconds = _build(engine, rows, settings, progress)
    return BuiltIndex(engine, index, settings, Calibration(measured, at, len(sample), source, spec.recall), seconds)


def _checked_queries(queries: np.ndarray, dim: int) -> np.ndarray:
    queries = np.asarray(queries, np.float32)
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise ValueError(f"`queries` must have shape (queries, {dim}). Received: shape {queries.shape}")
    if not np.isfinite(queries).all():
        raise ValueError("`queries` must be finite. Received: NaN or infinity")
    return queries


def _build(engine: Engine, rows: np.ndarray, settings: EngineSettings, progress: Progress) -> tuple[Any, float]:
    """The index and the seconds it took."""
    engine.register()
    start = time.perf_counter()
    index = engine.build(rows, settings)
    seconds = time.perf_counter() - start
    progress.message(f"index of {len(rows)} x {rows.shape[1]} built in {seconds:.1f} s")
    return index, seconds
