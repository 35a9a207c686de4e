"""Every chart of the zoo, drawn by matplotlib: PNG files of an experiment, and the axes of the report's SVG charts.

Artists that the report styles carry a group id: `KIND-NUMBER`, such as "line-2" for the mean of the third curve.
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

RIGHT, WRONG = "#1a7f37", "#d1242f"
SERIES = ("#0969da", "#bc4c00", "#1a7f37", "#8250df", "#bf3989", "#9a6700", "#0a7d91", "#57606a")
"""Colors of curves and groups, in turn; the report's page has those of its dark mode."""
DASHES = ("solid", (0, (6, 3)), (0, (2, 2)))
"""Line styles, in turn, of the first eight curves, the next eight, ..."""
INK, RULE = "#1f2328", "#d1d9e0"
"""Colors of text and of grid lines."""
MAX_EPOCH_TICKS = 8
Histories = Mapping[str, Sequence[Mapping[str, Sequence[float]]]]


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """Values by epoch, of one run or of one arm over its seeds.

    Args:
        name: What the legend calls it.
        epochs: `(e,)` epochs, ascending.
        values: `(seeds, e)` values; NaN leaves a gap.
        series: Number of its color and dashes, from 0, so that an arm looks the same in every chart.
    """

    name: str
    epochs: Sequence[int]
    values: np.ndarray
    series: int

    @property
    def mean(self) -> np.ndarray:
        """`(e,)` means over the seeds; NaN where a seed has no value."""
        return self.values.mean(axis=0)

    @property
    def finite(self) -> np.ndarray:
        """All values there are."""
        return self.values[np.isfinite(self.values)]


def draw_curves(axes: Any, curves: Sequence[Curve], references: Mapping[str, float] | None = None) -> None:
    """Curves over epochs: the mean, and where there are several seeds, each of them and their range as a band.

    Args:
        axes: Matplotlib's.
        curves: At least one with a value.
        references: Values to compare with, drawn across as dotted lines.
    """
    references = references or {}
    for curve in curves:
        number = curve.series
        look = {"color": series_color(number), "linestyle": DASHES[number // len(SERIES) % len(DASHES)]}
        mean, epochs = curve.mean, np.asarray(curve.epochs)
        known = np.isfinite(mean)
        if len(curve.values) > 1 and known.any():
            low, high = curve.values[:, known].min(axis=0), curve.values[:, known].max(axis=0)
            around = np.concatenate([epochs[known], epochs[known][::-1]]), np.concatenate([low, high[::-1]])
            axes.fill(*around, color=look["color"], alpha=0.15, linewidth=0, gid=f"band-{number}", clip_on=False)
            for seed, values in enumerate(curve.values):
                # Below all means.
                thin = {**look, "alpha": 0.4, "linewidth": 0.8, "zorder": 1.5, "clip_on": False}
                axes.plot(epochs, values, gid=f"seed-{number}-{seed}", **thin)
        axes.plot(epochs, mean, linewidth=2, gid=f"line-{number}", label=curve.name, clip_on=False, **look)
        # A line has no length at a value without neighbors.
        beside = np.pad(known, 1)
        alone = known & ~beside[:-2] & ~beside[2:]
        if alone.any():
            axes.plot(epochs[alone], mean[alone], "o", ms=6, color=look["color"], gid=f"dot-{number}", clip_on=False)
    for number, (name, value) in enumerate(references.items()):
        axes.axhline(value, color=INK, linestyle=":", linewidth=1, gid=f"reference-{number}", label=name)
        # At the line itself: dotted lines differ in nothing else.
        axes.annotate(name, (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", size="small")
    spanned = [epoch for curve in curves for epoch in curve.epochs]
    ticks = epoch_ticks(min(spanned), max(spanned))
    axes.set_xticks(ticks)
    # Half an epoch on either side where there is one alone.
    axes.set_xlim(*((ticks[0], ticks[-1]) if len(ticks) > 1 else (ticks[0] - 0.5, ticks[0] + 0.5)))
    values = np.concatenate([*(curve.finite for curve in curves), list(references.values())])
    _scale_values(axes, float(values.min()), float(values.max()))
    axes.set_xlabel("epoch")
    _plain(axes)


def draw_histogram(axes: Any, groups: Mapping[str, np.ndarray], bins: int = 40) -> None:
    """Overlaid histograms, each as shares of its own group.

    Args:
        axes: Matplotlib's.
        groups: Name -> finite values; at least one of them.
        bins: Number of bars between the least and the largest value.
    """
    values = np.concatenate(list(groups.values()))
    low, high = float(values.min()), float(values.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    top = 0.0
    for number, (name, group) in enumerate(groups.items()):
        counts, edges = np.histogram(group, bins, (low, high))
        shares = counts / max(len(group), 1)
        top = max(top, float(shares.max()))
        axes.stairs(
            shares, edges, fill=True, color=series_color(number), alpha=0.25, gid=f"area-{number}", label=name
        ).set_clip_on(False)
    ticks, step = _round_numbers(low, high)
    ticks = [tick for tick in ticks if low <= tick <= high]
    axes.set_xticks(ticks, [_tick(tick, step) for tick in ticks])
    axes.set_xlim(low, high)
    _scale_values(axes, 0.0, top or 1.0)
    _plain(axes)


def epoch_ticks(first: int, last: int, most: int = MAX_EPOCH_TICKS) -> list[int]:
    """Epochs to mark: the first, the last, and round numbers between them, `most` + 1 at most."""
    span = last - first
    scale = 10 ** max(0, len(str(span)) - 2)
    steps = (factor * scale * more for more in (1, 10, 100) for factor in (1, 2, 5))
    step = next(step for step in steps if span <= most * step)
    # A round number right beside an end would overlap its label.
    between = [epoch for epoch in range(0, last, step) if epoch - first >= step / 2 and last - epoch >= step / 2]
    return sorted({first, *between, last})


def series_color(number: int) -> str:
    """The color of the curve or group `number`, from 0."""
    return SERIES[number % len(SERIES)]


def learning_curves(
    path: pathlib.Path,
    histories: Histories,
    epochs: Mapping[str, Sequence[int]],
    rivals: Mapping[str, Mapping[str, float]],
    title: str,
) -> None:
    """Recall@1 and MAP@R on the test classes by epoch: the mean over seeds of each arm, and the range as a band.

    Args:
        path: The PNG to write.
        histories: The histories of each arm, one for each seed.
        epochs: The epochs at which each arm was evaluated on the test classes.
        rivals: What stands beside the arms, drawn as lines; "untrained" is where the curves begin.
        title: Heading of the picture.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained", dpi=110)
    figure.suptitle(title)
    for axes, (metric, label) in zip(
        figure.subplots(1, 2), (("recall@1", "Recall@1"), ("map@r", "MAP@R")), strict=True
    ):
        curves = [
            from_untrained(
                Curve(arm, epochs[arm], np.array([run[f"val_{metric}"] for run in runs], dtype=float), number),
                rivals["untrained"][metric],
            )
            for number, (arm, runs) in enumerate(histories.items())
        ]
        draw_curves(axes, curves, {name: values[metric] for name, values in rivals.items()})
        axes.set(ylabel=f"{label}, unseen classes")
        axes.legend()
    figure.savefig(path)


def from_untrained(curve: Curve, start: float) -> Curve:
    """A curve that begins with the untrained network, at epoch 0.

    Args:
        curve: After epochs of training.
        start: Value of the untrained network; a curve is left as it is where this is NaN.
    """
    if math.isnan(start):
        return curve
    values = np.hstack([np.full((len(curve.values), 1), start), curve.values])
    return dataclasses.replace(curve, epochs=(0, *curve.epochs), values=values)


def _scale_values(axes: Any, low: float, high: float) -> None:
    """Ticks at round numbers, the outer two at or beyond the values, so that none is left without a tick."""
    if low == high:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    ticks, step = _round_numbers(low, high)
    ticks = [tick for tick in ticks if low - step < tick < high + step]
    axes.set_yticks(ticks, [_tick(tick, step) for tick in ticks])
    axes.set_ylim(ticks[0], ticks[-1])


def _round_numbers(low: float, high: float) -> tuple[list[float], float]:
    """Some five round numbers around two, and the step between them."""
    from matplotlib.ticker import MaxNLocator

    numbers = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return list(numbers), float(numbers[1] - numbers[0])


def _tick(value: float, step: float) -> str:
    """A tick's label, with as many digits as tell it from the next one."""
    size = math.floor(math.log10(step) + 1e-9)
    if size < -5 or size > 5:
        return f"{value:.3g}"
    # A step of 2.5 has one digit more than its size tells.
    digits = max(0, -size + (not math.isclose(step / 10**size, round(step / 10**size))))
    return f"{value + 0.0:,.{digits}f}"


def _plain(axes: Any) -> None:
    axes.grid(axis="y", color=RULE, linewidth=1)
    axes.set_axisbelow(True)
    axes.tick_params(left=False, bottom=False, labelcolor=INK)
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
