"""Charts of training curves: their coordinates, which report.html draws as SVG, and their image."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw

from perpixel.io.figures import font
from perpixel.io.images import Array

Points = Sequence[tuple[float, float]]
Rows = Sequence[Mapping[str, float]]
"""The rows of a run's metrics.jsonl."""

WIDTH, HEIGHT = 520, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 10, 12, 26
_MAX_POINTS = 1000
_MIN_SMOOTHED = 20
"""A curve of fewer values is not smoothed, and each is a dot."""

_SCALE, _TITLE = 1.4, 42  # of the image: its size, and the height of its title

_INK, _GRAY, _BLUE, _PALE_BLUE = (27, 33, 41), (221, 226, 233), (31, 111, 208), (178, 208, 240)

_CURVES = {
    "Loss": "loss",
    "mIoU on the evaluation split, %": "miou",
    "Learning rate": "lr",
    "Images per second": "images_per_second",
}


@dataclass(frozen=True)
class Chart:
    """One figure in a box of WIDTH x HEIGHT.

    `lines` has a list of (step, value, x, y) for every run, in their order, and `smoothed` a
    list of (x, y), empty where a curve is not smoothed; `x_ticks` and `y_ticks` are (coordinate,
    text).
    """

    title: str
    lines: list[list[tuple[float, float, float, float]]]
    smoothed: list[list[tuple[float, float]]]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


def charts(runs: Sequence[Rows]) -> list[Chart]:
    """Returns a chart for every curve that at least one run has."""
    series_by_title = {
        title: [
            _subsample([(row["step"], row[key]) for row in rows if key in row]) for rows in runs
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


def draw(charts: Sequence[Chart]) -> Array:
    """Draws the first run's curves, the charts side by side."""
    height, width = round(HEIGHT * _SCALE) + _TITLE + 24, round(WIDTH * _SCALE) + 24
    canvas = np.full((height, width * len(charts), 3), 255, np.uint8)
    texts: list[tuple[Array, tuple[float, float], str, str, int]] = []
    for index, chart in enumerate(charts):
        origin = np.array([index * width, _TITLE])
        for y, text in chart.y_ticks:
            _line(canvas, origin, [(_LEFT, y), (WIDTH - _RIGHT, y)], _GRAY)
            texts.append((origin, (_LEFT - 6, y), text, "rm", 14))
        texts += [(origin, (x, HEIGHT - 20), text, "ma", 14) for x, text in chart.x_ticks]
        texts.append((origin, (_LEFT, -4), chart.title, "ls", 18))
        texts.append((origin, ((_LEFT + WIDTH) / 2, HEIGHT - 4), "step", "ma", 14))
        points, smoothed = [(x, y) for _, _, x, y in chart.lines[0]], chart.smoothed[0]
        for point in points if len(points) < _MIN_SMOOTHED else ():
            _line(canvas, origin, [point, point], _BLUE, thickness=7)
        _line(
            canvas, origin, points, _PALE_BLUE if smoothed else _BLUE, thickness=2 - bool(smoothed)
        )
        if smoothed:
            _line(canvas, origin, smoothed, _BLUE, thickness=2)
    figure = Image.fromarray(canvas)
    for origin, position, text, anchor, size in texts:
        place = tuple(origin + np.array(position) * _SCALE)
        ImageDraw.Draw(figure).text(place, text, _INK, font(size), anchor=anchor)
    return np.asarray(figure)


def _line(
    canvas: Array,
    origin: Array,
    points: Points,
    color: tuple[int, int, int],
    *,
    thickness: int = 1,
) -> None:
    places = np.round((origin + np.array(points) * _SCALE) * 16).astype(np.int32)  # of 1/16 pixel
    cv2.polylines(canvas, [places], False, color, thickness, cv2.LINE_AA, shift=4)


def ticks(low: float, high: float) -> list[float]:
    """Returns three to six round numbers: the first at most `low`, the last at least `high`."""
    if high <= low:
        margin = abs(low) / 10 or 1.0
        low, high = low - margin, high + margin
    rough = (high - low) / 4
    unit: float = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.10g}") for index in range(first, last + 1)]


def smooth(points: Points) -> Points:
    """Returns the values averaged over their neighbors; nothing for too few to smooth."""
    if len(points) < _MIN_SMOOTHED:
        return []
    steps, values = zip(*points, strict=True)
    sigma = len(points) / 50 + 1
    kernel = np.exp(-0.5 * (np.arange(-int(3 * sigma), int(3 * sigma) + 1) / sigma) ** 2)
    kernel = kernel[: 2 * len(points) - 1]
    weights = np.convolve(np.ones(len(points)), kernel, "same")
    return list(zip(steps, (np.convolve(values, kernel, "same") / weights).tolist(), strict=True))
