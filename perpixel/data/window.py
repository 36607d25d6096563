"""A window of a resized image, made from the part of the image that it shows.

Resizing an image by 2 to keep an eighth of it is mostly work for nothing. These functions give
the window alone: the label exactly as OpenCV's nearest resize gives it, the image by OpenCV's
bilinear resize of a part of it. That resize knows no fractional offsets, so the part begins where
a whole source pixel falls on a whole pixel of the resized image, to within `_PHASE`; the origin
always does. What is left of the difference is in docs/performance.md.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from perpixel.io.images import Array, Size

_PHASE = 1 / 256
"""How far, in source pixels, a part may lie beside the place it should have."""


class Window(NamedTuple):
    """`height` x `width` pixels from (`top`, `left`) on, in an image resized to `size`."""

    size: Size
    top: int
    left: int
    height: int
    width: int


def source_rows(window: Window, size: Size) -> tuple[int, int]:
    """First and last + 1 of the rows that `cut_image` reads of an image of `size`."""
    part = _part(size[0], window.size[0], window.top, window.height)
    return part.first, part.end


def crop_image(image: Array, window: Window) -> Array:
    """The window of an image, uint8 [height, width, 3], resized bilinearly."""
    height, width = image.shape[:2]
    rows = _part(height, window.size[0], window.top, window.height)
    columns = _part(width, window.size[1], window.left, window.width)
    resized = cv2.resize(
        image[rows.first : rows.end, columns.first : columns.end],
        None,
        fx=window.size[1] / width,
        fy=window.size[0] / height,
        interpolation=cv2.INTER_LINEAR,
    )
    found = resized[
        rows.skipped : rows.skipped + window.height,
        columns.skipped : columns.skipped + window.width,
    ]
    return np.asarray(found, np.uint8)


def crop_mask(label: Array, window: Window, *, every: int = 1) -> Array:
    """The window of a mask, uint8 [height, width], by nearest pixels; or `every` nth alone."""
    rows = _nearest(label.shape[0], window.size[0], window.top, window.height)
    columns = _nearest(label.shape[1], window.size[1], window.left, window.width)
    return label.take(rows[::every], axis=0).take(columns[::every], axis=1)


class _Part(NamedTuple):
    """Source pixels `first` .. `end`-1, whose resized ones begin `skipped` before the window."""

    first: int
    end: int
    skipped: int


def _part(source: int, resized: int, start: int, length: int) -> _Part:
    """What of one axis of `source` pixels gives `length` of the `resized` ones from `start` on."""
    scale = source / resized
    # The first pixels of a part see its border in place of the pixels before it.
    last = start - math.ceil(0.5 / scale - 0.5)
    begin = 0
    if last > 0:
        candidates = np.arange(last, -1, -1)
        at = candidates * scale
        fits = np.abs(at - np.rint(at)) <= min(_PHASE, scale / 4)
        begin = int(candidates[np.argmax(fits)])
    first = round(begin * scale)
    end = min(math.ceil((start + length + 0.5) * scale + 0.5) + 1, source)
    if source != resized and abs((end - first) * (1 / scale - 1)) < 1:
        # So little change that the part keeps its size; OpenCV would copy it as it is.
        return _Part(0, source, start)
    return _Part(first, end, start - begin)


def _nearest(source: int, resized: int, start: int, length: int) -> npt.NDArray[np.int64]:
    """The source pixel of each of `length` resized ones, as cv2.INTER_NEAREST chooses it."""
    places = np.arange(start, start + length) * (1 / (resized / source))
    return np.minimum(places.astype(np.int64), source - 1)
