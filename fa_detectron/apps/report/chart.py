"""Line charts as plain numbers; the page's template makes SVG of them, coloured by its style sheet."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

WIDTH, HEIGHT = 460, 240  # of a chart, in its own units
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 10, 24
_MOST_POINTS = 200  # of a line; more cannot be told apart


@dataclass(frozen=True)
class Line:
    """One series: ``points`` is SVG's list of coordinates, ``last`` its last value in words."""

    name: str
    points: str
    end: tuple[float, float]
    last: str


@dataclass(frozen=True)
class Chart:
    """A chart: lines, and axis ticks as (position, label)."""

    title: str
    x_label: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    marker: tuple[float, str] | None  # a vertical line
    frame: tuple[float, float, float, float] = (_LEFT, _TOP, WIDTH - _RIGHT, HEIGHT - _BOTTOM)


def make_chart(
    title: str,
    series: Mapping[str, Mapping[float, float]],
    *,
    x_label: str,
    x_range: tuple[float, float],
    y_top: float = 0.0,
    marker: tuple[float, str] | None = None,
) -> Chart | None:
    """A chart with its vertical axis from 0; None where no series has a point.

    Args:
        series: y by x, for every line's name.
        x_range: ends of the horizontal axis.
        y_top: end of the vertical axis; 0 takes the largest value.
        marker: (x, words) of a vertical line.
    """
    series = {name: points for name, points in series.items() if points}
    if not series:
        return None
    (x1, x2), top = x_range, y_top or max(max(points.values()) for points in series.values()) or 1.0
    y_ticks = ticks(0.0, top)
    top = max(top, y_ticks[-1])

    def x_at(value: float) -> float:
        return round(_LEFT + (value - x1) / ((x2 - x1) or 1.0) * (WIDTH - _LEFT - _RIGHT), 1)

    def y_at(value: float) -> float:
        return round(HEIGHT - _BOTTOM - value / top * (HEIGHT - _TOP - _BOTTOM), 1)

    lines = []
    for name, points in series.items():
        places = [(x_at(x), y_at(y)) for x, y in _thin(list(points.items()))]
        last = f"{list(points.values())[-1]:.3g}"
        lines.append(Line(name, " ".join(f"{x:g},{y:g}" for x, y in places), places[-1], last))
    return Chart(
        title,
        x_label,
        tuple(lines),
        tuple((x_at(value), f"{value:g}") for value in ticks(x1, x2)),
        tuple((y_at(value), f"{value:g}") for value in y_ticks),
        (x_at(marker[0]), marker[1]) if marker else None,
    )


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most ``most`` round numbers (1, 2 or 5 times a power of ten apart) from ``low`` to ``high``."""
    span = (high - low) or 1.0
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(factor * power for factor in (1, 2, 5, 10, 20) if span / (factor * power) < most)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Evenly chosen points, the last one with them."""
    step = -(-len(points) // _MOST_POINTS)
    return [*points[:-1:step], points[-1]]
