"""Finds masks of one class each: masks/CLASS/IMAGE.png, IMAGE/CLASS.png or IMAGE_CLASS.png.

Another name with a word for masks does for "masks"; the latter two may also lie among the images.
"""

import posixpath
import re
from collections import defaultdict
from collections.abc import Container, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from perpixel.data.annotations.base import SPLIT, AnnotatedFolder, Annotation, folder_split
from perpixel.data.annotations.drawing import BoolMask, require_size
from perpixel.data.dataset import value_counts
from perpixel.data.mask_values import has_soft_edges
from perpixel.errors import PerpixelError
from perpixel.io.images import Size, read_mask

LAYOUTS = "masks/CLASS/IMAGE.png, IMAGE/CLASS.png or IMAGE_CLASS.png"

_MASK_WORD = re.compile(
    r"(?i)(?<![a-z])(masks?|labels?|annotations?|gt|ground_?truth|seg|segmentations?)(?![a-z])"
)


def find(folder: AnnotatedFolder) -> list[str]:
    """Lists the masks whose names and folders say image and class."""
    return [mask for mask, _, _ in _match(folder)]


def read(folder: AnnotatedFolder) -> None:
    """Adds the images, masks and class names to `folder`."""
    images = {}
    for mask, path, name in sorted(_match(folder)):
        folder.class_names = sorted({*folder.class_names, name})
        if path not in images:
            images[path] = folder.add_image(path, mask, split="")
        draw = partial(_draw, folder.root / mask)
        images[path].annotations.append(Annotation(name, draw, mask))


def _match(folder: AnnotatedFolder) -> Iterator[tuple[str, str, str]]:
    """Yields every mask with its image and class."""
    files = {path for path in folder.image_files if path.lower().endswith(".png")}
    masks = {path for path in files if _MASK_WORD.search(posixpath.dirname(path))}
    # Without a folder of masks they lie among the images, and have longer names.
    order = sorted(folder.image_files, key=lambda path: (path in masks, path.count("/"), len(path)))
    images: dict[str, list[str]] = defaultdict(list)
    for path in order:
        stem, class_name = _image_and_class(path, images)
        paths = images.get(stem, []) if path in (masks or files) else []
        if image := folder.choose(paths, path, split=folder_split(path)):
            yield path, image, class_name
        elif path not in masks:
            images[Path(path).stem].append(path)


def _image_and_class(mask: str, images: Container[str]) -> tuple[str, str]:
    """The image's stem and the class by the mask's name and folder; two empty ones without them."""
    above, folder, name = Path(mask).parent.parent, Path(mask).parent.name, Path(mask).stem
    candidates = [(folder, name)]
    if _MASK_WORD.search(str(above)) and not (_MASK_WORD.search(folder) or SPLIT.search(folder)):
        candidates.insert(0, (name, folder))
    for separator in reversed(list(re.finditer(r"[-_. ](?!\d+$)", name))):
        candidates.append((name[: separator.start()], name[separator.end() :].strip("-_. ")))
    return next(((stem, end) for stem, end in candidates if stem in images and end), ("", ""))


def _draw(path: Path, size: Size) -> BoolMask:
    """Reads a mask that is black where the class is not; with soft edges, half of 255 is inside."""
    raw = read_mask(path)
    values = value_counts(raw.reshape(-1, *raw.shape[2:]))
    brightness = raw if raw.ndim == 2 else raw.max(2)
    is_soft = has_soft_edges(values)
    if not is_soft and len(values) > (2 if brightness.min() == 0 else 1):
        raise PerpixelError(
            f"{path}: holds {len(values)} different values; a mask of one class holds two, of "
            f"which 0 is the rest. Masks of all classes need no conversion: `perpixel data init`"
        )
    require_size(size, raw.shape[:2], str(path))
    return np.asarray(brightness >= (128 if is_soft else 1))
