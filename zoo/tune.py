"""Finds each arm's learning rate on held-out training classes: `keras-dml tune glyphs`."""

import argparse
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_dml.utils.command import Parser, add_data_arguments, execute, positive, program, run, wrong_call
from keras_dml.utils.files import as_json, read_json, read_json_object, write_json
from zoo import recipes
from zoo.overrides import add_override_arguments, overridden
from zoo.recipe import Recipe, settings_as_saved
from zoo.tables import markdown

if TYPE_CHECKING:
    from keras_dml.data import Benchmark
    from zoo.progress import ExperimentProgress
    from zoo.runs import RunFolder

DESCRIPTION = """\
Trains every arm of a recipe at its learning rate and at rates above and below, on four fifths of the training
classes, and measures MAP@R on the others. Rates are added until the best one has a worse one on either side. The test
classes are not looked at. Finished runs are kept: the same command goes on."""
FACTOR = 10**0.5
"""Between two rates."""
METRIC = "map@r"


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = _parser().parse_args(arguments)
    message = "Interrupted. Finished epochs are kept: the same command goes on after the last of them."
    return execute(lambda: _run(options), message)


def _run(options: argparse.Namespace) -> None:
    from keras_dml.data import load
    from zoo.building import validate
    from zoo.held_out import held_out
    from zoo.runs.lock import locked
    from zoo.runs.provenance import use_threads

    with wrong_call():
        recipe = overridden(recipes.get(options.name), options)
        # Before all else: it is fixed with the first operation.
        if recipe.threads is not None:
            use_threads(recipe.threads)
        validate(recipe)
    folder = options.output or pathlib.Path("runs") / f"{recipe.name}-tuning"
    with locked(folder / ".lock"):
        benchmark = held_out(load(recipe.benchmark, options.data_dir, options.subset, options.bad_images))
        found = tune(recipe, [benchmark], folder, options.seeds)
        write_json(folder / "tuning.json", {"name": recipe.name, "data": benchmark.identity, "arms": found})
    print(f"\nMAP@R on {benchmark.test.num_classes} held-out training classes, in per cent, by learning rate:\n")
    print(f"{table(found)}\n")
    print("To train with the best rates:")
    best = " ".join(f"--set arms.{arm}.learning_rate={best_rate(scores):.3g}" for arm, scores in found.items())
    print(f"    {program()} reproduce {recipe.name} {best}")


def tune(
    recipe: Recipe, benchmarks: "Sequence[Benchmark]", folder: pathlib.Path, seeds: int = 1
) -> dict[str, dict[str, float]]:
    """Trains until every arm's best rate lies between two others.

    Args:
        recipe: Whose arms.
        benchmarks: What `held_out` gives, for one fifth of the training classes or several; the mean counts.
        folder: Where the runs are kept.
        seeds: Seeds of each run; the mean counts.

    Raises:
        ValueError: A learning rate of 0, or a finished run in `folder` with other settings or of other data.

    Returns:
        For each arm, MAP@R after the last epoch by learning rate.
    """
    from zoo.progress import ExperimentProgress

    found: dict[str, dict[str, float]] = {}
    for arm in recipe.arms:
        start = recipe.arm(arm).learning_rate
        if start == 0 and not recipe.choose:
            raise ValueError(
                f"Arm {arm!r} has no rate to start from. Expected: learning_rate above 0. Received: {start}"
            )
        epochs = recipe.arm(arm).epochs
        scores: dict[int, float] = {}
        # An arm that is fitted in closed form has one.
        waiting = [-1, 0, 1] if start else [0]
        while waiting:
            progress = ExperimentProgress(epochs * seeds * len(waiting) * len(benchmarks))
            for power in waiting:
                rate = float(f"{start * FACTOR**power:.3g}")
                values = [
                    _score(recipe, arm, rate, seed, benchmark, folder / f"part-{part}" if part else folder, progress)
                    for seed in recipe.seeds[:seeds]
                    for part, benchmark in enumerate(benchmarks)
                ]
                scores[power] = float(np.mean(values))
            progress.close()
            best = max(scores, key=lambda power: scores[power])
            if not start:
                break
            waiting = [best + 1] if best == max(scores) else [best - 1] if best == min(scores) else []
        found[arm] = {f"{start * FACTOR**power:.3g}": scores[power] for power in sorted(scores)}
    return found


def _score(
    recipe: Recipe,
    arm: str,
    rate: float,
    seed: int,
    benchmark: "Benchmark",
    folder: pathlib.Path,
    progress: "ExperimentProgress",
) -> float:
    from zoo.runs import RunFolder
    from zoo.training import train

    settings = {**recipe.arms[arm], "learning_rate": rate}
    changed = dataclasses.replace(
        recipe, arms={arm: settings}, exported=arm, evaluate_every=recipe.arm(arm).epochs, clustering=False
    )
    files = RunFolder(folder / arm / f"rate-{rate:.3g}" / f"seed-{seed}")
    if files.finished:
        _check_same(files, changed.arm(arm), benchmark)
    else:
        watcher = progress.run(f"{arm}, rate {rate:.3g}", recipe.arm(arm).epochs)
        train(changed, arm, seed, benchmark, files.path, watcher)
    metrics: dict[str, Any] = read_json(files.metrics)
    return float(metrics["last"][METRIC])


def _check_same(files: "RunFolder", recipe: Recipe, benchmark: "Benchmark") -> None:
    """Raises a ValueError if a finished run was trained with other settings or on other data."""
    before = read_json_object(files.config, {"recipe": dict, "data": dict})
    old, new = as_json(settings_as_saved(before.get("recipe") or {})), as_json(recipe.to_dict())
    differ = [name for name in new if old.get(name) != new[name]] + ["data"] * (
        before.get("data") != benchmark.identity
    )
    if differ:
        raise ValueError(
            f"{files.path} holds a run that was trained otherwise (it differs in: {', '.join(differ)}). Nothing was "
            "changed. Give another --output, or delete the folder first"
        )


def best_rate(scores: Mapping[str, float]) -> float:
    """The rate with the best score."""
    return float(max(scores, key=lambda rate: scores[rate]))


def table(found: Mapping[str, Mapping[str, float]]) -> str:
    """Rates as rows, arms as columns, in Markdown; the best rate of an arm in bold."""
    rates = sorted({rate for scores in found.values() for rate in scores}, key=float)
    rows = [["rate", *found]]
    for rate in rates:
        cells = []
        for scores in found.values():
            text = f"{100 * scores[rate]:.1f}" if rate in scores else ""
            cells.append(f"**{text}**" if text and float(rate) == best_rate(scores) else text)
        rows.append([rate, *cells])
    return markdown(rows)


def _parser() -> argparse.ArgumentParser:
    parser = Parser("tune", DESCRIPTION)
    parser.add_argument("name", help="a recipe")
    add_data_arguments(parser)
    parser.add_argument("--seeds", type=positive, default=1, help="seeds of each run, of the recipe's (default: 1)")
    parser.add_argument("--output", type=pathlib.Path, help="folder of the runs (default: runs/NAME-tuning)")
    add_override_arguments(parser)
    return parser


if __name__ == "__main__":
    run(main)
