"""Checks one pair of image and mask files: its problems, size and pixel counts."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from perpixel.data.dataset import UNKNOWN, PairDataset, RawValue, value_counts
from perpixel.data.mask_values import used_colors
from perpixel.data.paths import first_few
from perpixel.errors import PerpixelError, plural
from perpixel.io import tiff
from perpixel.io.images import Array, RawMask, exif_orientation, read_palette
from perpixel.recipes.base import Color
from perpixel.recipes.schema import IGNORE_INDEX

_DARK = 64  # of 255: the largest value of 14-bit sensor data that is read as 16 bits


class Kind(Enum):
    """A kind of finding: its severity, and its title in the plural.

    An error can end a training or an evaluation, a warning may spoil the result.
    """

    UNOPENED = "error", "splits that cannot be opened"
    MISSING_IMAGE = "error", "listed images that do not exist"
    MISSING_MASK = "error", "listed masks that do not exist"
    UNREADABLE_IMAGE = "error", "images that cannot be decoded"
    UNREADABLE_MASK = "error", "masks that cannot be decoded"
    DIFFERENT_SIZES = "error", "images and masks of different sizes"
    UNKNOWN_VALUES = "error", "masks with values that are not in the data set's table"
    ONE_CLASS = "error", "splits that show at most one class: nothing can be learned or scored"
    PALETTES = (
        "error",
        "masks whose palette gives an index another color: set read_palette_as in dataset.toml to "
        '"colors", or to "indices" if colors mean nothing',
    )
    MOSTLY_VOID = (
        "warning",
        "splits with more unlabeled pixels than labeled ones: is an ignored value a class?",
    )
    ONLY_VOID = "warning", "masks without a single labeled pixel"
    UNSEEN_CLASS = "warning", "classes without a pixel in a split"
    IN_SEVERAL_SPLITS = "warning", "images that are in more than one split"
    REPEATED = "warning", "images that are more than once in a split"
    UNUSED = "warning", "files beside the others that no pair uses"
    FEW_BITS = "warning", "16-bit images that use only the low bits, or are dark: black when read"
    UNUSED_FOLDER = "note", "folders of images that no pair uses"
    PARTLY_READ = "warning", "images that are not read as a whole"
    TURNED = (
        "warning",
        "images rotated by their EXIF tag: see whether their masks fit; "
        "apply_exif_orientation = false in dataset.toml reads them unrotated",
    )
    SIXTEEN_BITS = "note", "images of more than 8 bits, scaled to 8 when read"
    UNMARKED = (
        "note",
        "TIFFs without color tags: the first three bands are read as red, green, blue",
    )
    ALPHA = "note", "images with transparency, which is dropped when read"
    CLEAR = "note", "masks with transparent pixels, whose values count all the same"
    CMYK = "note", "images in CMYK, converted to RGB when read; colors may be off"
    BELOW_CROP = "note", "images smaller than the crop, padded in training"

    def __init__(self, severity: str, title: str) -> None:
        self.severity = severity
        self.title = title


@dataclass(frozen=True)
class Finding:
    """One problem: its kind, its split, the file, class or split it concerns, and details."""

    kind: Kind
    split: str
    subject: str
    detail: str = ""


@dataclass(frozen=True)
class PairReport:
    """The result for one pair. None stands for what could not be read."""

    size: tuple[int, int] | None
    """The image's (height, width)."""
    digest: bytes | None
    """A hash of the image's pixels and shape."""
    pixels: Counter[int]
    """The mask's number of pixels of each class, and of IGNORE_INDEX."""
    raw_pixels: Counter[RawValue]
    """The mask file's number of pixels of each id or color."""
    color_of_index: Mapping[int, Color]
    """The palette's colors of the mask's classes, by index; empty where there is no palette."""
    findings: tuple[Finding, ...]
    moments: npt.NDArray[np.float64] | None = None
    """Sums of each channel's values and of their squares, [2, 3], where bands are chosen."""


def examine(
    pairs: PairDataset, index: int, *, split: str, crop: tuple[int, int] | None
) -> PairReport:
    """Reads one pair as training does, and reports its problems instead of raising."""
    image_path, mask_path = pairs.files[index]
    image, image_remarks = _check_image(pairs, index, crop)
    raw, pixels, mask_remarks = _check_mask(pairs, index)
    raw_pixels, color_of_index = _describe_values(pairs, index, raw)
    if image is not None and raw is not None and image.shape[:2] != raw.shape[:2]:
        detail = f"{_size_text(image)}, its mask {mask_path} {_size_text(raw)} (height x width)"
        detail += pairs.orientation_hint(index)
        image_remarks.append((Kind.DIFFERENT_SIZES, detail))
    findings = [Finding(kind, split, image_path, detail) for kind, detail in image_remarks]
    findings += [Finding(kind, split, mask_path, detail) for kind, detail in mask_remarks]
    size = digest = None
    if image is not None:
        size = image.shape[0], image.shape[1]
        content = image.tobytes() + str(image.shape).encode()
        digest = hashlib.blake2b(content, digest_size=16).digest()
    moments = None
    if image is not None and pairs.input.bands is not None:
        values = image.reshape(-1, 3).astype(np.float64)
        moments = np.stack([values.sum(0), np.square(values).sum(0)])
    return PairReport(size, digest, pixels, raw_pixels, color_of_index, tuple(findings), moments)


_Remarks = list[tuple[Kind, str]]
"""Kinds and details of a file's problems."""


def _check_image(
    pairs: PairDataset, index: int, crop: tuple[int, int] | None
) -> tuple[Array | None, _Remarks]:
    path = pairs.root / pairs.files[index][0]
    if not path.is_file():
        return None, [(Kind.MISSING_IMAGE, f"its mask is {pairs.files[index][1]}")]
    try:
        remarks = _inspect_file(path, pairs)
        image = pairs.image(index)
    except PerpixelError as error:
        return None, [(Kind.UNREADABLE_IMAGE, _without_path(error, path))]
    if any(kind is Kind.SIXTEEN_BITS for kind, _ in remarks):
        bright = np.percentile(image, 99)  # clouds and no-data markers may be white
        if bright < _DARK:
            detail = f"99% of the values are at most {bright:.0f} of 255; scale them to 16 bits"
            remarks.append((Kind.FEW_BITS, detail))
    if crop is not None and (image.shape[0] < crop[0] or image.shape[1] < crop[1]):
        remarks.append((Kind.BELOW_CROP, _size_text(image)))
    return image, remarks


def _check_mask(pairs: PairDataset, index: int) -> tuple[RawMask | None, Counter[int], _Remarks]:
    path = pairs.root / pairs.files[index][1]
    if not path.is_file():
        return None, Counter(), [(Kind.MISSING_MASK, f"its image is {pairs.files[index][0]}")]
    try:
        raw = pairs.mask(index)
    except PerpixelError as error:
        return None, Counter(), [(Kind.UNREADABLE_MASK, _without_path(error, path))]
    remarks = _check_transparency(path)
    try:
        indices = pairs.mapping.lookup(raw, origin=str(path))
    except PerpixelError as error:
        return raw, Counter(), [*remarks, (Kind.UNKNOWN_VALUES, _without_path(error, path))]
    counts = enumerate(np.bincount(indices.ravel()).tolist())
    pixels = Counter({index: count for index, count in counts if count})
    if pixels.pop(UNKNOWN, 0):
        unknown = value_counts(raw[indices == UNKNOWN]).most_common()
        detail = first_few(
            f"{value if len(value) > 1 else value[0]} at {plural(count, 'pixel')}"
            for value, count in unknown
        )
        remarks.append((Kind.UNKNOWN_VALUES, detail))
    elif pixels.keys() == {IGNORE_INDEX}:
        remarks.append((Kind.ONLY_VOID, ""))
    return raw, pixels, remarks


def _describe_values(
    pairs: PairDataset, index: int, raw: RawMask | None
) -> tuple[Counter[RawValue], Mapping[int, Color]]:
    """Counts the raw mask's values, and finds the colors of those that are indices of classes."""
    if raw is None:
        return Counter(), {}
    counts = value_counts(raw.reshape(-1, *raw.shape[2:]))
    has_indices = raw.ndim == 2 and raw.dtype == np.uint8
    palette = read_palette(pairs.root / pairs.files[index][1]) if has_indices else None
    is_class = (value for value in counts if pairs.mapping.ids.get(value[0]) != IGNORE_INDEX)
    return counts, used_colors(palette, is_class)


def _check_transparency(path: Path) -> _Remarks:
    try:
        with Image.open(path) as file:
            if "A" not in file.getbands():
                return []
            transparent = np.mean(np.asarray(file.getchannel("A")) < 255)
    except (OSError, SyntaxError, ValueError):  # a MATLAB file, or one that only OpenCV reads
        return []
    return [(Kind.CLEAR, f"{transparent:.2%} of its pixels")] if transparent else []


def _inspect_file(path: Path, pairs: PairDataset) -> _Remarks:
    """Reads an image's metadata, which OpenCV does not give, with Pillow and tifffile.

    Raises PerpixelError when the file is truncated: some versions of OpenCV fill such a JPEG with
    gray without an error.
    """
    remarks = []
    try:
        tags = tiff.parse(memoryview(path.read_bytes()))
        if tags is not None:
            remarks += _inspect_tiff(tags, path, pairs)
        with Image.open(path) as file:
            if tags is None and (";16" in str(file.tile) or file.mode[0] in "IF"):
                remarks.append((Kind.SIXTEEN_BITS, file.mode))
            if "A" in file.getbands() or "transparency" in file.info:
                remarks.append((Kind.ALPHA, file.mode))
            if file.mode == "CMYK":
                remarks.append((Kind.CMYK, ""))
            orientation = exif_orientation(path)
            if orientation != 1 and pairs.apply_exif_orientation:
                remarks.append((Kind.TURNED, f"orientation {orientation}"))
            file.load()
    except (UnidentifiedImageError, Image.DecompressionBombError):
        pass  # OpenCV reads more formats, and larger images
    except (OSError, SyntaxError, ValueError) as error:
        # Pillow lacks some codecs, and cannot unpack 16 bits in planes.
        if not any(words in str(error) for words in ("not available", "unknown raw mode")):
            raise PerpixelError(f"{path}: corrupt or truncated ({error})") from None
    return remarks


def _inspect_tiff(file: tiff.Tiff, path: Path, pairs: PairDataset) -> _Remarks:
    remarks = []
    if file.bits > 8:
        remarks.append((Kind.SIXTEEN_BITS, str(file)))
    if file.dtype is not None and file.dtype.kind == "i":
        smallest = file.read(origin=str(path)).min()
        if smallest < 0:
            remarks.append((Kind.PARTLY_READ, f"numbers down to {smallest}: negative ones are 0"))
    if pairs.input.bands is None and file.bands > 3 and not file.has_alpha:
        detail = f"the first three of {file}; bands = [4, 3, 2] in dataset.toml reads others"
        remarks.append((Kind.PARTLY_READ, detail))
    elif pairs.input.bands is None and file.is_unmarked:
        remarks.append((Kind.UNMARKED, str(file)))
    return remarks


def _without_path(error: PerpixelError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")


def _size_text(image: RawMask) -> str:
    return f"{image.shape[0]}x{image.shape[1]}"
