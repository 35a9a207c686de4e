"""Pictures of an experiment."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_dml.data import Split

RIGHT, WRONG = "#1a7f37", "#d1242f"
Histories = Mapping[str, Sequence[Mapping[str, Sequence[float]]]]


def learning_curves(
    path: pathlib.Path,
    histories: Histories,
    epochs: Mapping[str, Sequence[int]],
    untrained: Mapping[str, float],
    title: str,
) -> None:
    """Recall@1 and MAP@R on the test classes by epoch: the mean over seeds of each arm, and the range as a band.

    Args:
        path: The PNG to write.
        histories: The histories of each arm, one for each seed.
        epochs: The epochs at which each arm was evaluated on the test classes.
        untrained: Mean values of the untrained network, drawn at epoch 0.
        title: Heading of the picture.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained", dpi=110)
    figure.suptitle(title)
    for axes, (metric, label) in zip(
        figure.subplots(1, 2), (("recall@1", "Recall@1"), ("map@r", "MAP@R")), strict=True
    ):
        for color, (arm, runs) in enumerate(histories.items()):
            values = np.array([run[f"val_{metric}"] for run in runs])
            start = np.full((len(values), 1), untrained[metric])
            values = np.hstack([start, values])
            axes.plot([0, *epochs[arm]], values.mean(0), color=f"C{color}", label=arm)
            axes.fill_between(
                [0, *epochs[arm]], values.min(0), values.max(0), color=f"C{color}", alpha=0.2, linewidth=0
            )
        axes.axhline(untrained[metric], color="grey", linestyle=":", label="untrained")
        axes.set(xlabel="epoch", ylabel=f"{label}, unseen classes")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path)


def neighbour_grid(
    path: pathlib.Path, split: Split, queries: Sequence[int], neighbours: np.ndarray, title: str
) -> None:
    """One row for each query: the query, then its nearest neighbours, framed by whether their class is right.

    Args:
        path: The PNG to write.
        split: Where queries and neighbours come from.
        queries: Rows of `split`.
        neighbours: `(len(queries), k)` rows of `split`, nearest first.
        title: Heading of the picture.
    """
    from matplotlib.figure import Figure

    columns = neighbours.shape[1] + 1
    figure = Figure(figsize=(0.9 * columns, 0.95 * len(queries) + 0.9), layout="constrained", dpi=110)
    figure.suptitle(title)
    grid: Any = figure.subplots(len(queries), columns, squeeze=False)
    for axes_row, query, found in zip(grid, queries, neighbours, strict=True):
        for axes, row in zip(axes_row, [query, *found], strict=True):
            axes.imshow(split.image(int(row)).squeeze(), cmap="gray", vmin=0, vmax=255)
            axes.set(xticks=[], yticks=[])
            is_query = axes is axes_row[0]
            right = split.labels[row] == split.labels[query]
            for spine in axes.spines.values():
                spine.set(color="black" if is_query else RIGHT if right else WRONG, linewidth=1 if is_query else 3)
        axes_row[0].set_ylabel(split.class_names[split.labels[query]], rotation=0, ha="right", va="center")
    grid[0, 0].set_title("query", fontsize=9)
    grid[0, 1].set_title("nearest", fontsize=9)
    figure.savefig(path)
