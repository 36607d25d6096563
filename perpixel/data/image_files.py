"""Divides the files of a folder into images and masks, so that no mask is taken for an image."""

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from perpixel.data.datasets.folder import FILE, open_folder, splits_of_folder
from perpixel.data.pairing import MASK_WORDS, find_candidates, split_words
from perpixel.io.images import IMAGE_SUFFIXES, MASK_SUFFIXES, UNREADABLE


def divide_files(folder: Path, files: Iterable[str]) -> tuple[list[str], list[str]]:
    """Returns the images and the masks among `files`, paths below `folder`; others are in neither.

    Masks are those that a dataset.toml in `folder` or below describes and those with a mask's name:
    in a folder named so ("masks", "trainannot"), or beside their image ("a_label.png" of "a.jpg").
    Beside "a.jpg" a gray or palette "a.png" is its mask. Where all files are in folders of masks,
    none is left out. Raises PerpixelError for a wrong dataset.toml.
    """
    files = list(files)
    names = [file for file in files if file.lower().endswith(IMAGE_SUFFIXES)]
    images, masks = set[str](), set[str]()
    for below in {"", *(file.removesuffix(FILE) for file in files if file.endswith(f"/{FILE}"))}:
        inside = [name.removeprefix(below) for name in names if name.startswith(below)]
        described = _described_files(folder / below, inside)
        images |= {below + name for name in described[0]}
        masks |= {below + name for name in described[1]}
    rest = [name for name in names if name not in images and name not in masks]
    in_mask_folders = {name for name in rest if _is_in_mask_folder(name)}
    if images or len(in_mask_folders) < len(rest):
        masks |= in_mask_folders
    rest = [name for name in rest if name not in masks]
    for match in find_candidates(rest):
        for image, mask in match.mask_of.items():
            is_photo = not image.lower().endswith(MASK_SUFFIXES)
            if match.is_named or (is_photo and _holds_indices(folder / mask)):
                masks.add(mask)
    return [name for name in names if name not in masks], sorted(masks)


def _described_files(folder: Path, names: Sequence[str]) -> tuple[set[str], set[str]]:
    """Returns the images and masks of dataset.toml's splits, and all else in folders of masks."""
    if not (folder / FILE).is_file():
        return set(), set()
    pairs = [
        pair
        for split in splits_of_folder(folder)
        for pair in open_folder(folder, split, complete=False).files
    ]
    images, masks = {image for image, _ in pairs}, {mask for _, mask in pairs}
    parents = {PurePosixPath(mask).parent for mask in masks}
    parents -= {PurePosixPath(image).parent for image in images}
    in_folders = {name for name in names if PurePosixPath(name).parent in parents}
    return images, (masks & set(names)) | in_folders


def _is_in_mask_folder(name: str) -> bool:
    return name.lower().endswith(MASK_SUFFIXES) and any(
        split_words(part) & MASK_WORDS for part in PurePosixPath(name).parent.parts
    )


def _holds_indices(path: Path) -> bool:
    """Returns whether a file holds one value a pixel, gray or of a palette."""
    from PIL import Image

    try:
        with Image.open(path) as file:
            return len(file.getbands()) == 1
    except UNREADABLE:
        return False
