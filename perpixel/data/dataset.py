"""The Dataset protocol, class names and colors, label mappings, and PairDataset of files.

Masks are uint8 [height, width]: 0..num_classes-1, and IGNORE_INDEX for unlabeled pixels. The ids
or colors of mask files are mapped to class indices once, when a mask is read.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import cv2
import numpy as np
import numpy.typing as npt

from perpixel.data.pair_list import PairList
from perpixel.data.paths import first_few
from perpixel.errors import PerpixelError, plural
from perpixel.io.images import (
    MAX_ID,
    MIN_ID,
    Array,
    Palette,
    RawMask,
    exif_orientation,
    read_image,
    read_mask,
)
from perpixel.recipes.base import Color
from perpixel.recipes.schema import IGNORE_INDEX, DatasetInput

Rows = tuple[int, int]
"""A range of image rows: (first, last + 1)."""

RawValue = tuple[int, ...]
"""One pixel of a raw mask: an id, (7,), or a color, (64, 0, 128)."""

UNKNOWN = IGNORE_INDEX - 1
"""The index of a raw value without a mapping. No class has it: there are at most 254 classes."""


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
        """Creates classes from comma-separated names and blank-separated hex colors."""
        return cls(tuple(" ".join(name.split()) for name in names.split(",")), from_hex(colors))


def from_hex(colors: str) -> Palette:
    """Parses blank-separated hex colors such as "804080 800000"."""
    return tuple((red, green, blue) for red, green, blue in map(bytes.fromhex, colors.split()))


def plain_names(names: Iterable[str]) -> list[str]:
    """Normalizes class names for comparison: "Traffic_Light" becomes "traffic light"."""
    return [name.strip().lower().replace("_", " ") for name in names]


@runtime_checkable
class Dataset(Protocol):
    """A numbered collection of labeled images. Reading is a pure function of the index."""

    @property
    def classes(self) -> Classes:
        """Names and colors, in the order of the labels' indices."""

    def __len__(self) -> int: ...

    def sample_id(self, index: int) -> str:
        """The sample's name in messages and result files: the image's path below the data root."""

    def image(self, index: int, *, rows: Rows | None = None) -> Array:
        """The image, uint8 RGB [height, width, 3].

        With `rows`, only these must be read; the others may be black.
        """

    def label(self, index: int) -> Array:
        """The image's mask, uint8 [height, width]: 0..num_classes-1, and IGNORE_INDEX."""


class LabelMapping:
    """Maps the raw values of mask files to class indices.

    `ids` maps raw ids -32768..65535, `colors` RGB values, each to a class index or IGNORE_INDEX. A
    mask of one channel is mapped by `ids`, one of three by `colors`. An unlisted value is an error,
    so that a wrong mapping can never train silently.
    """

    def __init__(
        self, *, ids: Mapping[int, int] | None = None, colors: Mapping[Color, int] | None = None
    ) -> None:
        self.ids, self.colors = dict(ids or {}), dict(colors or {})
        # A negative id is an index from the table's end, as in any list.
        self._index_of_id = np.full(MAX_ID + 1 - MIN_ID, UNKNOWN, np.uint8)
        self._index_of_id[list(self.ids)] = list(self.ids.values())

    @cached_property
    def _index_of_color(self) -> Array:  # 16 MB, so only where masks hold colors
        table = np.full(2**24, UNKNOWN, np.uint8)
        table[_pack_rgb(np.array(list(self.colors), np.uint8))] = list(self.colors.values())
        return table

    def translate(self, mask: RawMask, *, origin: str) -> Array:
        """Maps a raw mask to class indices, uint8 [height, width].

        Raises PerpixelError that names `origin` and the values without a mapping.
        """
        indices = self.lookup(mask, origin=origin)
        unknown = indices == UNKNOWN
        if unknown.any():
            pixels = mask[unknown]
            count = len({*self.ids.values(), *self.colors.values()} - {IGNORE_INDEX})
            kind, known = "value", f"ids {first_few(sorted(self.ids))}"
            if mask.ndim == 3:
                kind, known = "color", plural(len(self.colors), "color")
            values = (value if len(value) > 1 else value[0] for value in value_counts(pixels))
            raise PerpixelError(
                f"{origin}: label {kind} {first_few(values)} at {plural(len(pixels), 'pixel')} is "
                f"not in the data set's table ({plural(count, 'class')}; {known}). Fix the mask, "
                f"or list the {kind} as a class or as ignored."
            )
        return indices

    def lookup(self, mask: RawMask, *, origin: str) -> Array:
        """Maps a raw mask as `translate` does, with UNKNOWN for a value without a mapping.

        Raises PerpixelError when the mask holds colors and the mapping ids, or the reverse.
        """
        if mask.ndim == 2:
            if not self.ids:
                raise PerpixelError(f"{origin}: holds ids, but the data set's classes have colors")
            if mask.dtype == np.uint8:  # the common case; a table look-up is the fastest
                return np.asarray(cv2.LUT(mask, self._index_of_id[:256]), np.uint8)
            return np.asarray(self._index_of_id[mask])
        if not self.colors:
            raise PerpixelError(f"{origin}: holds RGB colors, but the data set's classes have ids")
        return np.asarray(self._index_of_color[_pack_rgb(mask)])


def value_counts(pixels: RawMask) -> Counter[RawValue]:
    """Counts the values among pixels, ids [n] or colors [n, 3]; in ascending order."""
    is_rgb = pixels.ndim == 2
    if pixels.dtype == np.uint8 and not is_rgb:  # much faster than sorting
        counts = np.bincount(pixels, minlength=256)
        values = np.flatnonzero(counts)
        counts = counts[values]
    else:
        values, counts = np.unique(_pack_rgb(pixels) if is_rgb else pixels, return_counts=True)
    raw = [(v >> 16, v >> 8 & 255, v & 255) if is_rgb else (v,) for v in values.tolist()]
    return Counter(dict(zip(raw, counts.tolist(), strict=True)))


@dataclass(frozen=True)
class PairDataset:
    """A data set of image and mask files."""

    root: Path
    files: PairList
    """Image and mask of every sample, as paths below `root`."""
    classes: Classes
    mapping: LabelMapping
    read_palette_as: Literal["indices", "colors"] | None = None
    """What masks with a palette give; None, which nobody chose, is indices."""
    input: DatasetInput = field(default_factory=DatasetInput)
    """What a folder's dataset.toml says of the model's input."""
    apply_exif_orientation: bool = True
    """Whether images are rotated as their EXIF tag says."""

    def __len__(self) -> int:
        return len(self.files)

    def sample_id(self, index: int) -> str:
        """The image's path below `root`."""
        return self.files[index][0]

    def image(self, index: int, *, rows: Rows | None = None) -> Array:
        """The image, uint8 RGB [height, width, 3]; with `rows`, those below them may be black."""
        return read_image(
            self.root / self.files[index][0],
            rows=None if rows is None else rows[1],
            bands=self.input.bands,
            apply_exif_orientation=self.apply_exif_orientation,
        )

    def label(self, index: int) -> Array:
        """The image's mask, uint8 [height, width]: 0..num_classes-1, and IGNORE_INDEX."""
        origin = str(self.root / self.files[index][1])
        return self.mapping.translate(self.mask(index), origin=origin)

    def mask(self, index: int) -> RawMask:
        """The raw mask: ids, [height, width], or RGB colors, [height, width, 3]."""
        path = self.root / self.files[index][1]
        return read_mask(path, palette_as_colors=self.read_palette_as == "colors")

    def orientation_hint(self, index: int) -> str:
        """What to try where image and mask differ in size; empty for an upright image."""
        orientation = exif_orientation(self.root / self.files[index][0])
        if orientation == 1:
            return ""
        other = "false" if self.apply_exif_orientation else "true"
        return (
            f". The image has EXIF orientation {orientation}: try apply_exif_orientation = {other} "
            f"in dataset.toml"
        )


def read_pair(dataset: Dataset, index: int) -> tuple[Array, Array]:
    """Reads image and mask of one sample; raises PerpixelError when their sizes differ."""
    label = dataset.label(index)
    return read_dataset_image(dataset, index, label=label), label


def read_dataset_image(
    dataset: Dataset, index: int, *, label: Array, rows: Rows | None = None
) -> Array:
    """Reads the image of the sample whose mask is `label`, or only `rows` of it.

    Raises PerpixelError when their sizes differ.
    """
    image = dataset.image(index, rows=rows)
    if image.shape[:2] != label.shape:
        hint = dataset.orientation_hint(index) if isinstance(dataset, PairDataset) else ""
        raise PerpixelError(
            f"{dataset.sample_id(index)}: the image is {image.shape[0]}x{image.shape[1]} (height "
            f"x width), its mask {label.shape[0]}x{label.shape[1]}; they must be the same size"
            f"{hint}"
        )
    return image


def require_classes(dataset: Dataset, names: tuple[str, ...]) -> None:
    """Raises PerpixelError unless the data set's class names are the model's, `names`."""
    if plain_names(dataset.classes.names) != plain_names(names):
        raise PerpixelError(
            f"the model knows {plural(len(names), 'class')} ({', '.join(names)}), the data set has "
            f"{len(dataset.classes)} ({', '.join(dataset.classes.names)})"
        )


def _pack_rgb(colors: RawMask) -> npt.NDArray[np.int32]:
    wide = colors.astype(np.int32)
    return np.asarray(wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2])
