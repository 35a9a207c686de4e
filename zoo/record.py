"""The record of an experiment: what was run, on what, and what came out, beside the published figures."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_dml.utils.files import as_json, read_json
from zoo import recipes
from zoo.recipe import Recipe, settings_as_saved
from zoo.tables import markdown, mean_and_spread, title

if TYPE_CHECKING:
    from keras_dml.data import Benchmark
    from zoo.experiment import Experiment

RECORD_FORMAT = 1
CHOSEN_BY = "recall@1"
"""What the paper's protocol picks the best test epoch by."""


def make_record(experiment: "Experiment", benchmark: "Benchmark") -> dict[str, Any]:
    """The record of a finished experiment, JSON-able.

    Of every arm it holds the test metrics, one value for each seed: of the `untrained` network, after the `last` epoch,
    after the epoch that was `selected` on held-out training classes, and after the `best_test` epoch, which is what
    the DAS authors report and is optimistic, as the test classes choose it.
    """
    recipe = experiment.recipe
    configs = [read_json(run.files.config) for run in experiment.all_runs(benchmark)]
    sessions = [session for config in configs for session in config["sessions"]]
    return as_json(
        {
            "format": RECORD_FORMAT,
            "name": recipe.name,
            "recipe": {**recipe.to_dict(), "weights": configs[0]["weights"]},
            "changed_settings": changed_settings(recipe),
            "seeds": recipe.seeds,
            "data": {
                "benchmark": recipe.benchmark,
                **benchmark.identity,
                **{
                    name: {"images": len(split), "classes": split.num_classes}
                    for name, split in (
                        ("train", benchmark.train),
                        ("test", benchmark.test),
                        ("gallery", benchmark.gallery),
                        ("known", benchmark.known),
                    )
                    if split is not None
                },
            },
            "rivals": experiment.rivals(),
            "arms": {arm: _arm(experiment, arm) for arm in recipe.arms},
            **{name: distinct(session[name] for session in sessions) for name in ("code", "versions", "machine")},
        }
    )


def changed_settings(recipe: Recipe) -> list[str]:
    """The fields that `--set` and its like have changed in a recipe of the zoo, other than its seeds."""
    if recipe.name not in recipes.RECIPES:
        return []
    shipped, found = recipes.RECIPES[recipe.name], recipe.to_dict()
    # Arms that were added, such as controls, change none of the others.
    found["arms"] = {arm: options for arm, options in found["arms"].items() if arm in shipped.arms}
    return _differences(shipped, found, ("seeds", "threads", "rivals"))


def changed_settings_of_record(record: Mapping[str, Any]) -> list[str]:
    """In what the arms of a record were trained otherwise than the recipe of the zoo, as it is now, trains them.

    Args:
        record: As `make_record` gives it; of any age.
    """
    name, recipe = record["name"], record["recipe"]
    runs = [{"name": name, "arm": arm, "recipe": {**recipe, **options}} for arm, options in recipe["arms"].items()]
    return list(dict.fromkeys(setting for run in runs for setting in changed_settings_of_run(run)))


def changed_settings_of_run(config: Mapping[str, Any]) -> list[str]:
    """In what the arm of one run was trained otherwise than the recipe of the zoo, as it is now, trains it.

    Args:
        config: The run's `run.json`.
    """
    shipped = recipes.RECIPES.get(config.get("name", ""))
    if shipped is None:
        return []
    arm = str(config.get("arm"))
    # The other arms, and what is written about a recipe, do not concern the run.
    free = ("name", "summary", "arms", "exported", "rivals", "seeds", "published", "threads")
    return _differences(shipped.arm(arm) if arm in shipped.arms else shipped, config.get("recipe", {}), free)


def _differences(recipe: Recipe, found: Mapping[str, Any], free: Sequence[str]) -> list[str]:
    """The fields of `recipe`, but those in `free`, that have another value in `found`."""
    expected, now = as_json(recipe.to_dict()), as_json(settings_as_saved(found))
    # Which file of pretrained weights is taken is up to the user; whether there are any is not.
    for settings in (expected, now):
        if "weights" in settings:
            settings["weights"] = settings["weights"] is not None
    return [name for name, value in expected.items() if name in now and name not in free and now[name] != value]


def _arm(experiment: "Experiment", arm: str) -> dict[str, Any]:
    recipe = experiment.recipe.arm(arm)
    epochs = recipe.evaluated_epochs()
    runs = [experiment.files.run(arm, seed) for seed in recipe.seeds]
    metrics = [read_json(run.metrics) for run in runs]
    histories = [read_json(run.history) for run in runs]
    best = [int(np.argmax(history[f"val_{CHOSEN_BY}"])) for history in histories]
    result = {
        "published": recipe.published or None,
        "metric": recipe.chosen_metric,
        "untrained": _columns([one["untrained"] for one in metrics]),
        "last": {"epoch": recipe.epochs, **_columns([one["last"] for one in metrics])},
        "best_test": {"epoch": [epochs[row] for row in best], **_at(histories, best)},
        "seconds": [one["seconds"] for one in metrics],
    }
    if all("known" in one for one in metrics):
        result["known"] = _columns([one["known"] for one in metrics])
    chosen = experiment.selected_epoch(arm)
    if chosen is not None:
        result["selected"] = {"epoch": chosen, **_at(histories, [epochs.index(chosen)] * len(runs))}
        result["selection_seconds"] = read_json(experiment.files.selection(arm).metrics)["seconds"]
    return result


def _columns(rows: list[dict[str, float]]) -> dict[str, list[float]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def _at(histories: list[dict[str, list[float]]], rows: list[int]) -> dict[str, list[float]]:
    names = [name for name in histories[0] if name.startswith("val_")]
    return {
        name.removeprefix("val_"): [history[name][row] for history, row in zip(histories, rows, strict=True)]
        for name in names
    }


def distinct(values: Iterable[Any]) -> list[Any]:
    """Each value once: one, unless an experiment was finished with another version than it was begun with."""
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


WAYS = {"last": "last epoch", "selected": "epoch chosen on training classes", "best_test": "paper protocol"}
"""Ways to choose the epoch, as headings. "Paper protocol": the best test epoch."""


def protocol_table(record: Mapping[str, Any]) -> str:
    """What each way to choose the epoch gives, beside the published figure, in Markdown.

    Args:
        record: As `make_record` gives it.

    Returns:
        Recall@1, or the metric that was published, in per cent: mean ± sample standard deviation over seeds.
    """
    figures = [arm["published"]["metrics"] for arm in record["arms"].values() if arm["published"]]
    metric = "recall@1" if not figures or "recall@1" in figures[0] else next(iter(figures[0]))
    settings = record["changed_settings"]
    rows = [[title(metric), *WAYS.values()]]
    for arm, values in record["arms"].items():
        rows.append([arm, *(mean_and_spread(values[way][metric], 100, 2) if way in values else "-" for way in WAYS)])
    # On part of the data a published figure would say nothing.
    if figures and not record["data"]["subset"]:
        rows[0].append(f"published, with other {', '.join(settings)}" if settings else "published")
        for row, values in zip(rows[1:], record["arms"].values(), strict=True):
            published = (values["published"] or {}).get("metrics", {})
            row.append(f"{published[metric]:.2f}" if metric in published else "-")
    return markdown(rows)
