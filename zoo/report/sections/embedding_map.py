"""A map of the embedding, to look around in."""

import dataclasses
from typing import ClassVar

import numpy as np

from zoo.projection import project
from zoo.report.evaluated import EvaluatedRun
from zoo.report.sections.section import Section

MAP_POINTS = 1200


@dataclasses.dataclass(frozen=True)
class Point:
    """An image on the map.

    Args:
        x: In [20, 780].
        y: In [20, 500].
        color: Of its class, in CSS.
        label: Its class and file.
    """

    x: float
    y: float
    color: str
    label: str


@dataclasses.dataclass(frozen=True, eq=False)
class MapSection(Section):
    """The map.

    Args:
        points: The images on it.
        total: Number of test images.
        method: How the positions were found, in words.
        sheet: All thumbnails as tiles of one picture, a data URI; None without images.
        columns: Tiles in a line of the sheet.
    """

    key: ClassVar[str] = "map"
    heading: ClassVar[str] = "Map of the embedding"
    points: list[Point]
    total: int
    method: str
    sheet: str | None
    columns: int


def map_section(evaluated: EvaluatedRun, projection: str) -> MapSection | None:
    """Places test images, or a sample of many, on a plane; None with fewer than three.

    Args:
        evaluated: The run.
        projection: "tsne" or "pca".
    """
    labels = evaluated.result.labels
    rows = np.sort(evaluated.random().permutation(len(labels))[:MAP_POINTS])
    vectors = evaluated.queries.vectors[rows]
    places, method = project(vectors, evaluated.result.metric, projection, evaluated.seed)
    if places is None:
        return None
    low, high = places.min(axis=0), places.max(axis=0)
    places = 20 + (places - low) / np.where(high > low, high - low, 1.0) * np.array([760, 480])
    known, codes = np.unique(labels, return_inverse=True)
    points = [
        Point(float(x), float(y), _color(int(codes[row]), len(known)), evaluated.item(row))
        for row, (x, y) in zip(rows, places, strict=True)
    ]
    sheet, columns = evaluated.pictures.sprite(rows.tolist()) or (None, 1)
    return MapSection(points, len(labels), method, sheet, columns)


def _color(code: int, total: int) -> str:
    """Well separated hues, the same in light and in the dark."""
    hue = code * 360 / total if total <= 12 else code * 137.508 % 360
    return f"hsl({hue:.0f} 65% {(50, 42, 60)[code % 3] if total > 12 else 50}%)"
