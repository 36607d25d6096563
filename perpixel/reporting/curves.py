"""Coordinates of the training curves, which report.html draws as SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from perpixel.io.figures import smooth, ticks
from perpixel.reporting.reading import Source

WIDTH, HEIGHT = 520, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 10, 12, 26
_MAX_POINTS = 1000

_CURVES = {
    "Loss": "loss",
    "mIoU on the evaluation split, %": "miou",
    "Learning rate": "lr",
    "Images per second": "images_per_second",
}


@dataclass(frozen=True)
class Chart:
    """One figure in a box of WIDTH x HEIGHT.

    `lines` has a list of (step, value, x, y) for every source, in their order, and `smoothed` a
    list of (x, y), empty where a curve is not smoothed; `x_ticks` and `y_ticks` are (coordinate,
    text).
    """

    title: str
    lines: list[list[tuple[float, float, float, float]]]
    smoothed: list[list[tuple[float, float]]]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


def charts(sources: Sequence[Source]) -> list[Chart]:
    """Returns a chart for every curve that at least one source has."""
    series_by_title = {
        title: [
            _subsample([(row["step"], row[key]) for row in source.rows if key in row])
            for source in sources
        ]
        for title, key in _CURVES.items()
    }
    return [_chart(title, series) for title, series in series_by_title.items() if any(series)]


def _chart(title: str, series: list[list[tuple[float, float]]]) -> Chart:
    steps = [step for points in series for step, _ in points]
    values = [value for points in series for _, value in points]
    last_step = max(steps)
    x_ticks, y_ticks = ticks(0, last_step), ticks(min(values), max(values))
    low, high = min(y_ticks[0], min(values)), max(y_ticks[-1], max(values))

    def x(step: float) -> float:
        return round(_LEFT + (WIDTH - _LEFT - _RIGHT) * step / max(last_step, 1), 2)

    def y(value: float) -> float:
        fraction = (value - low) / (high - low)
        return round(HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * fraction, 2)

    return Chart(
        title,
        [[(step, value, x(step), y(value)) for step, value in points] for points in series],
        [
            [(x(step), y(value)) for step, value in smooth(points)] if title == "Loss" else []
            for points in series
        ],
        [(x(tick), f"{tick:g}") for tick in x_ticks if tick <= last_step],
        [(y(tick), f"{tick:.6g}") for tick in y_ticks],
    )


def _subsample(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns every n-th point, about _MAX_POINTS of them, the last point among them."""
    stride = max(1, math.ceil(len(points) / _MAX_POINTS))
    return points[::-stride][::-1]
