"""Draws annotations as masks and describes them in a dataset.toml: `perpixel data convert`."""

import json
import posixpath
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from perpixel.data.annotations import (
    EMBEDDED,
    AnnotatedImage,
    Annotations,
    Remarks,
    embedded_image,
    read_annotations,
    remark_lines,
)
from perpixel.data.datasets.folder import FILE, open_folder
from perpixel.data.paths import require_folder
from perpixel.data.prefetch import cores, read_ahead
from perpixel.data.regions import BoolMask, Patch, UndrawableError, WrongSizeError
from perpixel.errors import CorruptFileError, PerpixelError
from perpixel.io.atomic import atomic_write
from perpixel.io.images import (
    Array,
    Palette,
    Size,
    distinct_palette,
    read_image,
    write_image,
    write_mask,
)
from perpixel.recipes.overrides import require_known
from perpixel.recipes.schema import IGNORE_INDEX

MASKS = "perpixel-masks"
"""The folder for the masks and lists, below the root."""

BACKGROUND = "background"

_ORIENTATION = 0x0112  # EXIF's tag; 1 is upright, from 5 on width and height are exchanged


@dataclass(frozen=True)
class _Drawn:
    """An image's mask file is written; what is to be said of it."""

    remarks: Sequence[tuple[str, str]]
    pixels: Mapping[int, int]
    """The number of pixels of each id."""
    overlapping: int = 0
    """Pixels that annotations of several classes claim."""
    is_written: bool = True
    wrong_size: str = ""
    """Both sizes, where the annotations were made for another one."""


def convert(
    root: Path,
    *,
    unlabeled: str = "background",
    only: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Writes ROOT/perpixel-masks and ROOT/dataset.toml for the annotations below `root`.

    Masks are PNGs with ids: 0 for what no annotation covers (255 with `unlabeled` "ignore"),
    classes from 1 on. Where annotations of several classes overlap, the smaller one is on top, as
    COCO and YOLO say no order (alicranck/coco2voc, issue 8; Ultralytics' polygons2masks_overlap);
    LabelMe's later shapes cover earlier ones, as in its own shapes_to_label. Images stay where they
    are. `only` names one of the FORMATS, `progress` gets the number of images (done, in all).

    Returns lines for the user: what was found, and everything that was left out. Raises
    UsageError for an unknown `unlabeled` or `only`; PerpixelError when the files exist already, for
    malformed annotations, images of another size than annotated, and when nothing could be drawn;
    then nothing is left behind.
    """
    require_known(unlabeled, ("background", "ignore"), f"--unlabeled {unlabeled}: no such way")
    require_folder(root, dataset="your images", holds="them and their annotations")
    for name in (FILE, MASKS, EMBEDDED):
        if (root / name).exists():
            raise PerpixelError(f"{root / name}: exists already; move it away to convert anew")
    remarks: Remarks = defaultdict(list)
    annotations = read_annotations(root, remarks, only=only)
    _require_own_stems(root, annotations.images)
    try:
        return _write(root, annotations, remarks, unlabeled=unlabeled, progress=progress)
    except BaseException:
        (root / FILE).unlink(missing_ok=True)
        for name in (MASKS, EMBEDDED):
            shutil.rmtree(root / name, ignore_errors=True)
        raise


def _write(
    root: Path,
    annotations: Annotations,
    remarks: Remarks,
    *,
    unlabeled: str,
    progress: Callable[[int, int], None] | None,
) -> list[str]:
    names = [name for name in annotations.class_names if name != BACKGROUND]
    if len(names) >= IGNORE_INDEX - 1:
        raise PerpixelError(
            f"{root}: its annotations have {len(names)} classes; at most {IGNORE_INDEX - 2} and "
            f"the background are possible"
        )
    ids = {BACKGROUND: 0, **{name: index for index, name in enumerate(names, start=1)}}
    palette = ((0, 0, 0), *distinct_palette(max(len(names), 1)))
    rest = 0 if unlabeled == "background" else IGNORE_INDEX
    pixels: Counter[int] = Counter()
    shown_in: Counter[int] = Counter()
    overlapping = 0
    wrong_sizes: list[str] = []
    written: list[AnnotatedImage] = []

    def run(image: AnnotatedImage) -> _Drawn:
        return _draw(root, image, ids, palette, rest=rest, in_file_order=annotations.in_file_order)

    results = read_ahead(run, annotations.images, threads=cores())
    pairs = zip(annotations.images, results, strict=True)
    for done, (image, drawn) in enumerate(pairs, start=1):
        for kind, case in drawn.remarks:
            remarks[kind].append(case)
        pixels.update(drawn.pixels)
        shown_in.update(drawn.pixels.keys())
        overlapping += drawn.overlapping
        if drawn.wrong_size:
            wrong_sizes.append(drawn.wrong_size)
        if drawn.is_written:
            written.append(image)
        if progress is not None:
            progress(done, len(annotations.images))
    if wrong_sizes:
        raise PerpixelError(
            f"{root}: annotations of {_count(wrong_sizes, 'image')} were made for another size "
            f"(height x width): {'; '.join(wrong_sizes[:5])}"
        )
    if not any(pixels[index] for index in range(1, IGNORE_INDEX)):
        text = "; ".join(remark_lines(remarks)) or "there is no annotation"
        raise PerpixelError(f"{root}: no annotation could be drawn: {text}")

    splits, notes = _divide(written)
    classes = [(name, ids[name]) for name in names]
    if unlabeled == "background" or BACKGROUND in annotations.class_names:
        classes.insert(0, (BACKGROUND, 0))
    by_case: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_case[name.casefold()].append(name)
    if similar := ["/".join(group) for group in by_case.values() if len(group) > 1]:
        remarks["names that differ in upper and lower case alone, as classes of their own"] += (
            similar
        )
    if unseen := [name for name, index in classes if not pixels[index]]:
        remarks["classes without a pixel in any mask"] += unseen
    if empty := [image.path for image in written if not image.annotations]:
        kind = "all background" if unlabeled == "background" else "no label at all"
        remarks[f"images without an annotation: {kind}"] += empty
    counts = ", ".join(f"{split} {len(images)}" for split, images in splits.items())
    total = sum(pixels.values())
    order = "the later one covers the earlier one, as in LabelMe"
    if not annotations.in_file_order:
        order = "the smaller one is on top, as the format says no order"
    lines = [f"{_count(written, 'image')} with annotations as {annotations.format}: {counts}"]
    lines += notes
    if overlapping:
        lines.append(
            f"{overlapping / total:.2%} of the pixels have annotations of several classes: {order}"
        )
    comments = {
        index: f"{pixels[index] / total:.2%} of the pixels; images: {shown_in[index]}"
        for _, index in classes
    }
    toml = [
        f"# Written by `perpixel data convert` from annotations as {annotations.format}.",
        f"# What they do not cover is {rest}{', without a label' if rest else ''}.",
        _suffix_line(written),
        "\nclasses = [",
        *(
            f"  {{ name = {_toml_value(name)}, color = {list(palette[index])}, ids = [{index}] }},"
            f"  # {comments[index]}"
            for name, index in classes
        ),
        "]",
    ]
    for split, images in splits.items():
        toml += ["", *_write_split(root, split, images)]
    atomic_write(root / FILE, "\n".join([*toml, ""]).encode(errors="backslashreplace"))
    for split in splits:
        open_folder(root, split)
    return [*lines, *remark_lines(remarks), f"written: {root / FILE}, {root / MASKS}"]


def _require_own_stems(root: Path, images: Sequence[AnnotatedImage]) -> None:
    path_of: dict[str, str] = {}
    for image in images:
        other = path_of.setdefault(posixpath.splitext(image.path)[0], image.path)
        if other != image.path:
            raise PerpixelError(
                f"{root / other} and {root / image.path} have the same stem, so they would share "
                f"a mask; rename one of them, in its annotations, too"
            )


# --- One image -----------------------------------------------------------------------------------


def _draw(
    root: Path,
    image: AnnotatedImage,
    ids: Mapping[str, int],
    palette: Palette,
    *,
    rest: int,
    in_file_order: bool,
) -> _Drawn:
    """Writes the image's mask, unless the image is corrupt or the annotations do not fit."""
    path = root / image.path
    try:
        decoded = embedded_image(root / image.origin) if image.is_embedded else read_image(path)
    except CorruptFileError as error:
        kind = "images that cannot be decoded, left out"
        return _Drawn([(kind, str(error))], {}, is_written=False)
    if image.is_embedded:
        write_image(path, decoded)
    size = height, width = decoded.shape[0], decoded.shape[1]
    orientation = _orientation(path)
    remarks = []
    if not _fits(image, size):
        return _Drawn([], {}, is_written=False, wrong_size=_size_text(image, size, orientation))
    if orientation != 1 and (orientation < 5 or height == width or None in image.size):
        kind = "images turned by their EXIF orientation when read; do the annotations fit that?"
        remarks.append((kind, f"{image.path}: {orientation}"))
    patches: list[tuple[Patch, int]] = []
    for annotation in image.annotations:
        try:
            patch = annotation.region.draw(size)
        except UndrawableError as error:
            remarks.append((f"annotations {error}", annotation.origin))
            continue
        except WrongSizeError as error:
            text = _size_text(image, size, orientation, error.size, annotation.origin)
            return _Drawn([], {}, is_written=False, wrong_size=text)
        if patch.remark:
            remarks.append((f"annotations {patch.remark}", annotation.origin))
        if not patch.mask.any():
            remarks.append(("annotations that cover no pixel", annotation.origin))
        name = annotation.class_name
        patches.append((patch, IGNORE_INDEX if name is None else ids[name]))
    if not in_file_order:
        patches.sort(key=lambda item: -np.count_nonzero(item[0].mask))
    mask, overlaps = _paint(patches, size, rest)
    write_mask(root / MASKS / f"{posixpath.splitext(image.path)[0]}.png", mask, palette)
    counts = enumerate(np.bincount(mask.ravel()).tolist())
    pixels = {index: count for index, count in counts if count}
    return _Drawn(remarks, pixels, int(np.count_nonzero(overlaps)))


def _paint(patches: Sequence[tuple[Patch, int]], size: Size, rest: int) -> tuple[Array, BoolMask]:
    """Paints the patches in their order; returns the mask, and where two classes overlap."""
    mask = np.full(size, rest, np.uint8)
    is_painted, overlaps = np.zeros(size, np.bool_), np.zeros(size, np.bool_)
    for patch, index in patches:
        height, width = patch.mask.shape
        window = np.s_[patch.top : patch.top + height, patch.left : patch.left + width]
        overlaps[window] |= patch.mask & is_painted[window] & (mask[window] != index)
        is_painted[window] |= patch.mask
        mask[window][patch.mask] = index
    return mask, overlaps


def _fits(image: AnnotatedImage, size: Size) -> bool:
    return all(
        said is None or said == actual for said, actual in zip(image.size, size, strict=True)
    )


def _size_text(
    image: AnnotatedImage,
    size: Size,
    orientation: int,
    said: tuple[int | None, int | None] | None = None,
    origin: str = "",
) -> str:
    height, width = said or image.size
    text = f"{image.path} is {size[0]}x{size[1]}, {origin or image.origin} says {height}x{width}"
    if orientation >= 5 and (width, height) == size:
        text += (
            f" (its EXIF orientation, {orientation}, turns it when it is read; as it was annotated "
            f"unturned, remove the tag: exiftool -Orientation= FILE)"
        )
    return text


def _orientation(path: Path) -> int:
    """The orientation in the file's EXIF data, 1 to 8; 1 without any."""
    try:
        with Image.open(path) as file:
            value = file.getexif().get(_ORIENTATION, 1)
    except Exception:  # a corrupt file makes Pillow raise almost anything; OpenCV has read it
        return 1
    return value if value in range(1, 9) else 1


# --- dataset.toml --------------------------------------------------------------------------------


def _divide(
    images: Sequence[AnnotatedImage],
) -> tuple[dict[str, list[AnnotatedImage]], list[str]]:
    """The images of every split, with one for validation, and notes on what was chosen."""
    groups: dict[str, list[AnnotatedImage]] = defaultdict(list)
    notes = []
    for image in images:
        groups[image.split].append(image)
    if rest := groups.pop("", []):
        name = "other" if "train" in groups else "train"
        if groups:
            notes.append(f"in no split by name, called {name!r}: {_count(rest, 'image')}")
        groups[name] = rest
    every = groups.get("train", [])
    if "val" not in groups and len(every) > 1:
        groups["val"] = every[4::5] or every[-1:]
        chosen = {image.path for image in groups["val"]}
        groups["train"] = [image for image in every if image.path not in chosen]
        notes.append(
            "every fifth image is for validation, as no name says which are; frames of one video "
            "look alike: divide those by video instead"
        )
    elif "val" not in groups and every:
        groups["val"] = every
        notes.append("the only image is for validation, too: its score says little")
    order = ("train", "val", "test", "other")
    return {split: groups[split] for split in order if split in groups}, notes


def _write_split(root: Path, split: str, images: Sequence[AnnotatedImage]) -> list[str]:
    """Writes the split's list and returns its lines of TOML."""
    folder = posixpath.commonpath([posixpath.dirname(image.path) for image in images])
    stems = [
        posixpath.splitext(posixpath.relpath(image.path, folder or "."))[0] for image in images
    ]
    content = "".join(f"{stem}\n" for stem in stems).encode(errors="surrogateescape")
    atomic_write(root / MASKS / f"{split}.txt", content)
    return [
        f"# {_count(images, 'image')}",
        f"[splits.{split}]",
        f"images = {_toml_value(folder or '.')}",
        f"masks = {_toml_value(posixpath.join(MASKS, folder))}",
        f"list = {_toml_value(f'{MASKS}/{split}.txt')}",
    ]


def _suffix_line(images: Sequence[AnnotatedImage]) -> str:
    suffixes = sorted({posixpath.splitext(image.path)[1].lower() for image in images})
    return f"image_suffixes = {_toml_value(suffixes)}"


def _count(items: Sequence[object], word: str) -> str:
    return f"{len(items)} {word}{'' if len(items) == 1 else 's'}"


def _toml_value(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
