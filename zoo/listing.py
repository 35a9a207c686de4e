"""All recipes, with published and measured numbers: `python -m zoo.reproduce --list`."""

import pathlib
from collections.abc import Mapping
from typing import Any

from zoo import recipes
from zoo.files import read_json
from zoo.recipe import Recipe
from zoo.record import RECORD_FORMAT, changed_settings_of_record
from zoo.tables import mean_and_spread, title

HEAD = """\
Per cent, Recall@1 unless a row names another metric: as published, and as we measured it at the last epoch, at the
epoch chosen on held-out training classes, and at the best epoch on the test classes (the DAS paper's protocol,
optimistic). Mean ± sample standard deviation over seeds. A dash: none."""
COLUMNS = ("published", "last epoch", "chosen epoch", "best test epoch")
MEASURED = ("last", "selected", "best_test")
NONE = "-"


def listing(records: pathlib.Path) -> str:
    """The recipes by benchmark; for each its summary and, for every arm, a row of numbers.

    Args:
        records: Folder with the records of what was measured, `NAME.json`; a recipe without one was not measured.

    Raises:
        ValueError: For a record of another format.
    """
    benchmarks = dict.fromkeys(recipe.benchmark for recipe in recipes.RECIPES.values())
    rows: list[tuple[str, ...] | str] = [HEAD]
    for benchmark in benchmarks:
        rows += ["", (_heading(benchmark), *COLUMNS)]
        for recipe in recipes.RECIPES.values():
            if recipe.benchmark == benchmark:
                rows += [f"  {recipe.name}: {recipe.summary}"]
                rows += _recipe_rows(recipe, _record(records / f"{recipe.name}.json"))
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


def _recipe_rows(recipe: Recipe, record: Mapping[str, Any] | None) -> list[tuple[str, ...] | str]:
    """Where the numbers of a recipe come from, and a row for each arm.

    What was measured on part of the data has rows of its own, so that it never stands beside a published figure.
    """
    metric = _metric(recipe)
    published = {arm: recipe.arm(arm).published for arm in recipe.arms}
    figures = {arm: each["metrics"].get(metric) for arm, each in published.items() if each}
    sources = dict.fromkeys(each["source"] for each in published.values() if each)
    rows: list[tuple[str, ...] | str] = [f"    published: {'; '.join(sources)}"] if sources else []
    if record is None:
        return rows + [_row(arm, metric, figures.get(arm), {}) for arm in recipe.arms]
    note = f"    measured{_reservations(record)}: seeds {', '.join(map(str, record['seeds']))}"
    if not record["data"]["subset"]:
        rows.append(note)
        return rows + [_row(arm, metric, figures.get(arm), record["arms"].get(arm, {})) for arm in recipe.arms]
    if figures:
        rows += [_row(arm, metric, figures.get(arm), {}) for arm in recipe.arms]
    return [*rows, note, *(_row(arm, metric, None, record["arms"].get(arm, {})) for arm in recipe.arms)]


def _metric(recipe: Recipe) -> str:
    """The metric shown for all arms of a recipe: the first published one, else Recall@1."""
    published = [metric for arm in recipe.arms for metric in recipe.arm(arm).published.get("metrics", {})]
    return published[0] if published else "recall@1"


def _reservations(record: Mapping[str, Any]) -> str:
    """In what a measurement differs from the recipe as it is now."""
    differences = []
    if record["data"]["subset"]:
        differences.append(" on part of the data (--subset), not comparable with published figures")
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
