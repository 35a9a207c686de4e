"""All recipes, with published and measured numbers: `python -m zoo.reproduce --list`."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from keras_dml.utils.files import read_json
from zoo import recipes
from zoo.recipe import Recipe
from zoo.record import RECORD_FORMAT, changed_settings_of_record
from zoo.tables import mean_and_spread, title

HEAD = """\
Per cent, Recall@1 unless a row names another metric: as published, and as we measured it at the last epoch, at the
epoch chosen on held-out training classes, and at the best epoch on the test classes (the DAS paper's protocol,
optimistic). Mean ± sample standard deviation over seeds. A dash: none. All metrics of a recipe: --list NAME."""
COLUMNS = ("published", "last epoch", "chosen epoch", "best test epoch")
MEASURED = ("last", "selected", "best_test")
NONE = "-"


def listing(records: pathlib.Path, name: str | None = None) -> str:
    """The recipes by benchmark; for each its summary and, for every arm, a row of numbers.

    Args:
        records: Folder with the records of what was measured, `NAME.json`; a recipe without one was not measured.
        name: The one recipe to show, with a row for every metric that was published or measured.

    Raises:
        ValueError: For an unknown name, and for a record of another format.
    """
    shown = list(recipes.RECIPES.values()) if name is None else [recipes.get(name)]
    benchmarks = dict.fromkeys(recipe.benchmark for recipe in shown)
    rows: list[tuple[str, ...] | str] = [HEAD]
    for benchmark in benchmarks:
        rows += ["", (_heading(benchmark), *COLUMNS)]
        for recipe in shown:
            if recipe.benchmark == benchmark:
                record = _record(records / f"{recipe.name}.json")
                metrics = _metrics(recipe, record)
                rows += [f"  {recipe.name}: {recipe.summary}"]
                rows += _recipe_rows(recipe, record, metrics[:1] if name is None else metrics)
    return _aligned(rows)


def _heading(benchmark: str) -> str:
    headline = recipes.get(benchmark).name
    return f"Benchmark {benchmark}" + (f" (runs {headline})" if headline != benchmark else "")


def _record(path: pathlib.Path) -> Mapping[str, Any] | None:
    if not path.exists():
        return None
    record: dict[str, Any] = read_json(path)
    if record["format"] != RECORD_FORMAT:
        raise ValueError(f"{path} has format {record['format']}; this version reads {RECORD_FORMAT}. Measure it again")
    return record


def _recipe_rows(
    recipe: Recipe, record: Mapping[str, Any] | None, metrics: Sequence[str]
) -> list[tuple[str, ...] | str]:
    """Where the numbers of a recipe come from, and a row for each arm and metric.

    What was measured on part of the data has rows of its own, so that it never stands beside a published figure.
    """
    published = {arm: recipe.arm(arm).published for arm in recipe.arms}
    figures = {arm: each["metrics"] for arm, each in published.items() if each}
    # Records of version 0.1 have no rivals.
    rivals = {} if record is None else {name: _one(values) for name, values in record.get("rivals", {}).items()}
    measured: Mapping[str, Any] = {} if record is None else {**rivals, **record["arms"]}
    sources = dict.fromkeys(each["source"] for each in published.values() if each)

    def table(figures: Mapping[str, Any], measured: Mapping[str, Any]) -> list[tuple[str, ...] | str]:
        cells = [
            (metric, _row(arm, metric, figures.get(arm, {}).get(metric), measured.get(arm, {})))
            for arm in (*(rivals if measured else ()), *recipe.arms)
            for metric in metrics
        ]
        return [row for metric, row in cells if metric == metrics[0] or set(row[1:]) != {NONE}]

    rows: list[tuple[str, ...] | str] = [f"    published: {'; '.join(sources)}"] if sources else []
    if record is None:
        return rows + table(figures, measured)
    note = f"    measured{_reservations(record)}: seeds {', '.join(map(str, record['seeds']))}"
    if not record["data"]["subset"]:
        return [*rows, note, *table(figures, measured)]
    return [*rows, *(table(figures, {}) if figures else []), note, *table({}, measured)]


def _one(values: Mapping[str, float]) -> dict[str, dict[str, list[float]]]:
    """A rival's metrics as an arm's: it has no epochs."""
    return {"last": {name: [value] for name, value in values.items()}}


def _metrics(recipe: Recipe, record: Mapping[str, Any] | None) -> list[str]:
    """The published metrics of a recipe, then the others that were measured; the first is shown for all recipes."""
    published = [metric for arm in recipe.arms for metric in recipe.arm(arm).published.get("metrics", {})]
    measured = [] if record is None else [metric for arm in record["arms"].values() for metric in arm["last"]]
    return list(dict.fromkeys([*(published or ["recall@1"]), *(name for name in measured if name != "epoch")]))


def _reservations(record: Mapping[str, Any]) -> str:
    """In what a measurement differs from the recipe as it is now."""
    differences = []
    if record["data"]["subset"]:
        differences.append(" on part of the data, not comparable with published figures")
    # Not what the record says of itself: the recipe may have changed since.
    changed = changed_settings_of_record(record)
    if changed:
        differences.append(f" with other {', '.join(changed)}")
    return ";".join(differences)


def _row(arm: str, metric: str, published: float | None, measured: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of an arm: what is published in per cent, and its entry of the record."""
    ways = [measured.get(way, {}) for way in MEASURED]
    return (
        f"    {arm}" if metric == "recall@1" else f"    {arm}, {title(metric)}",
        NONE if published is None else f"{published:.2f}",
        *(mean_and_spread(found[metric], 100, 2) if metric in found else NONE for found in ways),
    )


def _aligned(rows: list[tuple[str, ...] | str]) -> str:
    """Rows of cells in columns, the first to the left; lines of text stay as they are."""
    cells = [row for row in rows if not isinstance(row, str)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]

    def line(row: tuple[str, ...] | str) -> str:
        if isinstance(row, str):
            return row
        first, *others = (
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join([first, *others])

    return "\n".join(map(line, rows))
