"""Charts for the page: drawn by `zoo.figures`, turned into inline SVG that takes its colors from the page."""

import dataclasses
import io
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from zoo.figures import DASHES, INK, RULE, SERIES, Curve, draw_curves, draw_histogram

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE = (480, 250)
"""Width and height of a chart's own coordinates, in which its text has 13 pixels: read on a phone at three quarters."""
MARGINS = {"left": 56, "right": 14, "top": 26, "bottom": 44}
"""Between the drawing and its frame, in pixels: the same in all charts, so that their epochs are in line."""
STYLE = {
    # Text stays text: it can be selected, searched and read aloud.
    "svg.fonttype": "none",
    "font.size": 13.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    # A point without neighbors on the line would be simplified away.
    "path.simplify": False,
}
COLORS = {INK: "currentColor", RULE: "var(--rule)"}
KEPT_STYLES = ("fill", "stroke", "stroke-width", "stroke-dasharray", "text-anchor", "font-size")
NAMESPACE = "{http://www.w3.org/2000/svg}"


@dataclasses.dataclass(frozen=True)
class LegendEntry:
    """A line of a legend.

    Args:
        name: What is drawn.
        style: CSS classes that the drawing has too.
        value: A number that tells the most: the last value of a curve, the mean of a histogram.
    """

    name: str
    style: str
    value: str


@dataclasses.dataclass(frozen=True)
class Chart:
    """A chart, or the words that stand for one that would show nothing.

    Args:
        title: What it shows.
        svg: The drawing; None where words are enough.
        legend: What the colors mean.
        words: What there is to say instead of a drawing.
    """

    title: str
    svg: Markup | None = None
    legend: tuple[LegendEntry, ...] = ()
    words: str = ""


def line_chart(series: Mapping[str, Mapping[int, float | None]], title: str) -> Chart:
    """Lines over epochs 1, 2, 3, ...; values that are not finite leave gaps.

    Args:
        series: Name -> epoch -> value, epochs ascending.
        title: What the chart shows; no other chart of the page has the same.
    """
    curves = [
        Curve(name, tuple(line), np.array([list(line.values())], dtype=float).reshape(1, -1), index)
        for index, (name, line) in enumerate(series.items())
    ]
    return curve_chart(curves, title)


def curve_chart(curves: Sequence[Curve], title: str, references: Mapping[str, float] | None = None) -> Chart:
    """Curves of runs, or of arms with the spread over their seeds.

    Args:
        curves: What is drawn.
        title: What the chart shows; no other chart of the page has the same.
        references: Values to compare with, drawn across as dotted lines.

    Returns:
        The drawing; words if no curve has two values that differ.
    """
    curves = [curve for curve in curves if len(curve.finite)]
    if not curves:
        return Chart(title, words="No values.")
    if all(np.ptp(curve.finite) == 0 for curve in curves):
        return Chart(title, words=" ".join(_constant(curve, len(curves) > 1) for curve in curves))
    references = {name: value for name, value in (references or {}).items() if math.isfinite(value)}
    figure, axes = _figure()
    draw_curves(axes, curves, references)
    names = {f"line-{curve.series}": curve.name for curve in curves}
    names |= {f"reference-{index}": name for index, name in enumerate(references)}
    description = " ".join(
        [_described(curve) for curve in curves] + [f"{name}: {number(value)}." for name, value in references.items()]
    )
    legend = [LegendEntry(curve.name, _style(curve.series), _last(curve)) for curve in curves]
    legend += [LegendEntry(name, "reference", number(value)) for name, value in references.items()]
    return Chart(title, _svg(figure, title, description, names), tuple(legend))


def histogram(groups: Mapping[str, Sequence[float] | np.ndarray], title: str, x_label: str, bins: int = 40) -> Chart:
    """Overlaid histograms of several groups, each as shares of its own total.

    Args:
        groups: Name -> values.
        title: What the chart shows; no other chart of the page has the same.
        x_label: Name of the horizontal axis.
        bins: Number of bars.
    """
    finite = {name: np.asarray(group, dtype=float) for name, group in groups.items()}
    finite = {name: group[np.isfinite(group)] for name, group in finite.items()}
    if not any(map(len, finite.values())):
        return Chart(title, words="No values.")
    figure, axes = _figure()
    draw_histogram(axes, finite, bins)
    axes.set_xlabel(x_label)
    axes.set_title("share of the group", loc="left", fontsize=STYLE["font.size"], color=INK)
    means = {name: number(float(group.mean())) if len(group) else "-" for name, group in finite.items()}
    description = " ".join(
        f"{name}: mean {means[name]}, from {number(group.min())} to {number(group.max())}."
        for name, group in finite.items()
        if len(group)
    )
    legend = tuple(LegendEntry(name, _style(index), f"mean {means[name]}") for index, name in enumerate(finite))
    names = {f"area-{index}": name for index, name in enumerate(finite)}
    return Chart(title, _svg(figure, title, description, names), legend)


def number(value: float) -> str:
    """A number with three significant digits."""
    if not math.isfinite(value):
        return "-"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _figure() -> "tuple[Figure, Any]":
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        # 72 of matplotlib's dots to the inch are pixels of the SVG.
        figure = Figure(figsize=(SIZE[0] / 72, SIZE[1] / 72))
        figure.subplots_adjust(
            left=MARGINS["left"] / SIZE[0],
            right=1 - MARGINS["right"] / SIZE[0],
            top=1 - MARGINS["top"] / SIZE[1],
            bottom=MARGINS["bottom"] / SIZE[1],
        )
        figure.patch.set_visible(False)
        axes = figure.subplots()
        axes.patch.set_visible(False)
    return figure, axes


def _svg(figure: "Figure", title: str, description: str, names: Mapping[str, str]) -> Markup:
    """Matplotlib's SVG made part of the page: colors by class or variable, no ids of its own, a name and a description.

    Args:
        figure: With artists named by `zoo.figures`.
        title: The accessible name.
        description: What is to be seen.
        names: Of artists, by group id; shown when pointed at.
    """
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg")
    root = ET.fromstring(buffer.getvalue())
    for element in root.iter():
        element.tag = element.tag.removeprefix(NAMESPACE)
    for child in root.findall("metadata") + root.findall("defs"):
        root.remove(child)
    for group in list(root.iter("g")):
        match = re.fullmatch(r"(line|seed|band|area|dot|reference)-(\d+)(-\d+)?", group.get("id", ""))
        if match:
            _restyle(group, match[1], int(match[2]), names.get(match[0]))
    for element in root.iter():
        # Ids would be the same in each chart of a page; nothing refers to them once nothing is clipped.
        for name in ("id", "clip-path", "transform"):
            element.attrib.pop(name, None)
        if "style" in element.attrib:
            element.set("style", _on_page(element.attrib["style"]))
        for name in element.attrib.keys() & {"x", "y", "d"}:
            element.set(name, _rounded(element.attrib[name]))
    key = "chart-" + re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": title, "aria-describedby": key}
    about = ET.Element("desc", {"id": key})
    about.text = description
    root.insert(0, about)
    # ElementTree has escaped all text in it.
    return Markup(re.sub(r">\s+<", "><", ET.tostring(root, encoding="unicode")))


def _restyle(group: ET.Element, kind: str, series: int, name: str | None) -> None:
    """Gives the shapes of an artist the classes that the page colors, and the name that it shows."""
    style = f"{kind} {_style(series)}" if kind != "reference" else kind
    shapes: list[ET.Element] = []
    for path in group.findall("path"):
        shapes.append(ET.Element("path", {"class": style, "d": path.get("d", "")}))
    for place in group.iter("use"):
        center = {"cx": _rounded(place.get("x", "")), "cy": _rounded(place.get("y", ""))}
        shapes.append(ET.Element("circle", {"class": style, **center, "r": "3"}))
    for shape in shapes if name else ():
        ET.SubElement(shape, "title").text = name
    group[:] = shapes


def _rounded(coordinates: str) -> str:
    """A tenth of a pixel is enough, and three times smaller."""
    tokens = [f"{float(token):.1f}" if token[-1].isdigit() else token for token in coordinates.split()]
    return re.sub(r"([A-Z]) | (?=[A-Z])", r"\1", " ".join(tokens))


def _on_page(style: str) -> str:
    """The part of an element's style that the page does not give it, with the page's colors."""
    given = dict(part.strip().split(": ", 1) for part in style.split(";") if part.strip())
    if "font" in given:
        size = re.match(r"([\d.]+)px", given["font"])
        given["font-size"] = f"{float(size[1]):g}px" if size else "13px"
    kept = {name: COLORS.get(value, value) for name, value in given.items() if name in KEPT_STYLES}
    return "; ".join(f"{name}: {value}" for name, value in kept.items())


def _style(series: int) -> str:
    """CSS classes of the curve or group `series`, from 0: its color, and from the ninth on its dashes."""
    color, dash = series % len(SERIES), series // len(SERIES) % len(DASHES)
    return f"s{color} d{dash}" if dash else f"s{color}"


def _described(curve: Curve) -> str:
    mean = curve.mean[np.isfinite(curve.mean)]
    if not len(mean):
        return f"{curve.name}: no values."
    what = f"{curve.name}, mean of {len(curve.values)} seeds" if len(curve.values) > 1 else curve.name
    return f"{what}: first {number(mean[0])}, last {number(mean[-1])}, highest {number(mean.max())}."


def _constant(curve: Curve, named: bool) -> str:
    value = number(float(curve.finite[0]))
    epochs = int(np.isfinite(curve.mean).sum())
    when = "at every epoch" if epochs > 1 else "at the only epoch with a value"
    return f"{curve.name}: {value} {when}." if named else f"{value} {when}."


def _last(curve: Curve) -> str:
    known = curve.mean[np.isfinite(curve.mean)]
    return number(float(known[-1])) if len(known) else "-"
