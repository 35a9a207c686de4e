"""All arms and seeds of a recipe, in one folder with tables and pictures."""

import pathlib
from collections.abc import Mapping

import numpy as np

from keras_dml.data import Benchmark
from zoo import figures
from zoo.files import read_json, write_json
from zoo.progress import Progress
from zoo.recipe import Recipe
from zoo.training import finished, preprocessing, train

EXPERIMENT_FORMAT = 1
Metrics = dict[str, list[float]]
"""Values over seeds, by metric."""


class Experiment:
    """The folder of an experiment.

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

    @property
    def shipped(self) -> pathlib.Path:
        """Folder of the run that is exported: chosen by name beforehand, never by its test result."""
        return self.run_folder(self.recipe.shipped, self.recipe.seeds[0])

    @property
    def finished(self) -> bool:
        """Whether every run has been trained to its end."""
        return all(finished(self.run_folder(arm, seed)) for arm, seed in self.runs)

    def start(self) -> None:
        """Claims the folder for this recipe.

        Raises:
            ValueError: If it holds an experiment with other settings.
        """
        path = self.folder / "experiment.json"
        config = {
            "format": EXPERIMENT_FORMAT,
            "name": self.recipe.name,
            "recipe": self.recipe.to_dict(),
            "runs": [str(self.run_folder(*run).relative_to(self.folder)) for run in self.runs],
            "shipped": str(self.shipped.relative_to(self.folder)),
        }
        if path.exists():
            before = read_json(path)
            write_json(path.with_name("experiment-new.json"), config)
            after = read_json(path.with_name("experiment-new.json"))
            path.with_name("experiment-new.json").unlink()
            if before["recipe"] != after["recipe"]:
                names = [name for name in after["recipe"] if before["recipe"].get(name) != after["recipe"][name]]
                raise ValueError(
                    f"{self.folder} holds an experiment with other settings (they differ in: {', '.join(names)}). "
                    "Nothing was changed. Give another --output, or delete the folder first"
                )
        else:
            write_json(path, config)

    def train(self, benchmark: Benchmark, tensorboard: bool = False) -> None:
        """Trains every run that is not finished, with progress on the terminal."""
        missing = [run for run in self.runs if not finished(self.run_folder(*run))]
        total = sum(self.recipe.arm(arm).epochs for arm, _ in missing)
        progress = Progress(total)
        for arm, seed in missing:
            epochs = self.recipe.arm(arm).epochs
            name = f"{arm}, seed {seed}"

            def report(epoch: int, logs: dict[str, float], name: str = name, epochs: int = epochs) -> None:
                progress.update(name, epoch, epochs, logs)

            train(self.recipe, arm, seed, benchmark, self.run_folder(arm, seed), report, tensorboard=tensorboard)

    def metrics(self) -> dict[str, Metrics]:
        """Test metrics at the last epoch by arm, and those of the untrained networks as "untrained"."""
        table: dict[str, Metrics] = {"untrained": {}}
        for arm, seed in self.runs:
            values = read_json(self.run_folder(arm, seed) / "metrics.json")
            for name, value in values["last"].items():
                table.setdefault(arm, {}).setdefault(name, []).append(value)
            if arm == next(iter(self.recipe.arms)):
                for name, value in values["untrained"].items():
                    table["untrained"].setdefault(name, []).append(value)
        return table

    def summarise(self, benchmark: Benchmark) -> str:
        """Writes tables and pictures, and returns the table in Markdown."""
        metrics = self.metrics()
        table = markdown_table(metrics)
        write_json(self.folder / "metrics.json", {"seeds": list(self.recipe.seeds), "arms": metrics})
        (self.folder / "table.md").write_text(table + "\n", encoding="utf-8")
        histories = {
            arm: [read_json(self.run_folder(arm, seed) / "history.json") for seed in self.recipe.seeds]
            for arm in self.recipe.arms
        }
        untrained = {name: float(np.mean(values)) for name, values in metrics["untrained"].items()}
        seeds = len(self.recipe.seeds)
        title = f"{self.recipe.name}: mean and range of {seeds} seed{'s' if seeds > 1 else ''}"
        epochs = [e + 1 for e in range(self.recipe.epochs) if not e % self.recipe.evaluate_every]
        epochs += [] if self.recipe.epochs in epochs else [self.recipe.epochs]
        figures.learning_curves(self.folder / "learning_curve.png", histories, epochs, untrained, title)
        if benchmark.gallery is None:
            self._draw_neighbours(benchmark)
        return table

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

        gallery = benchmark.test if benchmark.gallery is None else benchmark.gallery
        if not self.model_dir.exists():
            export.build_model(
                self.model_dir,
                gallery,
                keras.models.load_model(self.shipped / "encoder.keras"),
                preprocessing(self.recipe.arm(self.recipe.shipped)),
                source=read_json(self.shipped / "run.json"),
            )
        query = self.folder / "query.png"
        if not query.exists():
            keras.utils.save_img(query, benchmark.test.image(0), scale=False)
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


def markdown_table(metrics: Mapping[str, Metrics]) -> str:
    """Arms as rows, metrics as columns; mean and sample standard deviation over seeds."""
    names = list(next(iter(metrics.values())))
    titles = [name.replace("recall", "Recall").replace("map@r", "MAP@R").replace("nmi", "NMI") for name in names]
    rows = [["", *titles], ["---", *("---:" for _ in names)]]
    for arm, values in metrics.items():
        rows.append([arm, *(_mean_and_spread(values[name]) for name in names)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    )


def _mean_and_spread(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.4f}"
    return f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"
