"""All recipes, with published and measured numbers: `python -m zoo.reproduce --list`."""

import pathlib
from collections.abc import Mapping
from typing import Any

from zoo import recipes
from zoo.files import read_json
from zoo.recipe import Recipe
from zoo.tables import mean_and_spread

RECORD_FORMAT = 1
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
                record = _record(records / f"{recipe.name}.json")
                rows += [f"  {recipe.name}: {recipe.summary}", *_notes(recipe, record)]
                rows += [_row(recipe.arm(arm), arm, record) for arm in recipe.arms]
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


def _notes(recipe: Recipe, record: Mapping[str, Any] | None) -> list[str]:
    """Where the numbers of a recipe come from."""
    published = [recipe.arm(arm).published for arm in recipe.arms]
    sources = dict.fromkeys(each["source"] for each in published if each)
    notes = [f"published: {'; '.join(sources)}"] if sources else []
    if record is not None:
        seeds = ", ".join(map(str, record["seeds"]))
        part = "; PART OF THE DATA (--subset), not to be compared with published figures"
        notes.append(f"measured: seeds {seeds}{part if record['data']['subset'] else ''}")
    return [f"    {note}" for note in notes]


def _row(recipe: Recipe, arm: str, record: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The cells of an arm; `recipe` is the arm's."""
    published = recipe.published.get("metrics", {})
    metric = "recall@1" if "recall@1" in published or not published else next(iter(published))
    measured = {} if record is None else record["arms"].get(arm, {})
    ways = [measured.get(way, {}) for way in MEASURED]
    return (
        f"    {arm}" if metric == "recall@1" else f"    {arm}, {metric.replace('recall', 'Recall')}",
        f"{published[metric]:.2f}" if published else NONE,
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
