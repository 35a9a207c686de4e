"""Tables of results, in Markdown that is readable as plain text too."""

from collections.abc import Mapping, Sequence

import numpy as np

from zoo.titles import short_title as title

Metrics = Mapping[str, Sequence[float]]
"""Values over seeds, by metric."""


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table with the first row as its head; the first column to the left, the others to the right."""
    rows = [rows[0], ["---", *("---:" for _ in rows[0][1:])], *rows[1:]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    )


def metrics_table(metrics: Mapping[str, Metrics]) -> str:
    """Arms as rows, metrics as columns; mean and sample standard deviation over seeds, "-" for what an arm has not."""
    names = list(dict.fromkeys(name for values in metrics.values() for name in values))
    rows = [["", *map(title, names)]]
    rows += [
        [arm, *(mean_and_spread(values[name]) if name in values else "-" for name in names)]
        for arm, values in metrics.items()
    ]
    return markdown(rows)


def mean_and_spread(values: Sequence[float], scale: float = 1.0, digits: int = 4) -> str:
    """Mean ± sample standard deviation; the mean alone of a single value."""
    scaled = scale * np.asarray(values, dtype=float)
    mean = f"{scaled.mean():.{digits}f}"
    return mean if len(scaled) < 2 else f"{mean} ± {scaled.std(ddof=1):.{digits}f}"
