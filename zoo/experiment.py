"""All arms and seeds of a recipe, in one folder with tables and pictures."""

import os
import pathlib
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from keras_dml.data import Benchmark
from keras_dml.utils.files import as_json, read_json, write_json
from zoo import figures
from zoo.progress import Progress
from zoo.recipe import Recipe, settings_as_saved
from zoo.record import make_record, protocol_table
from zoo.saved_run import SELECTION_RUN
from zoo.tables import metrics_table
from zoo.training import (
    SELECTION,
    epochs_done,
    finished,
    preprocessing,
    remove_checkpoint,
    train,
    validate,
    weights_identity,
)

if TYPE_CHECKING:
    from keras_dml.evaluation import ClassFold

EXPERIMENT_FORMAT = 1
SELECTION_FOLDS = 5
"""One part in so many of the training classes is held out to choose an epoch, but at least two classes."""


class Experiment:
    """The folder of an experiment.

    Every arm is trained with every seed on all training classes. Beside that, each arm is trained once, with the first
    seed, without a fifth of the training classes: the epoch at which it retrieves these best (by MAP@R) is reported as
    the arm's selected epoch. So an epoch can be chosen without a look at the test classes, while training has all
    classes. The price is one run more for each arm; `select_epoch` of the recipe turns it off.

    Args:
        recipe: What is run.
        folder: Where; made if missing.
    """

    def __init__(self, recipe: Recipe, folder: pathlib.Path) -> None:
        self.recipe = recipe
        self.folder = folder

    @property
    def runs(self) -> list[tuple[str, int]]:
        """Arms and seeds in the order they are trained: all arms of a seed, then the next seed."""
        return [(arm, seed) for seed in self.recipe.seeds for arm in self.recipe.arms]

    def run_folder(self, arm: str, seed: int) -> pathlib.Path:
        """Folder of one run."""
        return self.folder / arm / f"seed-{seed}"

    def fold_folder(self, arm: str, seed: int, number: int) -> pathlib.Path:
        """Folder of the run of a cross-validation that holds out fold `number`, from 0."""
        return self.run_folder(arm, seed) / f"fold-{number}"

    def selection_folder(self, arm: str) -> pathlib.Path:
        """Folder of the run that chooses the arm's epoch."""
        return self.folder / arm / SELECTION_RUN

    def selected_epoch(self, arm: str) -> int | None:
        """The epoch, from 1, that the arm's selection run chose; None where there is no such run."""
        if not finished(self.selection_folder(arm)):
            return None
        history = read_json(self.selection_folder(arm) / "history.json")
        return self.recipe.arm(arm).evaluated_epochs()[int(np.argmax(history[SELECTION]))]

    @property
    def shipped(self) -> pathlib.Path:
        """Folder of the run that is exported: chosen by name beforehand, never by its test result."""
        return self.run_folder(self.recipe.shipped, self.recipe.seeds[0])

    def finished(self, benchmark: Benchmark) -> bool:
        """Whether every run has been trained to its end, those that choose an epoch included."""
        return all(finished(folder) for *_, folder, _ in self.all_runs(benchmark))

    def start(self, benchmark: Benchmark, folds: int | None = None) -> None:
        """Claims the folder for this recipe and these data.

        Args:
            benchmark: The data.
            folds: The number of folds of a cross-validation.

        Raises:
            ValueError: If it holds an experiment with other settings, on other data or with another number of folds,
                or the recipe has settings that do not exist.
            FileNotFoundError: If a weights file is missing that is still needed.
        """
        validate(self.recipe)
        if folds is None:
            complete = self.finished(benchmark)
        else:
            complete = all(finished(self.fold_folder(*run, number)) for run in self.runs for number in range(folds))
        if not complete:
            for arm in self.recipe.arms:
                weights_identity(self.recipe.arm(arm).weights)
        path = self.folder / "experiment.json"
        config = {
            "format": EXPERIMENT_FORMAT,
            "name": self.recipe.name,
            "recipe": self.recipe.to_dict(),
            "data": {"subset": benchmark.subset, "fingerprint": benchmark.fingerprint},
            "folds": folds,
            "runs": [str(self.run_folder(*run).relative_to(self.folder)) for run in self.runs],
            "shipped": str(self.shipped.relative_to(self.folder)),
        }
        # Before its first run has begun, there is nothing to lose: a setting that made it fail can be corrected.
        if path.exists() and any(self.folder.glob("*/*/**/run.json")):
            before = read_json(path)
            after = as_json(config)
            settings = as_json(settings_as_saved(before["recipe"]))
            if settings != after["recipe"]:
                names = [name for name in after["recipe"] if settings.get(name) != after["recipe"][name]]
                raise ValueError(
                    f"{self.folder} holds an experiment with other settings (they differ in: {', '.join(names)}). "
                    "Nothing was changed. Give another --output, or delete the folder first"
                )
            # Finished runs are not trained again: with other data, old runs would be compared with new ones.
            for name, what in (("data", "on other data"), ("folds", "with another number of folds")):
                if before[name] != after[name]:
                    raise ValueError(
                        f"{self.folder} holds an experiment {what} ({name}: {before[name]}, now {after[name]}). "
                        "Nothing was changed. Give another --output, or delete the folder first"
                    )
        else:
            write_json(path, config)

    def train(self, benchmark: Benchmark, tensorboard: bool = False) -> None:
        """Trains every run that is not finished, with progress on the terminal."""
        runs = self.all_runs(benchmark)
        missing = [run for run in runs if not finished(run[2])]
        for run in runs:
            if run not in missing:
                remove_checkpoint(run[2])
        progress = Progress(sum(self.recipe.arm(arm).epochs - epochs_done(folder) for arm, _, folder, _ in missing))
        for arm, seed, folder, held_out in missing:
            epochs = self.recipe.arm(arm).epochs
            name = f"{arm}, seed {seed}" if held_out is None else f"{arm}, selection"
            report, on_step = partial(progress.update, name, epochs), partial(progress.step, name, epochs)
            train(self.recipe, arm, seed, benchmark, folder, report, held_out, tensorboard, on_step)

    def all_runs(self, benchmark: Benchmark) -> "list[tuple[str, int, pathlib.Path, ClassFold | None]]":
        """Arm, seed, folder and held-out classes of every run in the order they are trained."""
        runs: list[tuple[str, int, pathlib.Path, ClassFold | None]] = [
            (arm, seed, self.run_folder(arm, seed), None) for arm, seed in self.runs
        ]
        fold = self._selection_fold(benchmark)
        if fold is not None:
            runs += [(arm, self.recipe.seeds[0], self.selection_folder(arm), fold) for arm in self.recipe.arms]
        return runs

    def _selection_fold(self, benchmark: Benchmark) -> "ClassFold | None":
        from keras_dml.evaluation import class_folds

        classes = benchmark.train.num_classes
        # Two classes to train on and two to choose with are the least that mean something.
        if not self.recipe.select_epoch or classes < 4:
            return None
        *_, last = class_folds(benchmark.train.labels, min(SELECTION_FOLDS, classes // 2))
        return last

    def metrics(self) -> dict[str, dict[str, list[float]]]:
        """Test metrics at the last epoch by arm, and those of the untrained networks as "untrained"."""
        table: dict[str, dict[str, list[float]]] = {"untrained": {}}
        for arm, seed in self.runs:
            values = read_json(self.run_folder(arm, seed) / "metrics.json")
            for name, value in values["last"].items():
                table.setdefault(arm, {}).setdefault(name, []).append(value)
            if arm == next(iter(self.recipe.arms)):
                for name, value in values["untrained"].items():
                    table["untrained"].setdefault(name, []).append(value)
        return table

    def summarise(self, benchmark: Benchmark) -> tuple[str, str]:
        """Writes the record, tables and pictures.

        Returns:
            In Markdown, the table of all metrics at the last epoch, and that of the ways to choose the epoch.
        """
        metrics = self.metrics()
        record = make_record(self, benchmark)
        tables = (metrics_table(metrics), protocol_table(record))
        write_json(self.folder / "record.json", record)
        write_json(self.folder / "metrics.json", {"seeds": list(self.recipe.seeds), "arms": metrics})
        (self.folder / "table.md").write_text("\n\n".join(tables) + "\n", encoding="utf-8")
        histories = {
            arm: [read_json(self.run_folder(arm, seed) / "history.json") for seed in self.recipe.seeds]
            for arm in self.recipe.arms
        }
        untrained = {name: float(np.mean(values)) for name, values in metrics["untrained"].items()}
        seeds = len(self.recipe.seeds)
        title = f"{self.recipe.name}: mean and range of {seeds} seed{'s' if seeds > 1 else ''}"
        epochs = {arm: self.recipe.arm(arm).evaluated_epochs() for arm in self.recipe.arms}
        figures.learning_curves(self.folder / "learning_curve.png", histories, epochs, untrained, title)
        if benchmark.gallery is None:
            self._draw_neighbours(benchmark)
        return tables

    @property
    def model_dir(self) -> pathlib.Path:
        """The exported model's directory."""
        return self.folder / "export" / self.recipe.name

    def export(self, benchmark: Benchmark) -> pathlib.Path:
        """Exports the shipped run with the test images as its gallery, unless that has been done.

        Returns:
            A picture to search with: the first query that `neighbours.png` may show, as a file.
        """
        import keras

        import export
        from export.versions import versions

        gallery = benchmark.test if benchmark.gallery is None else benchmark.gallery
        # An export that was interrupted leaves the directory without a version in it.
        if not versions(self.model_dir):
            export.build_model(
                self.model_dir,
                gallery,
                keras.models.load_model(self.shipped / "encoder.keras"),
                preprocessing(self.recipe.arm(self.recipe.shipped)),
                options=export.BuildOptions(source=read_json(self.shipped / "run.json")),
            )
        query = self.folder / "query.png"
        if not query.exists():
            aside = query.with_name(f"partial-{query.name}")
            keras.utils.save_img(aside, benchmark.test.image(0), scale=False)
            os.replace(aside, query)
        return query

    def _draw_neighbours(self, benchmark: Benchmark, wrong: int = 4, right: int = 4, k: int = 10) -> None:
        from keras_dml.evaluation import evaluate_retrieval

        with np.load(self.shipped / "test_embeddings.npz") as saved:
            embeddings, labels = saved["embeddings"], saved["labels"]
        neighbours = evaluate_retrieval(embeddings, labels, ks=(k,)).neighbors[:, :k]
        hit = labels[neighbours[:, 0]] == labels
        random = np.random.default_rng(0)
        failed, found = random.permutation(np.flatnonzero(~hit)), random.permutation(np.flatnonzero(hit))
        queries = np.concatenate([found[:right], failed[:wrong]])
        figures.neighbour_grid(
            self.folder / "neighbours.png",
            benchmark.test,
            queries,
            neighbours[queries],
            f"{self.shipped.parent.name}: queries of unseen classes. Above, the nearest is right; below, wrong",
        )
