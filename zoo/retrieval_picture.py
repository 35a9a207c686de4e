"""The picture of an experiment: queries with their nearest neighbors, beside a map of the test images."""

import pathlib
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.figures import INK, RIGHT, WRONG, series_color

if TYPE_CHECKING:
    from keras_dml.data import Split

MAP_SIDE, THUMBNAIL = 1000, 32
"""Pixels of the map's side and of an image on it."""
MOST_GROUPS = 8
"""Groups of classes that get a color and a line in the legend."""


def group_of(class_name: str) -> str:
    """What comes before the first slash or blank of a class name: the script of a letter, the maker of a car."""
    return class_name.replace("/", " ").split(" ")[0]


def retrieval_picture(
    path: pathlib.Path,
    split: "Split",
    queries: Sequence[int],
    neighbors: np.ndarray,
    mapped: tuple[Sequence[int], np.ndarray] | None,
    title: str,
) -> None:
    """Draws it.

    Args:
        path: The PNG to write.
        split: Where all images come from.
        queries: Rows of `split`, a line each.
        neighbors: `(len(queries), k)` rows of `split`, nearest first, framed by whether their class is right.
        mapped: Rows of `split` and their `(n, 2)` positions on the map; None draws none.
        title: Heading of the picture.
    """
    from matplotlib.figure import Figure

    columns = neighbors.shape[1] + 1
    height = 0.62 * len(queries) + 0.7
    width = 0.62 * columns + 1.7
    figure = Figure(figsize=(width + (0 if mapped is None else height), height), layout="constrained", dpi=110)
    figure.suptitle(title, fontsize=11)
    left, right = figure, None
    if mapped is not None:
        left, right = figure.subfigures(1, 2, width_ratios=[width, height])
    _draw_neighbors(left.subplots(len(queries), columns, squeeze=False), split, queries, neighbors)
    if mapped is not None and right is not None:
        _draw_map(right.subplots(), split, *mapped)
    figure.savefig(path)


def _draw_neighbors(grid: Any, split: "Split", queries: Sequence[int], neighbors: np.ndarray) -> None:
    for axes_row, query, found in zip(grid, queries, neighbors, strict=True):
        for axes, row in zip(axes_row, [query, *found], strict=True):
            axes.imshow(split.image(int(row)).squeeze(), cmap="gray", vmin=0, vmax=255)
            axes.set(xticks=[], yticks=[])
            is_query = axes is axes_row[0]
            right = split.labels[row] == split.labels[query]
            for spine in axes.spines.values():
                spine.set(color=INK if is_query else RIGHT if right else WRONG, linewidth=1 if is_query else 2.5)
        name = textwrap.shorten(split.class_names[split.labels[query]], 56, placeholder=" ...")
        look = {"rotation": 0, "ha": "right", "va": "center", "fontsize": 7}
        axes_row[0].set_ylabel("\n".join(textwrap.wrap(name, 20)), **look)
    grid[0, 0].set_title("query", fontsize=8)
    grid[0, 1].set_title("nearest", fontsize=8)


def _draw_map(axes: Any, split: "Split", rows: Sequence[int], places: np.ndarray) -> None:
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Patch

    groups = [group_of(split.class_names[split.labels[row]]) for row in rows]
    known = sorted(set(groups))
    few = len(known) <= MOST_GROUPS
    colors = {name: to_rgb(series_color(number) if few else INK) for number, name in enumerate(known)}
    images = [split.image(int(row)) for row in rows]
    axes.imshow(map_canvas(images, [colors[group] for group in groups], places))
    axes.set(xticks=[], yticks=[])
    axes.set_title("the embedding, classes never seen in training", fontsize=8)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if few and len(known) > 1:
        handles = [Patch(color=colors[name], label=name.capitalize()) for name in known]
        axes.legend(handles=handles, fontsize=7, ncols=len(known), loc="upper center", bbox_to_anchor=(0.5, 0.0))


def map_canvas(
    images: Sequence[np.ndarray], colors: Sequence[tuple[float, float, float]], places: np.ndarray
) -> np.ndarray:
    """Images in small on white paper, `(MAP_SIDE, MAP_SIDE, 3)` in [0, 1].

    Args:
        images: `(height, width, channels)` uint8. Of those with one channel only the ink is drawn, the lesser of black
            and white.
        colors: The color of each one's ink.
        places: `(n, 2)` positions, in any unit.
    """
    canvas: np.ndarray = np.ones((MAP_SIDE, MAP_SIDE, 3), np.float32)
    low, high = places.min(axis=0), places.max(axis=0)
    corners = ((places - low) / np.maximum(high - low, 1e-12) * (MAP_SIDE - THUMBNAIL)).astype(int)
    for given, color, (x, y) in zip(images, colors, corners, strict=True):
        image = _thumbnail(given)
        spot = canvas[y : y + THUMBNAIL, x : x + THUMBNAIL]
        if image.shape[2] == 3:
            spot[:] = image
            continue
        ink = image if np.median(image) < 0.5 else 1 - image
        spot[:] = spot * (1 - ink) + ink * np.array(color, np.float32)
    return canvas


def _thumbnail(image: np.ndarray) -> np.ndarray:
    """`(THUMBNAIL, THUMBNAIL, channels)` in [0, 1]."""
    from PIL import Image

    drawn = Image.fromarray(image.squeeze()).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return np.atleast_3d(np.asarray(drawn, np.float32) / 255)
