"""Curves as coordinates: a template draws them, a script reads values off them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from perpixel.reporting.reading import Source

WIDTH, HEIGHT = 520, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 10, 12, 26
_MOST_POINTS = 1000

_CURVES = {
    "Loss": "loss",
    "mIoU on the evaluation split, %": "miou",
    "Learning rate": "lr",
    "Images per second": "images_per_second",
}


@dataclass(frozen=True)
class Chart:
    """One figure in a box of WIDTH x HEIGHT.

    `lines` has a list of (step, value, x, y) for every source, in their order; `x_ticks` and
    `y_ticks` are (place, text).
    """

    title: str
    lines: list[list[tuple[float, float, float, float]]]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


def charts(sources: Sequence[Source]) -> list[Chart]:
    """The curves that any of the sources has."""
    found = []
    for title, key in _CURVES.items():
        series = [
            _thinned([(row["step"], row[key]) for row in source.rows if key in row])
            for source in sources
        ]
        if any(series):
            found.append(_chart(title, series))
    return found


def _chart(title: str, series: list[list[tuple[float, float]]]) -> Chart:
    steps = [step for points in series for step, _ in points]
    values = [value for points in series for _, value in points]
    x_ticks, y_ticks = ticks(0, max(steps)), ticks(min(values), max(values))
    right = max(steps)
    low, high = min(y_ticks[0], min(values)), max(y_ticks[-1], max(values))

    def x(step: float) -> float:
        return round(_LEFT + (WIDTH - _LEFT - _RIGHT) * step / max(right, 1), 2)

    def y(value: float) -> float:
        share = (value - low) / (high - low)
        return round(HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * share, 2)

    return Chart(
        title,
        [[(step, value, x(step), y(value)) for step, value in points] for points in series],
        [(x(tick), f"{tick:g}") for tick in x_ticks if tick <= right],
        [(y(tick), f"{tick:.6g}") for tick in y_ticks],
    )


def ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers: the first at most `low`, the last at least `high`."""
    if high <= low:
        margin = abs(low) / 10 or 1.0
        low, high = low - margin, high + margin
    rough = (high - low) / 4
    unit: float = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.10g}") for index in range(first, last + 1)]


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most about _MOST_POINTS of them, the last among them."""
    every = -(-len(points) // _MOST_POINTS)
    return points if every <= 1 else points[::-1][::every][::-1]
