"""What densely-anchored sampling has recorded and produced."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from zoo.report.charts import Chart, histogram, line_chart
from zoo.report.evaluated import EvaluatedRun, history_by_epoch
from zoo.report.pictures import pixels_uri
from zoo.report.sections.section import Section
from zoo.runs import SavedRun
from zoo.titles import title

FREQUENCY_ROWS = 128
SAMPLE = 512
LENGTHS = 20000
LOGS = ("produced_distance", "produced_share", "bank_fill")


@dataclasses.dataclass(frozen=True, eq=False)
class DASState:
    """What `DASAugmentation` knew after the last step.

    Args:
        counts: `(classes, d)` frequency recorder matrix.
        bank: `(classes, places, d)` transformations.
        fill: `(classes,)` places of the bank that are filled.
        settings: Arguments of the augmentation.
    """

    counts: np.ndarray
    bank: np.ndarray
    fill: np.ndarray
    settings: Mapping[str, Any]

    @property
    def top_k(self) -> int:
        """How many of the largest channels are counted and scaled."""
        return int(self.settings.get("top_k", 4))

    @property
    def shift_scale(self) -> float:
        """r_b, the factor of a shift."""
        return float(self.settings.get("shift_scale", 0.01))


@dataclasses.dataclass(frozen=True, eq=False)
class DASSection(Section):
    """Frequency matrix, bank and distances.

    Args:
        channels: d.
        top_k: See `DASState`.
        classes: Training classes.
        rows: How many of them the picture shows.
        concentration: Share of the counts that the most frequent channels of each class hold.
        matrix: The frequency recorder matrix as a picture, a data URI.
        filled: Places of the bank that are filled.
        places: Places of the bank.
        empty_classes: Classes without a filled place.
        measured: Training images whose produced embeddings were measured; 0 if none.
        nearest: Mean distance of these images from the next of them; NaN if none were measured.
        distances: Histogram of distances from anchors.
        curves: What training logged, by epoch.
    """

    key: ClassVar[str] = "das"
    heading: ClassVar[str] = "Densely-anchored sampling"
    channels: int
    top_k: int
    classes: int
    rows: int
    concentration: float
    matrix: str
    filled: int
    places: int
    empty_classes: int
    measured: int
    nearest: float
    distances: Chart
    curves: list[Chart]


def read_das_state(run: SavedRun) -> DASState:
    """What a run has saved of its augmentation.

    Raises:
        ValueError: The file is damaged, or its arrays do not fit each other; the text names it.
        OSError: It cannot be read.
    """
    from keras_dml.data import reading

    path = run.files.das_state
    counts, bank, fill = "frequency_recorder_matrix", "transformation_bank", "bank_fill"
    saved = reading.read_npz(
        path,
        {
            counts: reading.ArraySpec("iu", (None, None), "(classes, d) whole numbers"),
            bank: reading.ArraySpec("f", (None, None, None), "(classes, places, d) numbers"),
            fill: reading.ArraySpec("iu", (None,), "(classes,) whole numbers"),
        },
        f"the arrays {counts}, {bank} and {fill}, as a training saves them",
    )
    shapes = {name: array.shape for name, array in saved.items()}
    if saved[bank].shape[::2] != saved[counts].shape or len(saved[fill]) != len(saved[counts]):
        raise ValueError(f"{path} is damaged: its arrays do not fit each other. Received: {shapes}")
    return DASState(saved[counts], saved[bank], saved[fill], run.config.get("recipe", {}).get("das") or {})


def das_section(evaluated: EvaluatedRun) -> DASSection | None:
    """What the run has saved of its augmentation; None if it was trained without."""
    run, random = evaluated.run, evaluated.random()
    if not run.files.das_state.is_file():
        return None
    state = read_das_state(run)
    counts, bank, fill = state.counts, state.bank, state.fill
    rows = np.sort(random.permutation(len(counts))[:FREQUENCY_ROWS])
    chosen = counts[rows].astype(float)
    filled = np.arange(bank.shape[1]) < fill[:, None]
    lengths = state.shift_scale * np.linalg.norm(bank[filled], axis=1)
    if len(lengths) > LENGTHS:
        lengths = random.choice(lengths, LENGTHS, replace=False)
    groups = {"shift alone, r_b |t|": lengths}
    made, nearest = produced_distances(evaluated, state, random) or (np.empty(0), np.nan)
    if len(made):
        groups["produced embedding, |v' - v|"] = made
    history = history_by_epoch(run)
    return DASSection(
        channels=counts.shape[1],
        top_k=state.top_k,
        classes=len(counts),
        rows=len(rows),
        concentration=float(np.sort(counts, axis=1)[:, ::-1][:, : state.top_k].sum() / max(counts.sum(), 1)),
        matrix=pixels_uri(chosen / np.maximum(chosen.max(axis=1, keepdims=True), 1)),
        filled=int(fill.sum()),
        places=filled.size,
        empty_classes=int(np.count_nonzero(fill == 0)),
        measured=len(made),
        nearest=float(nearest),
        distances=histogram(groups, "Distances from anchors", "distance"),
        # "Learning curves" shows the same logs; here they stand beside what they measure.
        curves=[
            line_chart({title(name): history[name]}, f"{title(name)} by epoch") for name in LOGS if name in history
        ],
    )


def produced_distances(
    evaluated: EvaluatedRun, state: DASState, random: np.random.Generator
) -> tuple[np.ndarray, float] | None:
    """Distances of produced embeddings from their anchors, and the mean distance of an anchor to the next.

    Measured on a sample of training images embedded by the finished encoder; None without images or encoder.
    """
    run = evaluated.run
    if evaluated.benchmark is None or not run.files.encoder.is_file():
        return None
    train = evaluated.benchmark.train
    if train.num_classes != len(state.counts):
        return None
    from keras_dml.evaluation import nearest_neighbors

    rows = np.sort(random.permutation(len(train))[:SAMPLE])
    vectors: np.ndarray = run.image_encoder().embed(train.subset(rows, renumber=False)).astype(np.float64)
    labels = train.labels[rows]
    low, high = state.settings.get("scale_range", (0.99, 1.01))
    order = np.argsort(-state.counts[labels], axis=1, kind="stable")[:, : state.top_k]
    scale = np.ones_like(vectors)
    np.put_along_axis(scale, order, random.uniform(low, high, order.shape), 1)
    place = (random.random(len(rows)) * state.fill[labels]).astype(int)
    moved = np.where(state.fill[labels, None] > 0, state.bank[labels, place], 0.0)
    made = scale * vectors + state.shift_scale * moved
    if state.settings.get("normalize", True):
        made /= np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-12)
    if len(vectors) < 2:
        return np.linalg.norm(made - vectors, axis=1), np.nan
    nearest = nearest_neighbors(vectors, k=1, metric="euclidean")[1][:, 0]
    return np.linalg.norm(made - vectors, axis=1), float(np.mean(nearest))
