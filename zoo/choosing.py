"""What held-out training classes choose before the arms of a recipe are compared: rates, and the arm to export."""

import dataclasses
import pathlib
from typing import TYPE_CHECKING

from keras_dml.utils.files import write_json
from zoo.held_out import held_out
from zoo.recipe import Recipe
from zoo.runs.layout import TUNING_FOLDER
from zoo.tune import best_rate, tune

if TYPE_CHECKING:
    from keras_dml.data import Benchmark

PARTS = (-1, 0)
"""Fifths of the training classes that are held out in turn: one of a few dozen classes says little."""


def fitted(recipe: Recipe, benchmark: "Benchmark") -> Recipe:
    """The recipe with batches of no more classes than a training without the held-out ones has."""
    classes = min(held_out(benchmark, number).train.num_classes for number in PARTS)
    return dataclasses.replace(recipe, classes_per_batch=min(recipe.classes_per_batch, classes))


def chosen(recipe: Recipe, benchmark: "Benchmark", folder: pathlib.Path) -> Recipe:
    """The recipe with each arm's best rate, and with the best arm as the exported one.

    Args:
        recipe: A recipe with `choose`.
        benchmark: The data; the test classes are not looked at.
        folder: The experiment folder; the runs are kept in it, and the same call finds them again.

    Raises:
        ValueError: Fewer than four training classes.
    """
    parts = [held_out(benchmark, number) for number in PARTS]
    found = tune(recipe, parts, folder / TUNING_FOLDER)
    arms = {
        arm: options if recipe.arm(arm).learning_rate == 0 else {**options, "learning_rate": best_rate(found[arm])}
        for arm, options in recipe.arms.items()
    }
    exported = max(found, key=lambda arm: max(found[arm].values()))
    write_json(
        folder / TUNING_FOLDER / "tuning.json", {"data": benchmark.identity, "arms": found, "exported": exported}
    )
    return dataclasses.replace(recipe, arms=arms, exported=exported)
