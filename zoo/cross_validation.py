"""Class-disjoint cross-validation, as "A Metric Learning Reality Check" (ECCV 2020, section 3.3) asks for it."""

import pathlib
from typing import Any

import numpy as np

from keras_dml.data import Benchmark
from keras_dml.evaluation import RetrievalOptions, evaluate_folds
from keras_dml.utils.files import read_json, write_json
from zoo.devices import Devices
from zoo.experiment import Experiment
from zoo.recipe import Recipe
from zoo.record import distinct
from zoo.runs import read_embeddings
from zoo.tables import metrics_table
from zoo.training import SELECTION, summary


def cross_validate(
    recipe: Recipe,
    folder: pathlib.Path,
    benchmark: Benchmark,
    folds: int,
    tensorboard: bool = False,
    devices: Devices | None = None,
) -> str:
    """Trains each arm and seed once per fold of the training classes and evaluates on the test classes.

    A fold's classes choose the epoch, by MAP@R; the test classes are looked at once, with the chosen encoders.

    Args:
        recipe: The experiment.
        folder: Its folder; finished runs in it are not repeated.
        benchmark: The data.
        folds: How many parts the training classes are split into.
        tensorboard: Whether every run writes logs for TensorBoard.
        devices: What it is trained on.

    Returns:
        A Markdown table: for every arm the mean over folds of each model's own embeddings, and that of the
        concatenated embeddings; mean and sample standard deviation over seeds.

    Raises:
        ValueError: If `folds` does not leave two classes to train on, or the folder holds other settings.
    """
    experiment = Experiment(recipe, folder, devices)
    runs = experiment.folds(benchmark, folds)
    experiment.start(benchmark, folds)
    if all(run.files.finished for run in runs):
        print(
            f"{folder} holds this cross-validation, finished; it is shown, not repeated. "
            "Delete the folder to repeat it."
        )
    experiment.train(runs, benchmark, tensorboard)
    table: dict[str, dict[str, list[float]]] = {}
    details: list[dict[str, Any]] = []
    for arm, seed in experiment.runs:
        parts = [run.files for run in runs if (run.arm, run.seed) == (arm, seed)]
        galleries = None
        if benchmark.gallery is not None:
            galleries = [read_embeddings(files.gallery_embeddings).vectors for files in parts]
        result = evaluate_folds(
            [read_embeddings(files.test_embeddings).vectors for files in parts],
            benchmark.test.labels,
            galleries,
            None if benchmark.gallery is None else benchmark.gallery.labels,
            ks=recipe.ks,
            options=RetrievalOptions(metric=recipe.arm(arm).chosen_metric),
        )
        separate = [summary(one, recipe.clustering) for one in result.separate]
        for row, values in (
            (arm, {name: float(np.mean([one[name] for one in separate])) for name in separate[0]}),
            (f"{arm}, concatenated", summary(result.concatenated, recipe.clustering)),
        ):
            for name, value in values.items():
                table.setdefault(row, {}).setdefault(name, []).append(value)
        evaluated = recipe.arm(arm).evaluated_epochs()
        chosen = [evaluated[int(np.argmax(read_json(files.history)[SELECTION]))] for files in parts]
        details.append({"arm": arm, "seed": seed, "epoch": chosen, **result.to_dict()})
    configs = [read_json(run.files.config) for run in runs]
    sessions = [session for config in configs for session in config["sessions"]]
    summarized = {
        "folds": folds,
        "data": {"benchmark": recipe.benchmark, **benchmark.identity},
        **{name: distinct(session[name] for session in sessions) for name in ("code", "versions", "machine")},
        "runs": details,
    }
    write_json(experiment.files.cross_validation, summarized)
    text = metrics_table(table)
    experiment.files.cross_validation.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    return text
