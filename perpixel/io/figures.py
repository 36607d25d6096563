"""Draws sheets of images, legends of classes, and confusion matrices, with Pillow."""

import math
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from perpixel.io.images import Array, Palette

_INK, _SOFT, _FAINT = (27, 33, 41), (88, 100, 116), (176, 184, 194)
_BLUE, _RED, _CELL = (31, 111, 208), (210, 59, 59), (238, 241, 245)
_GAP = 12

_SYSTEM_FONTS = ("NotoSansCJK-Regular.ttc", "DejaVuSans.ttf", "Arial Unicode.ttf", "arial.ttf")
"""Fonts with many letters, of which most systems have one; Pillow's own has ASCII's alone."""


def fit(image: Array, side: int = 320) -> Array:
    """Resizes an image into a square; a small one by a whole number, so that pixels stay sharp."""
    scale = side / max(image.shape[:2])
    size = [max(1, round(length * min(scale, max(1, int(scale))))) for length in image.shape[1::-1]]
    mode = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(image, size, interpolation=mode), np.uint8)


def sheet(
    tiles: Sequence[tuple[Array, str]],
    *,
    columns: int,
    classes: Sequence[str],
    palette: Palette,
    shown: Collection[int],
) -> Array:
    """Arranges RGB images with their captions in a grid, above a legend of the classes.

    The legend's classes that are not `shown`, by index, are pale.
    """
    columns = min(columns, len(tiles))
    images = [Image.fromarray(image) for image, _ in tiles]
    rows = [range(first, len(tiles))[:columns] for first in range(0, len(tiles), columns)]
    cell = max(image.width for image in images) + _GAP
    width = _GAP + max(columns * cell, 480)
    caption_font = font(14, [caption for _, caption in tiles])
    heights = [max(images[index].height for index in row) + 34 for row in rows]
    names = _legend(classes, palette, width=width, size=15, shown=shown)
    figure = Image.new("RGB", (width, sum(heights) + names.height + 2 * _GAP), "white")
    draw = ImageDraw.Draw(figure)
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        for column, index in enumerate(row):
            left = _GAP + column * cell
            figure.paste(images[index], (left, top))
            caption = _shorten(tiles[index][1], cell - _GAP, caption_font)
            draw.text((left, top + images[index].height + 4), caption, _INK, caption_font)
        top += height
    figure.paste(names, (0, top))
    return np.asarray(figure)


def add_legend(image: Array, names: Sequence[str], palette: Palette) -> Array:
    """Returns the image, uint8 RGB [height, width, 3], with names and their colors below it.

    An image that is narrower than the longest name gets a white margin at its right.
    """
    height, width = image.shape[:2]
    size = max(12, round(height / 30))
    below = _legend(names, palette, width=width, size=size, shown=range(len(names)))
    figure = Image.new("RGB", (below.width, height + below.height), "white")
    figure.paste(Image.fromarray(image))
    figure.paste(below, (0, height))
    return np.asarray(figure)


def _legend(
    names: Sequence[str], palette: Palette, *, width: int, size: int, shown: Collection[int]
) -> Image.Image:
    """Draws names beside their colors in columns, in letters of `size`; those not `shown` pale."""
    letters = font(size, names)
    texts = [_shorten(name, 16 * size, letters) for name in names]
    column = max(int(letters.getlength(text)) for text in texts) + 3 * size
    rows = math.ceil(len(texts) / max(1, width // column))
    figure = Image.new("RGB", (max(width, column), rows * 2 * size), "white")
    draw = ImageDraw.Draw(figure)
    for index, text in enumerate(texts):
        x, y = index // rows * column, index % rows * 2 * size
        square = (x + size // 2, y + size // 2, x + 3 * size // 2, y + 3 * size // 2)
        draw.rectangle(square, palette[index], _FAINT)
        ink = _INK if index in shown else _FAINT
        draw.text((x + 2 * size, y + size), text, ink, letters, anchor="lm")
    return figure


def confusion(matrix: npt.NDArray[np.int64], names: Sequence[str]) -> Image.Image:
    """Draws a confusion matrix, [classes, classes]; rows are labels, columns predictions.

    A cell is a percentage of its row; one of less than half a percent has no number.
    """
    count = len(names)
    size = max(12, min(40, 1200 // count))
    small, medium = font(min(15, size - 1), names), font(14)
    texts = [_shorten(name, 200, small) for name in names]
    margin = int(max(small.getlength(text) for text in texts)) + 44
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
            draw.text(middle, f"{100 * fraction:.0f}", ink, medium, anchor="mm")
    upright = Image.new("RGB", (margin - 30, count * size), "white")  # names of columns, to turn
    for index, text in enumerate(texts):
        place = margin - 8, margin + (index + 0.5) * size - 1
        draw.text(place, text, _INK, small, anchor="rm")
        ImageDraw.Draw(upright).text((4, (index + 0.5) * size), text, _INK, small, anchor="lm")
    figure.paste(upright.transpose(Image.Transpose.ROTATE_90), (margin, 26))
    draw.text((margin, 6), "predicted as", _SOFT, font(15))
    draw.text((margin - 8, margin - 22), "label", _SOFT, font(15), anchor="ra")
    draw.text((_GAP, side + 6), "% of the pixels of each label", _SOFT, font(15))
    return figure


def font(size: int, texts: Iterable[str] = ()) -> ImageFont.FreeTypeFont:
    """Returns Pillow's own font, `size` pixels high, or one of the system for more than ASCII."""
    is_ascii = all(text.isascii() for text in texts)
    for name in () if is_ascii else _SYSTEM_FONTS:
        with suppress(OSError):
            return ImageFont.truetype(name, size)
    own = ImageFont.load_default(size=size)
    assert isinstance(own, ImageFont.FreeTypeFont)
    return own


def _shorten(text: str, width: int, small: ImageFont.FreeTypeFont) -> str:
    """The end of a text that is too wide, as paths differ there; one line."""
    text = " ".join(text.encode(errors="replace").decode().split())
    whole = text
    while text and small.getlength(text) > width:
        text = text[max(1, len(text) // 20) :]
    return text if text == whole else f"...{text[3:]}"
