"""All arms and seeds of a recipe, in one folder with tables and pictures."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from keras_dml.data import Benchmark
from keras_dml.evaluation import class_folds
from keras_dml.utils.cores import available_cores
from keras_dml.utils.files import as_json, read_json, write_json, written_aside
from zoo import figures, rivals
from zoo.building import validate
from zoo.devices import Devices
from zoo.held_out import held_out_fold
from zoo.progress import ExperimentProgress
from zoo.projection import project
from zoo.recipe import Recipe, settings_as_saved
from zoo.record import make_record, protocol_table
from zoo.retrieval_picture import retrieval_picture
from zoo.runs import ExperimentFolder, RunFolder, checkpoint, open_run, read_embeddings
from zoo.runs.layout import EXPERIMENT_FORMAT
from zoo.runs.provenance import weights_identity
from zoo.runs.reading import read_experiment
from zoo.tables import metrics_table
from zoo.training import SELECTION, train

if TYPE_CHECKING:
    from keras_dml.evaluation import ClassFold

MAPPED = 700
"""Test images on the map, a random sample of more."""


@dataclasses.dataclass(frozen=True, eq=False)
class PlannedRun:
    """A run of an experiment.

    Args:
        arm: One of the recipe's arms.
        seed: One of its seeds.
        files: Its folder.
        fold: Training classes that are held out, or None.
        title: What it is called while it is trained.
    """

    arm: str
    seed: int
    files: RunFolder
    fold: "ClassFold | None"
    title: str


class Experiment:
    """The folder of an experiment.

    Every arm is trained with every seed on all training classes. Beside that, each arm is trained once, with the first
    seed, without a fifth of the training classes: the epoch at which it retrieves these best (by MAP@R) is reported as
    the arm's selected epoch. So an epoch can be chosen without a look at the test classes, while training has all
    classes. The price is one run more for each arm; `select_epoch` of the recipe turns it off.

    Args:
        recipe: What is run.
        folder: Where; made if missing.
        devices: What it is trained on; one device by default.
    """

    def __init__(self, recipe: Recipe, folder: pathlib.Path, devices: Devices | None = None) -> None:
        self.recipe = recipe
        self.devices = devices or Devices()
        self.folder = folder
        self.files = ExperimentFolder(folder)

    @property
    def runs(self) -> list[tuple[str, int]]:
        """Arms and seeds in the order they are trained: all arms of a seed, then the next seed."""
        return [(arm, seed) for seed in self.recipe.seeds for arm in self.recipe.arms]

    def selected_epoch(self, arm: str) -> int | None:
        """The epoch, from 1, that the arm's selection run chose; None where there is no such run."""
        selection = self.files.selection(arm)
        if not selection.finished:
            return None
        history = read_json(selection.history)
        return self.recipe.arm(arm).evaluated_epochs()[int(np.argmax(history[SELECTION]))]

    @property
    def exported(self) -> RunFolder:
        """The run that is exported: chosen by name beforehand, never by its test result."""
        return self.files.run(self.recipe.exported, self.recipe.seeds[0])

    def finished(self, benchmark: Benchmark) -> bool:
        """Whether every run has been trained to its end, those that choose an epoch included."""
        return all(run.files.finished for run in self.all_runs(benchmark))

    def threads(self) -> int:
        """Threads for an operation: those the experiment was begun with, else the recipe's, else one for each core."""
        begun = read_experiment(self.folder).get("threads") if self.files.config.exists() else None
        return begun or self.recipe.threads or available_cores()

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
            complete = all(self.files.fold(*run, number).finished for run in self.runs for number in range(folds))
        if not complete:
            for arm in self.recipe.arms:
                weights_identity(self.recipe.arm(arm).weights)
        config = {
            "format": EXPERIMENT_FORMAT,
            "name": self.recipe.name,
            "recipe": self.recipe.to_dict(),
            "data": benchmark.identity,
            "folds": folds,
            "threads": self.threads(),
            "runs": [str(self.files.run(*run).path.relative_to(self.folder)) for run in self.runs],
            "exported": str(self.exported.path.relative_to(self.folder)),
        }
        # Before its first run has begun, there is nothing to lose: a setting that made it fail can be corrected.
        if self.files.config.exists() and self.files.begun:
            before = read_experiment(self.folder)
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
            write_json(self.files.config, config)

    def train(self, runs: Sequence[PlannedRun], benchmark: Benchmark, tensorboard: bool = False) -> None:
        """Trains those of `runs` that are not finished, with progress on the terminal."""
        missing = [run for run in runs if not run.files.finished]
        for run in runs:
            if run.files.finished:
                # A process may have been killed between its last file and this.
                checkpoint.remove(run.files.path)
        progress = ExperimentProgress(
            sum(self.recipe.arm(run.arm).epochs - checkpoint.epochs_done(run.files.path) for run in missing)
        )
        for run in missing:
            watcher = progress.run(run.title, self.recipe.arm(run.arm).epochs)
            with self.devices.scope():
                train(self.recipe, run.arm, run.seed, benchmark, run.files.path, watcher, run.fold, tensorboard)
        progress.close()

    def all_runs(self, benchmark: Benchmark) -> list[PlannedRun]:
        """Every run in the order they are trained; those that choose an epoch last."""
        runs = [
            PlannedRun(arm, seed, self.files.run(arm, seed), None, f"{arm}, seed {seed}") for arm, seed in self.runs
        ]
        fold = held_out_fold(benchmark.train) if self.recipe.select_epoch else None
        if fold is not None:
            runs += [
                PlannedRun(arm, self.recipe.seeds[0], self.files.selection(arm), fold, f"{arm}, selection")
                for arm in self.recipe.arms
            ]
        return runs

    def folds(self, benchmark: Benchmark, folds: int) -> list[PlannedRun]:
        """Every run of a cross-validation over `folds` parts of the training classes."""
        parts = list(class_folds(benchmark.train.labels, folds))
        return [
            PlannedRun(
                arm,
                seed,
                self.files.fold(arm, seed, part.number),
                part,
                f"{arm}, seed {seed}, fold {part.number}",
            )
            for arm, seed in self.runs
            for part in parts
        ]

    def metrics(self) -> dict[str, dict[str, list[float]]]:
        """Test metrics of the rivals, of the untrained networks ("untrained"), and of the arms at the last epoch."""
        table: dict[str, dict[str, list[float]]] = {
            name: {metric: [value] for metric, value in values.items()} for name, values in self.rivals().items()
        }
        table["untrained"] = {}
        for arm, seed in self.runs:
            values = read_json(self.files.run(arm, seed).metrics)
            for name, value in values["last"].items():
                table.setdefault(arm, {}).setdefault(name, []).append(value)
            if arm == next(iter(self.recipe.arms)):
                for name, value in values["untrained"].items():
                    table["untrained"].setdefault(name, []).append(value)
        return table

    def rivals(self) -> dict[str, dict[str, float]]:
        """The metrics of the recipe's rivals by title, as `measure_rivals` found them."""
        return read_json(self.files.rivals) if self.files.rivals.exists() else {}

    def measure_rivals(self, benchmark: Benchmark) -> None:
        """Measures the recipe's rivals, unless that has been done."""
        if self.recipe.rivals and not self.files.rivals.exists():
            write_json(self.files.rivals, rivals.measure(self.recipe, benchmark))

    def summarize(self, benchmark: Benchmark) -> tuple[str, str]:
        """Writes the record, tables and pictures.

        Returns:
            In Markdown, the table of all metrics at the last epoch, and that of the ways to choose the epoch.
        """
        self.measure_rivals(benchmark)
        metrics = self.metrics()
        record = make_record(self, benchmark)
        tables = (metrics_table(metrics), protocol_table(record))
        write_json(self.files.record, record)
        write_json(self.files.metrics, {"seeds": list(self.recipe.seeds), "arms": metrics})
        self.files.table.write_text("\n\n".join(tables) + "\n", encoding="utf-8")
        histories = {
            arm: [read_json(self.files.run(arm, seed).history) for seed in self.recipe.seeds]
            for arm in self.recipe.arms
        }
        untrained = {name: float(np.mean(values)) for name, values in metrics["untrained"].items()}
        seeds = len(self.recipe.seeds)
        title = f"{self.recipe.name}: mean and range of {seeds} seed{'s' if seeds > 1 else ''}"
        epochs = {arm: self.recipe.arm(arm).evaluated_epochs() for arm in self.recipe.arms}
        beside = {name: {metric: values[0] for metric, values in metrics[name].items()} for name in self.rivals()}
        figures.learning_curves(self.files.learning_curve, histories, epochs, {"untrained": untrained, **beside}, title)
        if benchmark.gallery is None:
            self._draw_retrieval(benchmark)
        return tables

    @property
    def model_dir(self) -> pathlib.Path:
        """The exported model's directory."""
        return self.files.model_dir(self.recipe.name)

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
            run = open_run(self.exported.path)
            options = export.BuildOptions(source=run.config)
            export.build_model(self.model_dir, gallery, run.image_encoder(), options=options)
        query = self.files.query
        if not query.exists():
            with written_aside(query) as aside:
                keras.utils.save_img(aside, benchmark.test.image(0), scale=False)
        return query

    def _draw_retrieval(self, benchmark: Benchmark, wrong: int = 3, right: int = 5, k: int = 8) -> None:
        from keras_dml.evaluation import RetrievalOptions, evaluate_retrieval

        saved = read_embeddings(self.exported.test_embeddings)
        embeddings, labels = saved.vectors, saved.labels
        metric = self.recipe.arm(self.recipe.exported).chosen_metric
        found = evaluate_retrieval(embeddings, labels, ks=(k,), options=RetrievalOptions(metric=metric))
        neighbors = found.neighbors[:, :k]
        hit = labels[neighbors[:, 0]] == labels
        random = np.random.default_rng(0)
        failed, right_ones = random.permutation(np.flatnonzero(~hit)), random.permutation(np.flatnonzero(hit))
        queries = np.concatenate([right_ones[:right], failed[:wrong]])
        shown = np.sort(random.permutation(len(labels))[:MAPPED])
        places, _ = project(embeddings[shown], metric, "tsne", seed=0)
        retrieval_picture(
            self.files.neighbors,
            benchmark.test,
            queries,
            neighbors[queries],
            None if places is None else (shown.tolist(), places),
            f"{self.recipe.name}, {self.recipe.exported}: queries of unseen classes; of the lower "
            f"{min(wrong, len(failed))} the nearest is wrong",
        )
