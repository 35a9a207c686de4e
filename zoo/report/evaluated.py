"""A run, evaluated: what the sections of its page are made of."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_dml.data import Benchmark
from keras_dml.evaluation import RetrievalResult
from zoo.evaluate import evaluate
from zoo.recipe import evaluated_epochs
from zoo.report.pictures import Pictures, find_pictures
from zoo.runs import Embeddings, SavedRun

SHOWN_NEIGHBORS = 8


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluatedRun:
    """A run with its retrieval result and, where they are found, its images.

    Args:
        run: The run.
        queries: Its test embeddings.
        gallery: Its gallery's, or None where the test images are their own gallery.
        result: How the queries retrieve.
        pictures: Thumbnails.
        benchmark: What the images come from, or None.
        seed: Of samples and of the map.
    """

    run: SavedRun
    queries: Embeddings
    gallery: Embeddings | None
    result: RetrievalResult
    pictures: Pictures
    benchmark: Benchmark | None
    seed: int

    def random(self) -> np.random.Generator:
        """A generator for one section: what a section draws does not depend on the sections before it."""
        return np.random.default_rng(self.seed)

    def class_name(self, label: Any) -> str:
        """The class of a query in words."""
        return _named(label, self.queries.class_names)

    def gallery_class(self, label: Any) -> str:
        """The class of a neighbor in words."""
        return _named(label, (self.gallery or self.queries).class_names or self.queries.class_names)

    def item(self, row: int) -> str:
        """Class and file of a query."""
        name = self.class_name(self.result.labels[row])
        return name if self.queries.ids is None else f"{name} · {pathlib.PurePath(self.queries.ids[row]).name}"


def evaluate_run(run: SavedRun, data_dir: pathlib.Path | None, seed: int) -> EvaluatedRun:
    """Evaluates a run's saved embeddings and looks for the images behind them.

    Args:
        run: The run.
        data_dir: Folder with the benchmark's images, where it needs one.
        seed: See `EvaluatedRun`.

    Raises:
        ValueError: It has no embeddings.
    """
    queries, gallery = run.embeddings(), run.gallery()
    result = evaluate(queries, gallery, run.ks, run.metric, keep_neighbors=max(SHOWN_NEIGHBORS, *run.ks[:1]))
    pictures, benchmark = find_pictures(run, queries, gallery, data_dir)
    return EvaluatedRun(run, queries, gallery, result, pictures, benchmark, seed)


def history_by_epoch(run: SavedRun) -> dict[str, dict[int, float]]:
    """The history's lines by epoch: of training after each one, of evaluations (`val_`) after some.

    Raises:
        ValueError: A line has more or fewer values than there were epochs.
    """
    recipe = run.config.get("recipe", {})
    if not run.history:
        return {}
    evaluated = evaluated_epochs(recipe["epochs"], recipe["evaluate_every"])
    trained = range(1, recipe["epochs"] + 1)
    return {
        name: dict(zip(evaluated if name.startswith("val_") else trained, line, strict=True))
        for name, line in run.history.items()
    }


def _named(label: Any, names: Sequence[str] | None) -> str:
    if names is not None and np.issubdtype(type(label), np.integer) and 0 <= label < len(names):
        return str(names[label])
    return str(label)
