"""Draws figures with Pillow: sheets of images with a legend, curves, confusion matrices."""

import math
from collections.abc import Collection, Sequence
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from perpixel.io.images import Array, Palette

Points = Sequence[tuple[float, float]]
"""The (step, value) of a curve."""

_INK, _SOFT, _FAINT, _LINE = (27, 33, 41), (88, 100, 116), (176, 184, 194), (221, 226, 233)
_BLUE, _PALE_BLUE, _RED, _CELL = (31, 111, 208), (178, 208, 240), (210, 59, 59), (238, 241, 245)
_GAP = 12
_MIN_SMOOTHED = 20
"""A curve of fewer values is not smoothed, and each is a dot."""


def sheet(
    tiles: Sequence[tuple[Array, str]],
    *,
    columns: int,
    classes: Sequence[str],
    palette: Palette,
    shown: Collection[int],
    side: int = 320,
) -> Image.Image:
    """Arranges RGB images with their captions in a grid, above a legend of the classes.

    Images are fitted into a square of `side` pixels. The legend's classes that are not `shown`, by
    index, are pale.
    """
    columns = min(columns, len(tiles))
    fitted = [Image.fromarray(_fit(image, side)) for image, _ in tiles]
    rows = [range(first, len(tiles))[:columns] for first in range(0, len(tiles), columns)]
    cell = max(image.width for image in fitted) + _GAP
    width = _GAP + max(columns * cell, 480)
    names = [_shorten(name, 240, _font(15)) for name in classes]
    name_width = max(int(_font(15).getlength(name)) for name in names) + 40
    legend_columns = max(1, (width - _GAP) // name_width)
    legend_rows = math.ceil(len(names) / legend_columns)
    heights = [max(fitted[index].height for index in row) + 34 for row in rows]
    picture = Image.new("RGB", (width, sum(heights) + legend_rows * 24 + 2 * _GAP), "white")
    draw = ImageDraw.Draw(picture)
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        for column, index in enumerate(row):
            left = _GAP + column * cell
            picture.paste(fitted[index], (left, top))
            caption = _shorten(tiles[index][1], cell - _GAP, _font(14))
            draw.text((left, top + fitted[index].height + 4), caption, _INK, _font(14))
        top += height
    for index, name in enumerate(names):
        x = _GAP + index // legend_rows * name_width
        y = top + index % legend_rows * 24
        draw.rectangle((x, y + 2, x + 17, y + 17), palette[index], _FAINT)
        draw.text((x + 24, y), name, _INK if index in shown else _FAINT, _font(15))
    return picture


def curves(series: Sequence[tuple[str, Points, Points]]) -> Image.Image:
    """Draws a chart for each (title, points, smoothed points), from left to right, over the step.

    Points with a smoothed curve are pale.
    """
    charts = [_chart(*part) for part in series]
    figure = Image.new("RGB", (sum(chart.width for chart in charts), charts[0].height))
    for index, chart in enumerate(charts):
        figure.paste(chart, (index * chart.width, 0))
    return figure


def _chart(title: str, points: Points, smoothed: Points) -> Image.Image:
    width, height, left, right, top, bottom = 640, 400, 74, 616, 48, 346
    steps, values = zip(*points, strict=True)
    last = max(*steps, 1)
    x_ticks, y_ticks = ticks(0, last), ticks(min(values), max(values))

    def place(step: float, value: float) -> tuple[float, float]:
        fraction = (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return left + (right - left) * step / last, bottom - (bottom - top) * fraction

    picture = np.full((height, width, 3), 255, np.uint8)
    texts: list[tuple[tuple[float, float], str, str, int]] = []
    for tick in y_ticks:
        _, y = place(0, tick)
        _line(picture, [(left, y), (right, y)], _LINE)
        texts.append(((left - 8, y), f"{tick:.6g}", "rm", 14))
    for tick in x_ticks:
        if tick <= last:
            x, _ = place(tick, 0)
            _line(picture, [(x, bottom), (x, bottom + 5)], _SOFT)
            texts.append(((x, bottom + 10), f"{tick:g}", "ma", 14))
    _line(picture, [(left, bottom), (right, bottom)], _SOFT)
    line = [place(*point) for point in points]
    if len(line) < _MIN_SMOOTHED:
        for dot in line:
            _line(picture, [dot, dot], _BLUE, thickness=7)
    if smoothed:
        _line(picture, line, _PALE_BLUE)
        line = [place(*point) for point in smoothed]
    _line(picture, line, _BLUE, thickness=2)
    figure = Image.fromarray(picture)
    draw = ImageDraw.Draw(figure)
    texts += [((left, 14), title, "la", 18), (((left + right) / 2, height - 22), "step", "ma", 14)]
    for position, text, anchor, size in texts:
        draw.text(position, text, _INK, _font(size), anchor=anchor)
    return figure


def confusion(matrix: npt.NDArray[np.int64], names: Sequence[str]) -> Image.Image:
    """Draws a confusion matrix, [classes, classes]; rows are labels, columns predictions.

    A cell is a percentage of its row; one of less than half a percent has no number.
    """
    count = len(names)
    size = max(12, min(40, 1200 // count))
    font = _font(min(15, size - 1))
    texts = [_shorten(name, 200, font) for name in names]
    margin = int(max(font.getlength(text) for text in texts)) + 44
    side = margin + count * size + _GAP
    figure = Image.new("RGB", (max(side, 400), side + 34), "white")
    draw = ImageDraw.Draw(figure)
    fractions = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    for row, column in np.ndindex(count, count):
        fraction = float(fractions[row, column])
        x, y = margin + column * size, margin + row * size
        strong = np.array(_BLUE if row == column else _RED)
        color = np.array(_CELL) + (strong - _CELL) * math.sqrt(fraction)  # rare ones are seen, too
        draw.rectangle((x, y, x + size - 2, y + size - 2), tuple(color.astype(int).tolist()))
        if size >= 24 and fraction >= 0.005:
            ink = "white" if fraction > 0.2 else _INK
            middle = (x + size / 2 - 1, y + size / 2 - 1)
            draw.text(middle, f"{100 * fraction:.0f}", ink, _font(14), anchor="mm")
    upright = Image.new("RGB", (margin - 30, count * size), "white")  # names of columns, to turn
    for index, text in enumerate(texts):
        place = margin - 8, margin + (index + 0.5) * size - 1
        draw.text(place, text, _INK, font, anchor="rm")
        ImageDraw.Draw(upright).text((4, (index + 0.5) * size), text, _INK, font, anchor="lm")
    figure.paste(upright.transpose(Image.Transpose.ROTATE_90), (margin, 26))
    draw.text((margin, 6), "predicted as", _SOFT, _font(15))
    draw.text((margin - 8, margin - 22), "label", _SOFT, _font(15), anchor="ra")
    draw.text((_GAP, side + 6), "% of the pixels of each label", _SOFT, _font(15))
    return figure


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


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size=size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def _fit(image: Array, side: int) -> Array:
    """Resizes an image into a square; a small one by a whole number, so that pixels stay sharp."""
    scale = side / max(image.shape[:2])
    size = [max(1, round(length * min(scale, max(1, int(scale))))) for length in image.shape[1::-1]]
    mode = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(image, size, interpolation=mode), np.uint8)


def _shorten(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """The end of a text that is too wide, as paths differ there; one line."""
    text = " ".join(text.encode(errors="replace").decode().split())
    whole = text
    while text and font.getlength(text) > width:
        text = text[max(1, len(text) // 20) :]
    return text if text == whole else f"...{text[3:]}"


def _line(
    picture: Array, points: Points, color: tuple[int, int, int], *, thickness: int = 1
) -> None:
    places = np.round(np.array(points) * 16).astype(np.int32)  # with 4 fractional bits
    cv2.polylines(picture, [places], False, color, thickness, cv2.LINE_AA, shift=4)
