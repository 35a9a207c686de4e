"""Charts as inline SVG."""

import html
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeGuard

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 34


def line_chart(series: Mapping[str, Mapping[int, float | None]], label: str) -> str:
    """Lines over epochs 1, 2, 3, ... with a legend; values that are not finite leave gaps.

    Args:
        series: Name -> epoch -> value, epochs ascending.
        label: What the chart shows, for those who do not see it.
    """
    values = [value for line in series.values() for value in line.values() if _finite(value)]
    length = max((epoch for line in series.values() for epoch in line), default=0)
    if not values:
        return '<p class="note">No values.</p>'
    ticks = _ticks(min(values), max(values))
    low, high = ticks[0], ticks[-1]

    def x(epoch: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * ((epoch - 1) / (length - 1) if length > 1 else 0.5)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low)

    parts = [_axes(ticks, y, label)]
    for epoch in sorted({1, length, *(round(1 + (length - 1) * step / 4) for step in (1, 2, 3))}):
        parts.append(f'<text x="{x(epoch):.1f}" y="{HEIGHT - 14}" text-anchor="middle">{epoch}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 1}" text-anchor="end">epoch</text>')
    for number, (name, line) in enumerate(series.items()):
        path, pen = [], "M"
        for epoch, value in line.items():
            if not _finite(value):
                pen = "M"
                continue
            path.append(f"{pen}{x(epoch):.1f} {y(value):.1f}")
            pen = "L"
        parts.append(f'<path class="line s{number % 8}" d="{"".join(path)}"><title>{html.escape(name)}</title></path>')
        if len(path) == 1:
            point = next(epoch for epoch, value in line.items() if _finite(value))
            parts.append(f'<circle class="dot s{number % 8}" cx="{x(point):.1f}" cy="{y(line[point]):.1f}" r="3"/>')  # type: ignore[arg-type]
    parts.append("</svg>")
    legend = "".join(
        f'<li><span class="key s{number % 8}"></span>{html.escape(name)} <b>{_last(line)}</b></li>'
        for number, (name, line) in enumerate(series.items())
    )
    return f'<figure class="chart">{"".join(parts)}<ul class="legend">{legend}</ul></figure>'


def histogram(groups: Mapping[str, Sequence[float]], label: str, x_label: str, bins: int = 40) -> str:
    """Overlaid histograms of several groups, each as shares of its own total.

    Args:
        groups: Name -> values.
        label: What the chart shows, for those who do not see it.
        x_label: Name of the horizontal axis.
        bins: Number of bars.
    """
    values = [float(value) for group in groups.values() for value in group if _finite(value)]
    if not values:
        return '<p class="note">No values.</p>'
    low, high = min(values), max(values)
    if low == high:
        low, high = low - 0.5, high + 0.5
    shares = {}
    for name, group in groups.items():
        counts = [0] * bins
        finite = [float(value) for value in group if _finite(value)]
        for value in finite:
            counts[min(int((value - low) / (high - low) * bins), bins - 1)] += 1
        shares[name] = [count / max(len(finite), 1) for count in counts]
    ticks = _ticks(0.0, max(max(share) for share in shares.values()) or 1.0)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / ticks[-1]

    step = (WIDTH - LEFT - RIGHT) / bins
    parts = [_axes(ticks, y, label)]
    for position in range(5):
        value = low + (high - low) * position / 4
        at = LEFT + (WIDTH - LEFT - RIGHT) * position / 4
        anchor = ("start", "middle", "middle", "middle", "end")[position]
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - 18}" text-anchor="{anchor}">{number(value)}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 3}" text-anchor="end">{html.escape(x_label)}</text>')
    for index, share in enumerate(shares.values()):
        outline = f"M{LEFT} {y(0):.1f}"
        for bar, value in enumerate(share):
            outline += f"L{LEFT + bar * step:.1f} {y(value):.1f}L{LEFT + (bar + 1) * step:.1f} {y(value):.1f}"
        outline += f"L{WIDTH - RIGHT} {y(0):.1f}Z"
        parts.append(f'<path class="area s{index % 8}" d="{outline}"/>')
    parts.append("</svg>")
    legend = "".join(
        f'<li><span class="key s{index % 8}"></span>{html.escape(name)} <b>mean {number(_mean(group))}</b></li>'
        for index, (name, group) in enumerate(groups.items())
    )
    return f'<figure class="chart">{"".join(parts)}<ul class="legend">{legend}</ul></figure>'


def number(value: float) -> str:
    """A number with three significant digits."""
    if not math.isfinite(value):
        return "-"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _axes(ticks: Sequence[float], y: Callable[[float], float], label: str) -> str:
    lines = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(label, quote=True)}">',
    ]
    for tick in ticks:
        lines.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        lines.append(f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{number(tick)}</text>')
    return "".join(lines)


def _ticks(low: float, high: float) -> list[float]:
    if low == high:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    raw = (high - low) / 4
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _finite(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _mean(values: Sequence[float]) -> float:
    finite = [float(value) for value in values if _finite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def _last(line: Mapping[int, float | None]) -> str:
    known = [value for value in line.values() if _finite(value)]
    return number(known[-1]) if known else "-"
