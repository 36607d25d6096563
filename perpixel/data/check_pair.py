"""What one pair of image and mask files is like: everything wrong with it, and its pixels."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from perpixel.data.dataset import UNKNOWN, PairDataset, RawMask, RawValue, value_counts
from perpixel.errors import PerpixelError
from perpixel.io import tiff
from perpixel.io.images import Array
from perpixel.recipes.schema import IGNORE_INDEX

_ORIENTATION = 0x0112  # EXIF's tag; 1 is upright
_DARK = 64  # of 255: what a camera's 14 bits come to when they are taken for 16


class Kind(Enum):
    """What may be found in a data set: how bad it is, and what it is called in the plural.

    An error stops a training or an evaluation, a warning may spoil its result.
    """

    UNOPENED = "error", "splits that cannot be opened"
    MISSING_IMAGE = "error", "listed images that are not there"
    MISSING_MASK = "error", "listed masks that are not there"
    UNREADABLE_IMAGE = "error", "images that cannot be decoded"
    UNREADABLE_MASK = "error", "masks that cannot be decoded"
    DIFFERENT_SIZES = "error", "images and masks of different sizes"
    UNKNOWN_VALUES = "error", "masks with values that are not in the data set's table"
    ONLY_VOID = "warning", "masks without a single labeled pixel"
    ONE_CLASS = "warning", "data sets of one class, which teach nothing: name the rest a class, too"
    UNSEEN_CLASS = "warning", "classes that a split never shows"
    IN_SEVERAL_SPLITS = "warning", "images that are in more than one split"
    REPEATED = "warning", "images that are more than once in a split"
    UNUSED = "warning", "files beside the others that no pair uses"
    FEW_BITS = "warning", "images of 16 bits that use only the low ones, or are dark: black here"
    SIXTEEN_BITS = "note", "images of more than 8 bits, scaled to 8 when read"
    UNMARKED = "note", "TIFFs that do not say which bands are colors: the first three here"
    ALPHA = "note", "images with transparency, dropped when read"
    CLEAR = "note", "masks with transparent pixels, which count by their value all the same"
    CMYK = "note", "images in CMYK, made RGB when read; colors may be off"
    TURNED = "note", "images turned by their EXIF tag when read; masks must fit that"
    BELOW_CROP = "note", "images smaller than the crop, padded in training"

    def __init__(self, severity: str, title: str) -> None:
        self.severity = severity
        self.title = title


@dataclass(frozen=True)
class Finding:
    """One thing found: the file, class or split it is about, and what there is to say of it."""

    kind: Kind
    split: str
    subject: str
    detail: str = ""


@dataclass(frozen=True)
class PairReport:
    """One pair, looked at in full. What could not be read is None."""

    size: tuple[int, int] | None
    """The image's (height, width)."""
    digest: bytes | None
    """Equal for images of equal pixels."""
    pixels: Counter[int]
    """How many pixels the mask has of each class, and of IGNORE_INDEX."""
    findings: tuple[Finding, ...]


def examine(
    pairs: PairDataset, index: int, *, split: str, crop: tuple[int, int] | None
) -> PairReport:
    """Reads one pair as training does, and reports whatever is wrong instead of raising."""
    image_path, mask_path = pairs.files[index]
    image, of_image = _image(pairs, index, crop)
    raw, pixels, of_mask = _mask(pairs, index)
    findings = [Finding(kind, split, image_path, detail) for kind, detail in of_image]
    findings += [Finding(kind, split, mask_path, detail) for kind, detail in of_mask]
    if image is not None and raw is not None and image.shape[:2] != raw.shape[:2]:
        detail = f"{_written(image)}, its mask {mask_path} {_written(raw)} (height x width)"
        findings.append(Finding(Kind.DIFFERENT_SIZES, split, image_path, detail))
    size = None if image is None else (image.shape[0], image.shape[1])
    return PairReport(size, _digest(image), pixels, tuple(findings))


_Remarks = list[tuple[Kind, str]]


def _image(
    pairs: PairDataset, index: int, crop: tuple[int, int] | None
) -> tuple[Array | None, _Remarks]:
    path = pairs.root / pairs.files[index][0]
    if not path.is_file():
        return None, [(Kind.MISSING_IMAGE, f"its mask is {pairs.files[index][1]}")]
    try:
        remarks = _peculiarities(path)
        image = pairs.image(index)
    except PerpixelError as error:
        return None, [(Kind.UNREADABLE_IMAGE, _reason(error, path))]
    if any(kind is Kind.SIXTEEN_BITS for kind, _ in remarks):
        most = np.percentile(image, 99)  # clouds and what marks missing data may be white
        if most < _DARK:
            detail = f"99% of the values are at most {most:.0f} of 255; scale them to 16 bits"
            remarks.append((Kind.FEW_BITS, detail))
    if crop is not None and (image.shape[0] < crop[0] or image.shape[1] < crop[1]):
        remarks.append((Kind.BELOW_CROP, _written(image)))
    return image, remarks


def _mask(pairs: PairDataset, index: int) -> tuple[RawMask | None, Counter[int], _Remarks]:
    path = pairs.root / pairs.files[index][1]
    if not path.is_file():
        return None, Counter(), [(Kind.MISSING_MASK, f"its image is {pairs.files[index][0]}")]
    try:
        raw = pairs.mask(index)
    except PerpixelError as error:
        return None, Counter(), [(Kind.UNREADABLE_MASK, _reason(error, path))]
    remarks = _transparency(path)
    try:
        classes = pairs.mapping.lookup(raw, origin=str(path))
    except PerpixelError as error:
        return raw, Counter(), [*remarks, (Kind.UNKNOWN_VALUES, _reason(error, path))]
    counts = enumerate(np.bincount(classes.ravel()).tolist())
    pixels = Counter({index: count for index, count in counts if count})
    if pixels.pop(UNKNOWN, 0):
        remarks.append((Kind.UNKNOWN_VALUES, _listed(value_counts(raw[classes == UNKNOWN]))))
    elif pixels.keys() == {IGNORE_INDEX}:
        remarks.append((Kind.ONLY_VOID, ""))
    return raw, pixels, remarks


def _transparency(path: Path) -> _Remarks:
    """A note on a mask of which not every pixel is opaque."""
    try:
        with Image.open(path) as file:
            if "A" not in file.getbands():
                return []
            clear = np.mean(np.asarray(file.getchannel("A")) < 255)
    except (OSError, SyntaxError, ValueError):  # a MATLAB file, or one that only OpenCV reads
        return []
    return [(Kind.CLEAR, f"{clear:.2%} of its pixels")] if clear else []


def _peculiarities(path: Path) -> _Remarks:
    """What Pillow, which says more of a file than OpenCV, knows of an image.

    Raises PerpixelError when the file is cut off: some versions of OpenCV fill up such a JPEG with
    gray and say nothing.
    """
    remarks = []
    try:
        told = tiff.header(memoryview(path.read_bytes()))
        if told is not None and told.bits > 8:
            remarks.append((Kind.SIXTEEN_BITS, str(told)))
        if told is not None and told.is_unmarked:
            remarks.append((Kind.UNMARKED, str(told)))
        with Image.open(path) as file:
            if told is None and (";16" in str(file.tile) or file.mode[0] in "IF"):
                remarks.append((Kind.SIXTEEN_BITS, file.mode))
            if "A" in file.getbands() or "transparency" in file.info:
                remarks.append((Kind.ALPHA, file.mode))
            if file.mode == "CMYK":
                remarks.append((Kind.CMYK, ""))
            if file.getexif().get(_ORIENTATION, 1) != 1:
                remarks.append((Kind.TURNED, f"orientation {file.getexif()[_ORIENTATION]}"))
            file.load()
    except (UnidentifiedImageError, Image.DecompressionBombError):
        pass  # OpenCV reads more formats, and greater images
    except (OSError, SyntaxError, ValueError) as error:
        # A codec that this Pillow was built without; 16 bits in planes, which it cannot unpack.
        if not any(words in str(error) for words in ("not available", "unknown raw mode")):
            raise PerpixelError(f"{path}: corrupt or cut off ({error})") from None
    return remarks


def _digest(image: Array | None) -> bytes | None:
    if image is None:
        return None
    return hashlib.blake2b(image.tobytes() + str(image.shape).encode(), digest_size=16).digest()


def _reason(error: PerpixelError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")


def _written(image: RawMask) -> str:
    return f"{image.shape[0]}x{image.shape[1]}"


def _listed(counts: Counter[RawValue]) -> str:
    """ "77 at 12 pixels, 200 at 3 pixels", the commonest first."""
    parts = [
        f"{value if len(value) > 1 else value[0]} at {count} pixel{'s' * (count != 1)}"
        for value, count in counts.most_common(12)
    ]
    more = len(counts) - len(parts)
    return ", ".join(parts) + (f", {more} more values" if more else "")
