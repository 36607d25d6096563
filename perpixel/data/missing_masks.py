"""Explains why a folder's images have no masks that could be found, and what to do."""

import json
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from perpixel.data.datasets.folder import FILE
from perpixel.data.pairing import MASK_WORDS, split_words
from perpixel.data.paths import first_few
from perpixel.errors import PerpixelError, plural
from perpixel.io.images import IMAGE_SUFFIXES, MASK_SUFFIXES

_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
_CONVERT = "`perpixel data convert` draws masks from them"
_BY_HAND = (
    f"A mask has the name of its image, but for what all masks, or all images, start or end with; "
    f"rename them, or write {FILE} by hand"
)


def missing_masks_error(folder: Path, files: Sequence[str]) -> PerpixelError:
    """Returns an error that says what `files`, paths below `folder`, are, and what to do."""
    images = [file for file in files if file.lower().endswith(IMAGE_SUFFIXES)]
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for file in files:
        path = PurePosixPath(file)
        kinds[str(path.parent)][path.suffix.lower() or path.name] += 1
    content = "; ".join(
        f"{path}: {', '.join(f'{count} {kind}' for kind, count in counts.most_common(4))}"
        for path, counts in list(kinds.items())[:6]
    )
    more = f"; and {plural(len(kinds) - 6, 'folder')} more" if len(kinds) > 6 else ""
    advice = next(_advice(folder, files, images))
    return PerpixelError(
        f"{folder}: found {plural(len(images), 'image')}, but no masks for them. It holds "
        f"{content}{more}. {advice}"
    )


def _advice(folder: Path, files: Sequence[str], images: Sequence[str]) -> Iterator[str]:
    """Yields what may be wrong, the most likely first."""
    if not images:
        yield f"Images end in {', '.join(IMAGE_SUFFIXES)}; convert others"
    yield from _polygons(folder, files, images)
    in_mask_folders = [
        file
        for file in files
        if file.lower().endswith((*IMAGE_SUFFIXES, *MASK_SUFFIXES))
        and any(split_words(part) & MASK_WORDS for part in PurePosixPath(file).parts)
    ]
    others = [image for image in images if image not in set(in_mask_folders)]
    yield from _class_masks(images, in_mask_folders, others)
    lossy = [file for file in in_mask_folders if not file.lower().endswith(MASK_SUFFIXES)]
    if lossy:
        yield (
            f"JPEG files such as {lossy[0]} cannot be masks, as JPEG changes values: classes mix "
            f"at every edge. Export the masks again as PNG; black and white ones can be converted, "
            f"as with `magick mogrify -format png -threshold 50% *.jpg`"
        )
    yield from _archives(folder, files)
    if in_mask_folders and others:
        yield (
            f"{in_mask_folders[0]} is called a mask, but no image has its name; the first image "
            f"is {others[0]}. {_BY_HAND}"
        )
    folders: dict[str, set[str]] = defaultdict(set)
    for image in images:
        folders[str(PurePosixPath(image).parent)].add(PurePosixPath(image).stem)
    for path, names in folders.items():
        equal = [other for other in folders if other != path and folders[other] & names]
        if equal:
            yield (
                f"{path} and {equal[0]} hold files of equal names, but no word says which are the "
                f"masks: rename these folders to images and masks"
            )
    other_kinds = {PurePosixPath(file).suffix.lower() for file in files} - set(IMAGE_SUFFIXES)
    kinds = f"not {first_few(sorted(filter(None, other_kinds)))}" if any(other_kinds) else "no JPEG"
    yield (
        f"Masks are recognized by their folder (images and masks, train and trainannot, ...) or "
        f"their names (a.jpg and a_mask.png, image_1.jpg and mask_1.png). They are images, too, "
        f"{kinds}, or arrays (.npy); the first of the {len(images)} images is {images[0]}. "
        f"{_BY_HAND}"
    )


def _polygons(folder: Path, files: Sequence[str], images: Sequence[str]) -> Iterator[str]:
    json_files = [file for file in files if file.lower().endswith(".json")]
    for file in json_files[:20]:
        keys = _keys(folder / file)
        if {"images", "annotations"} <= keys:
            yield f"{file} holds polygons in COCO's format: {_CONVERT}"
        if "shapes" in keys or {"objects", "imgHeight"} <= keys:
            yield f"{file} and others hold polygons as LabelMe writes them: {_CONVERT}"
    stems = {PurePosixPath(image).stem for image in images}
    texts = [
        file
        for file in files
        if file.lower().endswith(".txt") and PurePosixPath(file).stem in stems
    ]
    for file in texts[:20]:
        numbers = _numbers(folder / file)
        if len(numbers) > 6:
            yield f"{file} and others hold polygons in YOLO's format: {_CONVERT}"
        elif len(numbers) == 5:
            yield f"{file} and others hold boxes in YOLO's format, from which no mask can be drawn"
    xml = [file for file in files if file.lower().endswith(".xml")]
    for file in xml[:1]:
        yield (
            f"{file} and others are XML, as of Pascal VOC's boxes or CVAT's polygons, which is not "
            f"read: export masks as PNG, or COCO's format, from the tool that made them"
        )


def _class_masks(
    files: Sequence[str], masks: Sequence[str], images: Sequence[str]
) -> Iterator[str]:
    """Several masks for an image: Label Studio's, one for each class, or one for each object."""
    # HumanSignal/label-studio, issue 8561: these names hold no image's name.
    brush = [file for file in files if re.search(r"task-\d+-annotation-\d+", file)]
    if brush:
        yield (
            f"{brush[0]} and others are Label Studio's, one for each class, whose names do not say "
            f"their image: export COCO from it, of which `perpixel data convert` makes masks"
        )
    names = {PurePosixPath(image).stem for image in images}
    masks_of: dict[str, list[str]] = defaultdict(list)
    for mask in masks:
        path = PurePosixPath(mask)
        length = len(path.stem)
        starts = [path.stem[:end] for end in range(length, 0, -1)]
        ends = [path.stem[start:] for start in range(1, length)]
        texts = (path.stem, *path.parts[:-1], *starts, *ends)
        name = next((text for text in texts if text in names), None)
        if name is not None:
            masks_of[name].append(mask)
    several = max(masks_of.values(), key=len, default=[])
    if len(several) > 1:
        yield (
            f"{first_few(several[:3])} are masks of one image. If each shows one class, `perpixel "
            f"data convert` makes one mask of them; a mask for each object has no classes"
        )


def _archives(folder: Path, files: Sequence[str]) -> Iterator[str]:
    for file in files:
        if file.lower().endswith(_ARCHIVES):
            inside = ""
            if file.lower().endswith(".zip"):
                try:
                    with zipfile.ZipFile(folder / file) as archive:
                        names = [name for name in archive.namelist() if not name.endswith("/")]
                    inside = f" of {plural(len(names), 'file')} ({first_few(names[:3])})"
                except (OSError, zipfile.BadZipFile):
                    inside = ", which cannot be read,"
            yield f"{file} is an archive{inside}: unpack it, if it holds the masks"


def _keys(path: Path) -> set[str]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return set()
    return set(content) if isinstance(content, dict) else set()


def _numbers(path: Path) -> list[float]:
    """The numbers of a text file's first line; none if it holds anything else."""
    try:
        with path.open("rb") as file:
            return [float(word) for word in file.readline().split()]
    except (OSError, ValueError):
        return []
