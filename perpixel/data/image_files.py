"""Divides the files of a folder into images and masks, so that no mask is taken for an image."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from perpixel.data.datasets.folder import FILE, open_folder, splits_of_folder
from perpixel.data.pairing import IMAGE_WORDS, MASK_WORDS, split_words
from perpixel.io.images import IMAGE_SUFFIXES, MASK_SUFFIXES, UNREADABLE


def divide_files(folder: Path, files: Iterable[str]) -> tuple[list[str], list[str]]:
    """Returns the images and the masks among `files`, paths below `folder`; others are in neither.

    Masks are those that `folder`/dataset.toml describes and those with a mask's name: in a folder
    named so ("masks", "trainannot"), or beside their image ("a_label.png" of "a.jpg"). Beside
    "a.jpg" a gray or palette "a.png" is its mask. Where all files are in folders of masks, none is
    left out. Raises PerpixelError for a wrong dataset.toml.
    """
    names = [file for file in files if file.lower().endswith(IMAGE_SUFFIXES)]
    images, masks = _described_files(folder, names)
    rest = [name for name in names if name not in images and name not in masks]
    named = {name for name in rest if _is_in_mask_folder(name)}
    if images or len(named) < len(rest):
        masks |= named
    masks |= _masks_beside_images(folder, [name for name in names if name not in masks]) - images
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
    folders = {_parent(mask) for mask in masks} - {_parent(image) for image in images}
    in_folders = {name for name in names if _parent(name) in folders}
    return images, (masks & set(names)) | in_folders


def _parent(name: str) -> PurePosixPath:
    return PurePosixPath(name).parent


def _is_in_mask_folder(name: str) -> bool:
    return _is_lossless(name) and any(
        split_words(part) & MASK_WORDS for part in _parent(name).parts
    )


def _is_lossless(name: str) -> bool:
    return name.lower().endswith(MASK_SUFFIXES)


def _masks_beside_images(folder: Path, names: Sequence[str]) -> set[str]:
    """Returns the masks that lie in one folder with their images."""
    has_mask_word = {name: bool(_words(name) & MASK_WORDS) for name in names}
    images = {_key(name) for name in names if not has_mask_word[name]}
    masks = {
        name
        for name in names
        if has_mask_word[name] and _is_lossless(name) and _key(name) in images
    }
    photos = {PurePosixPath(name).with_suffix("") for name in names if not _is_lossless(name)}
    return masks | {
        name
        for name in names
        if _is_lossless(name)
        and PurePosixPath(name).with_suffix("") in photos
        and _holds_indices(folder / name)
    }


def _words(name: str) -> set[str]:
    return set(split_words(PurePosixPath(name).stem))


def _key(name: str) -> tuple[PurePosixPath, tuple[str, ...]]:
    """Returns what a mask's name has in common with its image's: folder, and stem without words."""
    letters = r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_A-Za-z]+"
    parts = re.findall(letters, PurePosixPath(name).stem)
    known = MASK_WORDS | IMAGE_WORDS
    return _parent(name), tuple(part for part in parts if part.lower() not in known)


def _holds_indices(path: Path) -> bool:
    """Returns whether a file holds one value a pixel, gray or of a palette."""
    from PIL import Image

    try:
        with Image.open(path) as file:
            return len(file.getbands()) == 1
    except UNREADABLE:
        return False
