"""Draws the names of classes, beside their colors, below an image."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from perpixel.io import figures
from perpixel.io.images import Array, Palette


def add_legend(image: Array, names: Sequence[str], palette: Palette) -> Array:
    """Returns the image, uint8 RGB [height, width, 3], with rows of names and colors below it.

    An image that is narrower than the longest name gets a white margin at its right.
    """
    height, width = image.shape[:2]
    size = max(12, round(height / 30))
    font = figures.font(size, names)
    columns = [round(font.getlength(name)) + 3 * size for name in names]
    width = max([width, *columns])
    x, y, places = 0, height, []
    for column in columns:
        if x + column > width:
            x, y = 0, y + 2 * size
        places.append((x, y))
        x += column
    canvas = Image.new("RGB", (width, y + 2 * size), "white")
    canvas.paste(Image.fromarray(image))
    draw = ImageDraw.Draw(canvas)
    for (x, y), name, color in zip(places, names, palette, strict=True):
        square = (x + size // 2, y + size // 2, x + 3 * size // 2, y + 3 * size // 2)
        draw.rectangle(square, fill=color, outline="gray")
        draw.text((x + 2 * size, y + size), name, fill="black", font=font, anchor="lm")
    return np.asarray(canvas)
