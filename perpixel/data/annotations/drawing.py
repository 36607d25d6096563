"""Draws what annotations describe as masks, bool [height, width].

A point (x, y) is in pixels from the image's top left corner, so that the pixel in column 3 reaches
from x = 3 to x = 4. A pixel belongs to a polygon if its center lies inside, as in COCO's own code
(cocodataset/cocoapi, common/maskApi.c: rleFrBbox makes of a box as many pixels as its area).
LabelMe, Ultralytics (polygon2mask) and OpenCV's fillPoly fill about half a pixel more on each side.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from perpixel.errors import PerpixelError
from perpixel.io.images import Size

BoolMask = npt.NDArray[np.bool_]

Draw = Callable[[Size], BoolMask]
"""Draws an annotation in an image of a size (height, width); a malformed one covers no pixel."""


def require_size(size: Size, annotated_size: Size, origin: str) -> None:
    """Raises PerpixelError unless an image of `size` (height, width) has the one `origin` says."""
    if annotated_size != size:
        hint = ": does its EXIF orientation turn it? Then remove that tag"
        sizes = "for {}x{} (height x width), but the image is {}x{}".format(*annotated_size, *size)
        raise PerpixelError(f"{origin}: {sizes}{hint if annotated_size == size[::-1] else ''}")


def draw_polygons(
    parts: Sequence[Sequence[float]], size: Size, *, is_normalized: bool = False
) -> BoolMask:
    """Draws the union of polygons, each x, y, x, y, ...; even-odd where one crosses itself.

    COCO merges the parts of an object in this way (pycocotools/coco.py, annToRLE). Formats without
    holes make a cut to them, an edge there and back, which has no area; nor has a part of two
    points. `is_normalized`: the coordinates are fractions of the image's width and height.
    """
    mask = np.zeros(size, np.bool_)
    scale = np.array(size[::-1]) if is_normalized else 1
    parts = [part for part in parts if len(part) >= 6]
    if any(len(part) % 2 or not np.isfinite(part).all() for part in parts):
        return mask
    for part in parts:
        # Far coordinates are cut, so that products of them are finite.
        _fill(np.clip(np.reshape(part, (-1, 2)) * scale, -1e9, 1e9), mask)
    return mask


def _fill(points: npt.NDArray[np.float64], mask: BoolMask) -> None:
    """Fills a polygon: a pixel is inside if an odd number of edges lies left of its center."""
    x, y = points.T
    next_x, next_y = np.roll(points, -1, axis=0).T
    top, bottom = np.clip([np.floor(y.min()), np.ceil(y.max())], 0, len(mask)).astype(int)
    centers = np.arange(top, bottom)[:, None] + 0.5
    row, edge = np.nonzero((y <= centers) != (next_y <= centers))
    fraction = (centers[row, 0] - y[edge]) / (next_y[edge] - y[edge])
    crossing = x[edge] + fraction * (next_x[edge] - x[edge])
    column = np.clip(np.ceil(crossing - 0.5), 0, mask.shape[1]).astype(int)
    edges = np.zeros((bottom - top, mask.shape[1] + 1), np.uint8)
    np.add.at(edges, (row, column), 1)  # numbers of 8 bits: only odd or even counts
    mask[top:bottom] |= np.cumsum(edges[:, :-1], axis=1, dtype=np.uint8) % 2 == 1


def draw_rle(rle_size: Size, counts: Sequence[int] | str, size: Size) -> BoolMask:
    """Draws COCO's run lengths, of pixels outside and inside in turn, column by column.

    A text is the compressed form: numbers of five bits a character, the lowest first, 32 for one
    that goes on, 48 added to make it readable; from the fourth on each number is the difference to
    the last but one (cocodataset/cocoapi, common/maskApi.c, rleToString).
    """
    runs = _decompress(counts) if isinstance(counts, str) else counts
    if rle_size != size or min(runs, default=0) < 0 or sum(runs) != size[0] * size[1]:
        return np.zeros(size, np.bool_)
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size[::-1]).T


def _decompress(text: str) -> list[int]:
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            # 16 marks a negative number, whose upper bits are all 1.
            value -= (bits >> 4 & 1) << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs
