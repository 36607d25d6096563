"""Finds masks of one class each: masks/CLASS/IMAGE.png, or IMAGE_CLASS.png in any folder.

Another name with a word for masks does for "masks". Without such a folder the masks are the PNGs,
and the images have another format.
"""

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from perpixel.data.annotations.base import AnnotatedFolder, Annotation, folder_split
from perpixel.data.annotations.drawing import BoolMask, require_size
from perpixel.data.dataset import value_counts
from perpixel.data.mask_values import has_soft_edges
from perpixel.data.pairing import MASK_WORDS, SPLITS, split_words
from perpixel.errors import PerpixelError
from perpixel.io.images import Size, read_mask

LAYOUTS = "masks/CLASS/IMAGE.png or IMAGE_CLASS.png"


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
    files = [path for path in folder.image_files if path.lower().endswith(".png")]
    in_mask_folders = [path for path in files if split_words(posixpath.dirname(path)) & MASK_WORDS]
    masks = dict.fromkeys(in_mask_folders or files)  # in order
    images = defaultdict(list)
    for path in folder.image_files:
        if path not in masks:
            images[Path(path).stem].append(path)
    for mask in masks:
        for stem, class_name in _images_and_classes(mask):
            if image := folder.choose(images[stem], mask, split=folder_split(mask)):
                yield mask, image, class_name
                break


def _images_and_classes(mask: str) -> Iterator[tuple[str, str]]:
    """Yields the image's stem and the class that a mask's name and folder may mean."""
    folder, name = Path(mask).parent.name, Path(mask).stem
    if folder and not split_words(folder) & (MASK_WORDS | SPLITS.keys()):
        yield name, folder
    for separator in reversed(list(re.finditer(r"[-_. ](?!\d+$)", name))):
        if class_name := name[separator.end() :].strip("-_. "):
            yield name[: separator.start()], class_name


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
