"""What a data set is: images with a class for every pixel.

Masks are uint8 [height, width], holding 0..num_classes-1, and IGNORE_INDEX where there is no label.
Whatever ids or colors the mask files hold is translated once, when a mask is read.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
import numpy.typing as npt

from perpixel.data.pair_list import PairList
from perpixel.data.paths import first_few
from perpixel.errors import PerpixelError
from perpixel.io.images import Array, Palette, read_image, read_mask
from perpixel.recipes.base import Color
from perpixel.recipes.schema import IGNORE_INDEX

Rows = tuple[int, int]
RawMask = npt.NDArray[np.uint8 | np.uint16]
Raw = tuple[int, ...]
"""What a pixel of a mask file holds: an id, (7,), or a color, (64, 0, 128)."""

UNKNOWN = IGNORE_INDEX - 1
"""No class's index: there are at most 254 classes."""


@dataclass(frozen=True)
class Classes:
    """Names and colors of the classes, in the order of their indices."""

    names: tuple[str, ...]
    palette: Palette

    def __post_init__(self) -> None:
        if len(self.names) != len(self.palette) or not 1 <= len(self.names) <= IGNORE_INDEX - 1:
            raise ValueError(f"{len(self.names)} names, {len(self.palette)} colors")

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def listed(cls, names: str, colors: str) -> "Classes":
        """Classes whose names are written with commas between them."""
        return cls(tuple(" ".join(name.split()) for name in names.split(",")), from_hex(colors))


def from_hex(colors: str) -> Palette:
    """Colors that are written as "804080", with blanks between them."""
    return tuple((red, green, blue) for red, green, blue in map(bytes.fromhex, colors.split()))


def plain_names(names: Iterable[str]) -> list[str]:
    """Names without the toolkits' differences: "traffic_light" is "traffic light"."""
    return [name.strip().lower().replace("_", " ") for name in names]


@runtime_checkable
class Dataset(Protocol):
    """A numbered collection of labeled images. Reading is a pure function of the index."""

    @property
    def classes(self) -> Classes:
        """Names and colors, in the order of the labels' indices."""

    def __len__(self) -> int: ...

    def sample_id(self, index: int) -> str:
        """A name for messages and result files: the image's path below the data root."""

    def image(self, index: int, *, rows: Rows | None = None) -> Array:
        """The image, uint8 RGB [height, width, 3].

        With `rows`, the first and the last + 1 of those that matter; others may be left black.
        """

    def label(self, index: int) -> Array:
        """Its mask, uint8 [height, width]: 0..classes-1, and IGNORE_INDEX."""


class LabelMapping:
    """From what a mask file holds to class indices.

    `ids` maps raw ids 0..65535, `colors` RGB values, each to a class index or IGNORE_INDEX. A mask
    of one channel goes through `ids`, one of three through `colors`. A value that is not listed is
    an error, so that a wrong table can never train silently.
    """

    def __init__(
        self, *, ids: Mapping[int, int] | None = None, colors: Mapping[Color, int] | None = None
    ) -> None:
        self.ids, self.colors = dict(ids or {}), dict(colors or {})
        self._index_of_id = np.full(2**16, UNKNOWN, np.uint8)
        self._index_of_id[list(self.ids)] = list(self.ids.values())
        codes = _codes(np.array(list(self.colors), np.uint8).reshape(-1, 3))
        order = np.argsort(codes)
        self._codes = codes[order]
        self._index_of_code = np.array(list(self.colors.values()), np.uint8)[order]

    def translate(self, mask: RawMask, *, origin: str) -> Array:
        """The mask of a mask, uint8 [height, width].

        Raises PerpixelError that names `origin` and the values the table lacks.
        """
        classes = self.lookup(mask, origin=origin)
        unknown = classes == UNKNOWN
        if unknown.any():
            raise PerpixelError(self._complaint(mask[unknown], origin))
        return classes

    def lookup(self, mask: RawMask, *, origin: str) -> Array:
        """The class index or IGNORE_INDEX of every pixel; UNKNOWN for a value the mapping lacks.

        Raises PerpixelError when the mask holds colors and the table ids, or the reverse.
        """
        if mask.ndim == 2:
            if not self.ids:
                raise PerpixelError(f"{origin}: holds ids, but the data set's classes have colors")
            if mask.dtype == np.uint8:  # most masks, and fast
                return np.asarray(cv2.LUT(mask, self._index_of_id[:256]), np.uint8)
            return np.asarray(self._index_of_id[mask])
        if not self.colors:
            raise PerpixelError(f"{origin}: holds RGB colors, but the data set's classes have ids")
        codes = _codes(mask)
        positions = np.searchsorted(self._codes, codes).clip(max=len(self._codes) - 1)
        found = self._codes[positions] == codes
        return np.where(found, self._index_of_code[positions], np.uint8(UNKNOWN))

    def _complaint(self, unknown: RawMask, origin: str) -> str:
        found = (value if len(value) > 1 else value[0] for value in value_counts(unknown))
        count = len({*self.ids.values(), *self.colors.values()} - {IGNORE_INDEX})
        kind, listed = "value", f"ids {first_few(sorted(self.ids))}"
        if unknown.ndim > 1:
            kind, listed = "color", f"{len(self.colors)} colors"
        return (
            f"{origin}: label {kind} {first_few(found)} at {len(unknown)} pixels is not in the "
            f"data set's table ({count} classes; {listed}). Fix the mask, or list the {kind} as a "
            f"class or as ignored."
        )


def value_counts(pixels: RawMask) -> Counter[Raw]:
    """How often each value occurs among pixels, ids [n] or colors [n, 3]; in rising order."""
    rgb = pixels.ndim == 2
    codes = _codes(pixels) if rgb else pixels
    # Runs of equal pixels are counted, not pixels: sorting those would take ten times as long.
    starts = np.flatnonzero(np.diff(codes, prepend=codes[:1] ^ 1))
    values, runs = np.unique(codes[starts], return_inverse=True)
    counts = np.bincount(runs, np.diff(starts, append=codes.size)).astype(int)
    raw = [(v >> 16, v >> 8 & 255, v & 255) if rgb else (v,) for v in values.tolist()]
    return Counter(dict(zip(raw, counts.tolist(), strict=True)))


@dataclass(frozen=True)
class PairDataset:
    """A data set of image and mask files."""

    root: Path
    files: PairList
    """Image and mask of every sample, as paths below `root`."""
    classes: Classes
    table: LabelMapping

    def __len__(self) -> int:
        return len(self.files)

    def sample_id(self, index: int) -> str:
        """The image's path below `root`."""
        return self.files[index][0]

    def image(self, index: int, *, rows: Rows | None = None) -> Array:
        """The image, uint8 RGB [height, width, 3]; the first `rows` of it, or all."""
        return read_image(self.root / self.files[index][0], rows=None if rows is None else rows[1])

    def label(self, index: int) -> Array:
        """Its mask, uint8 [height, width]: 0..classes-1, and IGNORE_INDEX."""
        origin = str(self.root / self.files[index][1])
        return self.table.translate(self.mask(index), origin=origin)

    def mask(self, index: int) -> RawMask:
        """What its mask file holds: ids, [height, width], or RGB colors, [height, width, 3]."""
        return read_mask(self.root / self.files[index][1])


def read_pair(dataset: Dataset, index: int) -> tuple[Array, Array]:
    """Image and mask of one sample; raises PerpixelError when their sizes differ."""
    label = dataset.label(index)
    return read_dataset_image(dataset, index, label=label), label


def read_dataset_image(
    dataset: Dataset, index: int, *, label: Array, rows: Rows | None = None
) -> Array:
    """The image of a sample whose mask is `label`, or `rows` of it.

    Raises PerpixelError when their sizes differ.
    """
    image = dataset.image(index, rows=rows)
    if image.shape[:2] != label.shape:
        raise PerpixelError(
            f"{dataset.sample_id(index)}: the image is {image.shape[0]}x{image.shape[1]} (height "
            f"x width), its mask {label.shape[0]}x{label.shape[1]}; they must be the same size"
        )
    return image


def require_classes(dataset: Dataset, names: tuple[str, ...]) -> None:
    """Raises PerpixelError unless the data set's classes are called `names`, as a model's are."""
    if plain_names(dataset.classes.names) != plain_names(names):
        raise PerpixelError(
            f"the model knows {len(names)} classes ({', '.join(names)}), the data set has "
            f"{len(dataset.classes)} ({', '.join(dataset.classes.names)})"
        )


def _codes(colors: RawMask) -> npt.NDArray[np.int32]:
    wide = colors.astype(np.int32)
    return np.asarray(wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2])
