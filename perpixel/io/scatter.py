"""Scatter plots of named points, whose labels overlap neither each other nor a point."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from PIL import Image, ImageDraw

from perpixel.io.charts import ticks
from perpixel.io.figures import font
from perpixel.io.images import Array

Point = tuple[float, float]
Rectangle = tuple[float, float, float, float]
"""Left, top, right, bottom."""

_WIDTH, _HEIGHT = 760, 560  # of a panel, and of the box in it that holds the points:
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 30, 60, 76
_RADIUS, _GAP = 7, 12
"""Of a point, and the distance of its label from its center."""

_LOG_FROM = 5
"""An axis whose largest value is more than so many times the smallest is logarithmic."""

_INK, _SOFT, _GRAY, _BLUE = (27, 33, 41), (88, 100, 116), (226, 230, 236), (31, 111, 208)
_ANGLES = (0, 180, 270, 90, 315, 225, 45, 135, 337, 203, 23, 157, 293, 247, 67, 113)
"""Where a label may stand around its point, in degrees, clockwise; the first are preferred."""


@dataclass(frozen=True)
class Panel:
    """A plot: what its x axis shows, and its points, (name, x, y); x is positive."""

    x_label: str
    points: Sequence[tuple[str, float, float]]


def draw(panels: Sequence[Panel], *, title: str) -> Array:
    """Draws panels side by side, uint8 RGB [H, W, 3]; `title` says what all their y axes show.

    Panels grow until they have room for all labels.
    """
    scale = 1.0
    while True:
        width, height = round(_WIDTH * scale), round(_HEIGHT * scale)
        drawn = [_draw_panel(panel, width, height, title=title) for panel in panels]
        complete = [image for image in drawn if image is not None]
        if len(complete) == len(panels):
            return np.hstack(complete)
        scale *= 1.2


def _draw_panel(panel: Panel, width: int, height: int, *, title: str) -> Array | None:
    """Draws a panel of a size; None where its labels have no room there."""
    left, top, right, bottom = box = (_LEFT, _TOP, width - _RIGHT, height - _BOTTOM)
    names, xs, ys = zip(*panel.points, strict=True)
    x_low, x_high, x_ticks = axis(xs, is_log=max(xs) > _LOG_FROM * min(xs))
    y_low, y_high, y_ticks = axis(ys, is_log=False)

    def place_x(value: float) -> float:
        if max(xs) > _LOG_FROM * min(xs):
            fraction = math.log(value / x_low) / math.log(x_high / x_low)
        else:
            fraction = (value - x_low) / (x_high - x_low)
        return left + (right - left) * fraction

    def place_y(value: float) -> float:
        return bottom - (bottom - top) * (value - y_low) / (y_high - y_low)

    places = [(place_x(x), place_y(y)) for x, y in zip(xs, ys, strict=True)]
    letters, small = font(19, names), font(17)
    sizes = [(letters.getlength(name), 21.0) for name in names]
    labels = place_labels(places, sizes, box=box)
    if labels is None:
        return None

    canvas = np.full((height, width, 3), 255, np.uint8)
    for tick in x_ticks:
        _line(canvas, (place_x(tick), top), (place_x(tick), bottom), _GRAY)
    for tick in y_ticks:
        _line(canvas, (left, place_y(tick)), (right, place_y(tick)), _GRAY)
    _line(canvas, (left, bottom), (right, bottom), _SOFT)
    for place, label in zip(places, labels, strict=True):
        if (end := _leader(place, label)) is not None:
            _line(canvas, place, end, _SOFT)
    for x, y in places:
        center = round(x * 16), round(y * 16)  # of 1/16 pixel
        cv2.circle(canvas, center, _RADIUS * 16, _BLUE, -1, cv2.LINE_AA, shift=4)
    figure = Image.fromarray(canvas)
    text = ImageDraw.Draw(figure)
    for name, (label_left, label_top, _, label_bottom) in zip(names, labels, strict=True):
        text.text(
            (label_left, (label_top + label_bottom) / 2), name, _INK, letters,
            anchor="lm", stroke_width=2, stroke_fill="white",
        )  # fmt: skip
    for tick in x_ticks:
        text.text((place_x(tick), bottom + 8), f"{tick:g}", _SOFT, small, anchor="ma")
    for tick in y_ticks:
        text.text((left - 10, place_y(tick)), f"{tick:g}", _SOFT, small, anchor="rm")
    text.text(((left + right) / 2, height - 38), panel.x_label, _INK, small, anchor="ma")
    text.text((left, top - 22), title, _INK, font(20), anchor="ls")
    return np.asarray(figure)


def axis(values: Sequence[float], *, is_log: bool) -> tuple[float, float, list[float]]:
    """Returns the ends of an axis, with a margin around the values, and the ticks between them.

    A logarithmic one has ticks at 1, 2 and 5 times powers of ten, and its values are positive.
    """
    low, high = min(values), max(values)
    if is_log:
        margin = (high / low) ** 0.1
        low, high = low / margin, high * margin
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        marks = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    else:
        margin = (high - low) / 10 or abs(high) / 10 or 1.0
        low, high = low - margin, high + margin
        marks = ticks(low, high)
        if sum(low <= mark <= high for mark in marks) < 4:
            marks += [(mark + following) / 2 for mark, following in pairwise(marks)]
    return low, high, sorted(mark for mark in marks if low <= mark <= high)


def place_labels(
    points: Sequence[Point], sizes: Sequence[tuple[float, float]], *, box: Rectangle
) -> list[Rectangle] | None:
    """Returns a rectangle for the label of each point, inside `box`; None where there is no room.

    sizes: the labels' widths and heights, in the points' units. Rectangles overlap neither each
    other nor a point; lines that join points and distant labels cross them only where all places
    have such a line. Points that have many others around them choose first, each the nearest.
    """
    markers = [_around(point, 2 * _RADIUS, 2 * _RADIUS) for point in points]
    crowds = [
        sum(abs(x - u) < width and abs(y - v) < 4 * height for u, v in points)
        for (x, y), (width, height) in zip(points, sizes, strict=True)
    ]
    labels: dict[int, Rectangle] = {}
    leaders: list[tuple[Point, Point]] = []
    for index in sorted(range(len(points)), key=lambda index: -crowds[index]):
        point, other_markers = points[index], markers[:index] + markers[index + 1 :]
        free = [
            label
            for label in _candidates(point, sizes[index], box)
            if not any(overlap(label, taken) for taken in (*labels.values(), *markers))
        ]
        if not free:
            return None
        clear = (
            label
            for label in free
            if not any(_crosses(label, *line) for line in leaders)
            and _is_clear(point, label, [*labels.values(), *other_markers])
        )
        labels[index] = label = next(clear, free[0])
        if (end := _leader(point, label)) is not None:
            leaders.append((point, end))
    return [labels[index] for index in range(len(points))]


def _is_clear(point: Point, label: Rectangle, others: Sequence[Rectangle]) -> bool:
    """Whether the line from a point to its label, if there is one, crosses none of the others."""
    end = _leader(point, label)
    return end is None or not any(_crosses(other, point, end) for other in others)


def _candidates(point: Point, size: tuple[float, float], box: Rectangle) -> Iterator[Rectangle]:
    """Yields places for a label inside `box`, in rings around its point, the nearest first."""
    width, height = size
    left, top, right, bottom = box
    for distance in range(_GAP, math.ceil(math.hypot(right - left, bottom - top)), _RADIUS):
        for angle in _ANGLES:
            x = point[0] + math.cos(math.radians(angle)) * (distance + width / 2)
            y = point[1] + math.sin(math.radians(angle)) * (distance + height / 2)
            label = _around((x, y), width, height)
            if left <= label[0] and top <= label[1] and label[2] <= right and label[3] <= bottom:
                yield label


def _leader(point: Point, label: Rectangle) -> Point | None:
    """Returns where a line from a point to its label ends; None for a label right beside it."""
    x = min(max(point[0], label[0]), label[2])
    y = min(max(point[1], label[1]), label[3])
    return None if math.dist(point, (x, y)) <= 1.5 * _GAP else (x, y)


def overlap(one: Rectangle, other: Rectangle) -> bool:
    """Returns whether two rectangles have a common area."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _crosses(rectangle: Rectangle, start: Point, end: Point) -> bool:
    left, top, right, bottom = map(round, rectangle)
    inside = (left, top, right - left, bottom - top)
    first, last = ((round(x), round(y)) for x, y in (start, end))
    return bool(cv2.clipLine(inside, first, last)[0])


def _around(center: Point, width: float, height: float) -> Rectangle:
    x, y = center
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _line(canvas: Array, start: Point, end: Point, color: tuple[int, int, int]) -> None:
    first, last = ((round(x * 16), round(y * 16)) for x, y in (start, end))  # of 1/16 pixel
    cv2.line(canvas, first, last, color, 1, cv2.LINE_AA, shift=4)
