"""Class-disjoint cross-validation, as "A Metric Learning Reality Check" (ECCV 2020, section 3.3) asks for it."""

import pathlib
from functools import partial
from typing import Any

import numpy as np

from keras_dml.data import Benchmark
from keras_dml.evaluation import class_folds, evaluate_folds
from keras_dml.utils.files import read_json, write_json
from zoo.experiment import Experiment
from zoo.progress import Progress
from zoo.recipe import Recipe
from zoo.tables import metrics_table
from zoo.training import SELECTION, epochs_done, finished, remove_checkpoint, summary, train


def cross_validate(
    recipe: Recipe, folder: pathlib.Path, benchmark: Benchmark, folds: int, tensorboard: bool = False
) -> str:
    """Trains each arm and seed once per fold of the training classes and evaluates on the test classes.

    A fold's classes choose the epoch, by MAP@R; the test classes are looked at once, with the chosen encoders.

    Args:
        recipe: The experiment.
        folder: Its folder; finished runs in it are not repeated.
        benchmark: The data.
        folds: How many parts the training classes are split into.
        tensorboard: Whether every run writes logs for TensorBoard.

    Returns:
        A Markdown table: for every arm the mean over folds of each model's own embeddings, and that of the
        concatenated embeddings; mean and sample standard deviation over seeds.

    Raises:
        ValueError: If `folds` does not leave two classes to train on, or the folder holds other settings.
    """
    experiment = Experiment(recipe, folder)
    parts = list(class_folds(benchmark.train.labels, folds))
    experiment.start(benchmark, folds)
    runs = [
        (arm, seed, part, experiment.fold_folder(arm, seed, part.number))
        for arm, seed in experiment.runs
        for part in parts
    ]
    missing = [run for run in runs if not finished(run[3])]
    if not missing:
        print(
            f"{folder} holds this cross-validation, finished; it is shown, not repeated. "
            "Delete the folder to repeat it."
        )
    for run in runs:
        if run not in missing:
            remove_checkpoint(run[3])
    progress = Progress(sum(recipe.arm(arm).epochs - epochs_done(path) for arm, *_, path in missing))
    for arm, seed, part, path in missing:
        epochs, name = recipe.arm(arm).epochs, f"{arm}, seed {seed}, fold {part.number}"
        report, on_step = partial(progress.update, name, epochs), partial(progress.step, name, epochs)
        train(recipe, arm, seed, benchmark, path, report, part, tensorboard, on_step)
    table: dict[str, dict[str, list[float]]] = {}
    details: list[dict[str, Any]] = []
    for arm, seed in experiment.runs:
        paths = [path for run_arm, run_seed, _, path in runs if (run_arm, run_seed) == (arm, seed)]
        galleries = None if benchmark.gallery is None else [_embeddings(path, "gallery") for path in paths]
        result = evaluate_folds(
            [_embeddings(path, "test") for path in paths],
            benchmark.test.labels,
            galleries,
            None if benchmark.gallery is None else benchmark.gallery.labels,
            ks=recipe.ks,
        )
        separate = [summary(one, recipe.clustering) for one in result.separate]
        for row, values in (
            (arm, {name: float(np.mean([one[name] for one in separate])) for name in separate[0]}),
            (f"{arm}, concatenated", summary(result.concatenated, recipe.clustering)),
        ):
            for name, value in values.items():
                table.setdefault(row, {}).setdefault(name, []).append(value)
        evaluated = recipe.arm(arm).evaluated_epochs()
        chosen = [evaluated[int(np.argmax(read_json(path / "history.json")[SELECTION]))] for path in paths]
        details.append({"arm": arm, "seed": seed, "epoch": chosen, **result.to_dict()})
    configs = [read_json(path / "run.json") for *_, path in runs]
    summarised = {
        "folds": folds,
        "data": {
            "benchmark": recipe.benchmark,
            "subset": benchmark.subset,
            "fingerprint": benchmark.fingerprint,
        },
        "code": _distinct(configs, "code"),
        "versions": _distinct(configs, "versions"),
        "runs": details,
    }
    write_json(folder / "cross_validation.json", summarised)
    text = metrics_table(table)
    (folder / "cross_validation.md").write_text(text + "\n", encoding="utf-8")
    return text


def _distinct(configs: list[dict[str, Any]], name: str) -> list[Any]:
    """What the runs were computed with, each once; a run that was interrupted may have sessions that differ."""
    found: list[Any] = []
    for config in configs:
        for session in config.get("sessions", [config]):
            if session[name] not in found:
                found.append(session[name])
    return found


def _embeddings(folder: pathlib.Path, name: str) -> np.ndarray:
    with np.load(folder / f"{name}_embeddings.npz") as saved:
        return saved["embeddings"]
