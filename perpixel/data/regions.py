"""Regions of an image as annotations describe them, drawn as masks: polygons, COCO's RLE, files.

A point (x, y) of an outline is in pixels from the image's top left corner, so that the pixel in
column 3 reaches from x = 3 to x = 4. A pixel belongs to a region if its center lies inside. So it
is in COCO's own code (cocodataset/cocoapi, common/maskApi.c: rleFrBbox makes of a box as many
pixels as its area). LabelMe (labelme/_utils/_shape.py), Ultralytics (ultralytics/data/utils.py,
polygon2mask) and OpenCV's fillPoly fill what lies below the outline, too, about half a pixel more
on each side: a box of 4x3 becomes one of 5x4.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from perpixel.data.dataset import value_counts
from perpixel.data.mask_values import has_soft_edges
from perpixel.errors import PerpixelError
from perpixel.io.images import Size, read_mask

Points = npt.NDArray[np.float64]
"""The corners of a polygon, [n, 2]: x and y."""

BoolMask = npt.NDArray[np.bool_]

_FAR = 1e9
"""Coordinates are cut to this many pixels, so that products of them are finite."""


class UndrawableError(Exception):
    """The region cannot be drawn; the text completes "annotations ...: 3"."""


class WrongSizeError(Exception):
    """The region was made for an image of another size, `size` (height, width)."""

    def __init__(self, size: Size) -> None:
        super().__init__(size)
        self.size = size


@dataclass(frozen=True)
class Patch:
    """A drawn region: where it is, bool [h, w], and its top left pixel's row and column."""

    top: int
    left: int
    mask: BoolMask
    remark: str = ""
    """What the user should know of it; completes "annotations ...: 3"."""


class Region(Protocol):
    """A part of an image. `draw` may raise UndrawableError, WrongSizeError and PerpixelError."""

    def draw(self, size: Size) -> Patch:
        """Draws the region in an image of `size` (height, width)."""


@dataclass(frozen=True)
class Polygons:
    """The union of polygons; one that crosses itself is filled by the even-odd rule.

    COCO merges the parts of an object in this way (pycocotools/coco.py, annToRLE). Formats without
    holes make a cut to them, an edge there and back, which has no area.
    """

    parts: tuple[Points, ...]
    is_normalized: bool = False
    """Whether the coordinates are fractions of the image's width and height."""

    def draw(self, size: Size) -> Patch:
        """Draws the union, cut to the image."""
        extent = np.array(size[::-1])
        parts = [part * extent if self.is_normalized else part for part in self.parts]
        points = np.concatenate(parts)
        is_outside = bool((points < -1).any() or (points > extent + 1).any())
        corner = np.clip(np.floor(points.min(0)), 0, extent).astype(int)
        end = np.clip(np.ceil(points.max(0)), corner, extent).astype(int)
        width, height = (end - corner).tolist()
        mask = np.zeros((height, width), np.bool_)
        for part in parts:
            mask |= _fill(np.clip(part, -_FAR, _FAR) - corner, height, width)
        remark = "that reach beyond the image, cut at its edge" if is_outside else ""
        return Patch(int(corner[1]), int(corner[0]), mask, remark)


@dataclass(frozen=True)
class Rle:
    """COCO's run lengths: of pixels outside and inside in turn, column by column.

    A text is the compressed form: numbers of five bits a character, the lowest first, 32 for one
    that goes on, 48 added to make it readable; from the fourth on each number is the difference to
    the last but one (cocodataset/cocoapi, common/maskApi.c, rleToString).
    """

    size: Size
    counts: Sequence[int] | str

    def draw(self, size: Size) -> Patch:
        """Decodes the runs."""
        if self.size != size:
            raise WrongSizeError(self.size)
        runs = _decompress(self.counts) if isinstance(self.counts, str) else list(self.counts)
        if min(runs, default=0) < 0 or sum(runs) != size[0] * size[1]:
            raise UndrawableError("whose RLE does not fill its size, not drawn")
        values = np.arange(len(runs)) % 2 == 1
        return _crop(np.repeat(values, runs).reshape(size[::-1]).T)


@dataclass(frozen=True)
class Bitmap:
    """A mask of a part of the image, whose top left pixel may lie outside."""

    top: int
    left: int
    mask: BoolMask

    def draw(self, size: Size) -> Patch:
        """Cuts the mask to the image."""
        top, left = max(self.top, 0), max(self.left, 0)
        mask = self.mask[top - self.top :, left - self.left :]
        mask = mask[: max(size[0] - top, 0), : max(size[1] - left, 0)]
        is_whole = mask.shape == self.mask.shape
        remark = "" if is_whole else "that reach beyond the image, cut at its edge"
        return Patch(min(top, size[0]), min(left, size[1]), mask, remark)


@dataclass(frozen=True)
class ClassMask:
    """A file of the image's size that is black where the class is not."""

    path: Path
    is_alpha: bool = False
    """Whether it holds opacity, as Label Studio's: everything above 0 is inside, as in its own
    conversion to COCO (label_studio_converter/brush.py, ls_rle_to_coco_rle)."""

    def draw(self, size: Size) -> Patch:
        """Reads the file; raises PerpixelError when it shows more than one class."""
        raw = read_mask(self.path)
        if raw.shape[:2] != size:
            raise WrongSizeError((raw.shape[0], raw.shape[1]))
        inside = np.asarray((raw if raw.ndim == 2 else raw.max(2)) > 0)
        values = value_counts(raw.reshape(-1, *raw.shape[2:]))
        remark = ""
        if not self.is_alpha and has_soft_edges(values):
            inside = np.asarray((raw if raw.ndim == 2 else raw.max(2)) >= 128)
            remark = "with soft edges, drawn from half of 255 on"
        elif not self.is_alpha and (len(values) > 2 or (len(values) == 2 and inside.all())):
            raise PerpixelError(
                f"{self.path}: holds {len(values)} different values; a mask of one class holds "
                f"two, of which 0 is the rest. Masks that hold all the classes need no conversion: "
                f"`perpixel data init`"
            )
        patch = _crop(inside)
        return Patch(patch.top, patch.left, patch.mask, remark)


def _fill(points: Points, height: int, width: int) -> BoolMask:
    """Fills a polygon: a pixel is inside if an odd number of edges lies left of its center."""
    x, y = points.T
    next_x, next_y = np.roll(points, -1, axis=0).T
    centers = np.arange(height)[:, None] + 0.5
    row, edge = np.nonzero((y <= centers) != (next_y <= centers))
    fraction = (row + 0.5 - y[edge]) / (next_y[edge] - y[edge])
    crossing = x[edge] + fraction * (next_x[edge] - x[edge])
    column = np.clip(np.ceil(crossing - 0.5), 0, width).astype(int)
    edges = np.zeros((height, width + 1), np.uint8)
    np.add.at(edges, (row, column), 1)  # numbers of 8 bits: only odd or even counts
    return np.asarray(np.cumsum(edges[:, :width], axis=1, dtype=np.uint8) % 2 == 1)


def _decompress(text: str) -> list[int]:
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise UndrawableError("whose RLE is malformed, not drawn")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:  # a negative number, whose upper bits are all 1
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise UndrawableError("whose RLE is cut off, not drawn")
    return runs


def _crop(mask: BoolMask) -> Patch:
    """Cuts off the rows and columns around a region, as an image may have hundreds of them."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return Patch(0, 0, np.zeros((0, 0), np.bool_))
    top, left = int(rows[0]), int(columns[0])
    return Patch(top, left, mask[top : rows[-1] + 1, left : columns[-1] + 1].copy())
