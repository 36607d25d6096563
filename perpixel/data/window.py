"""Crops a window of a resized image by resizing only the part of the image that it shows.

A label's window is exactly that of OpenCV's nearest resize. An image's window is OpenCV's bilinear
resize of a part of the image. That resize has no fractional offsets, so the part begins where a
whole source pixel falls on a whole pixel of the resized image, to within `_PHASE`; the origin
always does. docs/performance.md gives the remaining difference.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from perpixel.io.images import Array, Size

_PHASE = 1 / 256
"""The largest offset, in source pixels, of a part from its exact position."""


class Window(NamedTuple):
    """The `height` x `width` pixels at (`top`, `left`) of an image resized to `size`.

    `quarter_turns` says how often its pixels are rotated by 90 degrees once they are cropped;
    `crop_image` and `crop_mask` leave that to `augment`.
    """

    size: Size
    top: int
    left: int
    height: int
    width: int
    quarter_turns: int = 0


def source_rows(window: Window, size: Size) -> tuple[int, int]:
    """The rows (first, last + 1) that `crop_image` reads of an image of `size`."""
    part = _source_part(size[0], window.size[0], window.top, window.height)
    return part.first, part.end


def crop_image(image: Array, window: Window) -> Array:
    """Crops the window of an image, uint8 [height, width, 3], resized bilinearly."""
    height, width = image.shape[:2]
    rows = _source_part(height, window.size[0], window.top, window.height)
    columns = _source_part(width, window.size[1], window.left, window.width)
    resized = cv2.resize(
        image[rows.first : rows.end, columns.first : columns.end],
        None,
        fx=window.size[1] / width,
        fy=window.size[0] / height,
        interpolation=cv2.INTER_LINEAR,
    )
    window_pixels = resized[
        rows.skipped : rows.skipped + window.height,
        columns.skipped : columns.skipped + window.width,
    ]
    return np.asarray(window_pixels, np.uint8)


def crop_mask(label: Array, window: Window, *, every: int = 1) -> Array:
    """Crops the window of a mask, uint8 [height, width], resized to nearest; every nth pixel."""
    rows = _nearest_source(label.shape[0], window.size[0], window.top, window.height)
    columns = _nearest_source(label.shape[1], window.size[1], window.left, window.width)
    return label.take(rows[::every], axis=0).take(columns[::every], axis=1)


class _Part(NamedTuple):
    """Source pixels `first` .. `end`-1; `skipped` of their resized ones precede the window."""

    first: int
    end: int
    skipped: int


def _source_part(source: int, resized: int, start: int, length: int) -> _Part:
    """The part of an axis of `source` pixels for `length` of its `resized` ones from `start`."""
    scale = source / resized
    # The first resized pixels of a part would mix with its replicated border.
    last = start - math.ceil(0.5 / scale - 0.5)
    begin = 0
    if last > 0:
        candidates = np.arange(last, -1, -1)
        position = candidates * scale
        fits = np.abs(position - np.rint(position)) <= min(_PHASE, scale / 4)
        begin = int(candidates[np.argmax(fits)])
    first = round(begin * scale)
    end = min(math.ceil((start + length + 0.5) * scale + 0.5) + 1, source)
    if source != resized and abs((end - first) * (1 / scale - 1)) < 1:
        # The part would keep its size, and OpenCV would copy it unchanged.
        return _Part(0, source, start)
    return _Part(first, end, start - begin)


def _nearest_source(source: int, resized: int, start: int, length: int) -> npt.NDArray[np.int64]:
    """The source pixels of `length` resized ones from `start`, as cv2.INTER_NEAREST rounds."""
    positions = np.arange(start, start + length) * (1 / (resized / source))
    return np.minimum(positions.astype(np.int64), source - 1)
