"""Divides a folder's pairs into train, val and test.

The folders' names say it, or list files (train.txt, val_list.txt, ...). Otherwise every fifth pair
is for validation. A file that seems to divide the images and cannot be used is an error, as a split
in its place might train on images that it holds back.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from perpixel.data.pairing import SPLITS, Match, split_words
from perpixel.data.paths import first_few
from perpixel.data.split_lists import LIST_SUFFIXES, NO_MASK, ImageNames, SplitList
from perpixel.errors import PerpixelError, plural

_LIST_WORDS = "list|lists|set|sets|split|splits|ids|id|files|file|images|imgs|names|data"
_SPLIT_WORD = re.compile(rf"(trainval|{'|'.join(SPLITS)})(?:{_LIST_WORDS})?")
_WORDS_FOR_ALL = {"split", "splits", "fold", "folds", "partition", "partitions"}
_STRUCTURED_SUFFIXES = (".json", ".jsonl", ".odgt", ".yaml", ".yml", ".pkl", ".npy")


@dataclass(frozen=True)
class Part:
    """Some images of a split."""

    split: str
    images: Sequence[str]
    """Paths below the root; each has a mask."""
    origin: str
    """Why they are in this split."""
    list_file: str = ""
    """The user's list that names just these, if there is one."""


def divide(
    folder: Path, files: Sequence[str], matches: Sequence[Match]
) -> tuple[list[Part], list[str]]:
    """Divides the pairs of `matches`; `files` are all paths below `folder`.

    Notes say what is left out, and what else to look at. Raises PerpixelError for a list that
    cannot be used, when the images that it holds back could be trained with otherwise.
    """
    splits = {match.split for match in matches}
    if "val" not in splits and {"train", ""} <= splits:
        unnamed = next(match for match in matches if not match.split)
        raise PerpixelError(
            f"{folder}: one folder is called train, and nothing says what {unnamed.images.path} is "
            f"for: call the folders train and val, or name the images of each in train.txt and "
            f"val.txt"
        )
    has_val = "val" in splits and len(splits) > 1
    parts: list[Part] = []
    undivided: list[Match] = []
    for match in matches:
        if has_val or (match.split == "test" and len(splits) > 1):
            origin = "every image that has a mask"
            parts.append(Part(match.split or "train", list(match.mask_of), origin))
        else:
            undivided.append(match)
    listed, notes, rest = _divide_by_lists(folder, files, matches, undivided)
    return [*parts, *listed, *_divide_evenly(rest, notes)], notes


def _divide_evenly(matches: Sequence[Match], notes: list[str]) -> list[Part]:
    """Puts every fifth image into val, and the others into train."""
    images = [image for match in matches for image in match.mask_of]
    if len(images) < 2:
        origin = "the only one, which is in train and val: its score says little"
        return [Part(split, images, origin) for split in ("train", "val") if images]
    if len(matches) > 1:
        notes.append(
            f"every fifth image of {len(matches)} groups is for validation. Where a group is a "
            f"place, film or patient, whole groups are a fairer test: edit dataset.toml"
        )
    train, val = hold_out(images)
    origin = (
        "every fifth image, as no name says which are for validation.\n# Frames of one film, or "
        "images of one place or patient, look alike: divide by those instead"
    )
    return [
        Part("train", train, "the images that are not for validation"),
        Part("val", val, origin),
    ]


def hold_out(images: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Returns the images to train with, and every fifth; a single one is in both."""
    val = images[4::5] or images[-1:]
    held_out = set(val)
    return [image for image in images if image not in held_out] or images, val


# --- Lists ---------------------------------------------------------------------------------------


_Lists = dict[str, SplitList]
"""Lists of one folder and ending by split; "trainval" is that of all images not for tests."""


def _divide_by_lists(
    folder: Path, files: Sequence[str], matches: Sequence[Match], undivided: Sequence[Match]
) -> tuple[list[Part], list[str], list[Match]]:
    """Divides `undivided` by lists; returns parts, notes, and the matches that no list divides."""
    stems = {image: stem for match in matches for image, stem in match.stem_of.items()}
    masks = {image: mask for match in matches for image, mask in match.mask_of.items()}
    names = ImageNames(stems, masks)
    groups: dict[tuple[str, str], _Lists] = {}
    others: list[str] = []
    image_stems = {PurePosixPath(image).stem for image in stems}
    for file in files:
        path = PurePosixPath(file)
        splits, words = _splits_of(path.stem)
        if path.stem in image_stems:  # an annotation
            continue
        if len(splits) == 1 and not words and path.suffix.lower() in (*LIST_SUFFIXES, ""):
            listed = names.read(folder, file)
            if listed.num_lines:
                group = groups.setdefault((str(path.parent), path.suffix.lower()), {})
                group[splits.pop()] = listed
        elif _seems_to_divide(folder, file, names):
            others.append(file)
    parts: list[Part] = []
    notes: list[str] = []
    rest = list(undivided)
    for group in sorted(groups.values(), key=_rank, reverse=True):
        images = {image for split_list in group.values() for image in split_list.images}
        named = [match for match in matches if not images.isdisjoint(match.mask_of)]
        if rest and all(match in rest for match in named):
            parts += _divide_by_group(folder, group, named, notes)
            rest = [match for match in rest if match not in named]
        else:
            others += [split_list.file for split_list in group.values()]
    if others and rest:
        raise PerpixelError(
            f"{folder / others[0]}: seems to say which images are for training and which for "
            f"validation. Write a list for each split, train.txt and val.txt, with an image's path "
            f"a line, and move this file elsewhere"
        )
    if others:
        notes.append(f"not used: other lists of images ({first_few(others)})")
    return parts, notes, rest


def _rank(group: _Lists) -> tuple[float, ...]:
    """Orders groups of lists of the same images; the largest is the most likely."""
    return (
        not any(split_list.unused for split_list in group.values()),
        any("segmentation" in split_list.file.lower() for split_list in group.values()),
        sum(len(split_list.images) for split_list in group.values()),
    )


def _splits_of(name: str) -> tuple[set[str], list[str]]:
    """Returns the splits that a list's name says, and its words that are not about lists."""
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name)]
    splits = {word: match[1] for word in words if (match := _SPLIT_WORD.fullmatch(word))}
    others = [word for word in words if word not in splits and word not in _LIST_WORDS.split("|")]
    return {SPLITS.get(split, split) for split in splits.values()}, others


def _seems_to_divide(folder: Path, file: str, names: ImageNames) -> bool:
    """Whether a file that is no list of one split may say which image is in which."""
    path = PurePosixPath(file)
    splits, words = _splits_of(path.stem)
    is_structured = path.suffix.lower() in _STRUCTURED_SUFFIXES
    if len(splits) > 1 or split_words(path.stem) & _WORDS_FOR_ALL:
        # train_test_split.txt, folds.json
        return is_structured or path.suffix.lower() in LIST_SUFFIXES
    if is_structured:  # train.json; Hugging Face's metadata.jsonl with a key for the split
        with (folder / file).open("rb") as content:
            return bool(splits and not words) or b'"split"' in content.read(2**16)
    if path.suffix.lower() not in LIST_SUFFIXES:
        return False
    try:
        listed = names.read(folder, file)
    except PerpixelError:  # text for something else
        return False
    text = (folder / file).read_text("utf-8", "replace").lower()
    in_columns = {SPLITS[word] for word in re.split(r"[,;\s]+", text) if word in SPLITS}
    has_images = listed.images and 2 * len(listed.images) >= listed.num_lines
    return bool(has_images) and (bool(splits) or len(in_columns) > 1)


def _divide_by_group(
    folder: Path, group: _Lists, matches: Sequence[Match], notes: list[str]
) -> list[Part]:
    """Divides the pairs of `matches`, and adds to the notes what the lists leave out."""
    parts = {}
    for split, split_list in group.items():
        file, unused = split_list.file, split_list.unused
        problem = (
            f"{folder / file}: {len(unused)} of {plural(split_list.num_lines, 'line')} cannot be "
            f"used: {first_few(unused)}"
        )
        if not split_list.images or any(line.reason != NO_MASK for line in unused):
            raise PerpixelError(
                f"{problem}. Correct them, with the images' paths below {folder}; or move the file "
                f"elsewhere, if it does not divide the images"
            )
        if unused:
            notes.append(f"{problem}: left out")
        parts[split] = Part(split, split_list.images, f"as {file} says", "" if unused else file)
    names = first_few(split_list.file for split_list in group.values())
    if trainval := parts.pop("trainval", None):
        held_out = {image for part in parts.values() for image in part.images}
        images = [image for image in trainval.images if image not in held_out]
        list_file = trainval.list_file if len(images) == len(trainval.images) else ""
        parts.setdefault(
            "train", replace(trainval, split="train", images=images, list_file=list_file)
        )
    listed = {image for part in parts.values() for image in part.images}
    rest = [image for match in matches for image in match.mask_of if image not in listed]
    if rest and "train" not in parts:
        parts["train"] = Part("train", rest, f"the images that {names} leaves out")
    elif rest:
        notes.append(
            f"{plural(len(rest), 'pair')} in none of {names}: left out ({first_few(rest)})"
        )
    if "val" not in parts and "train" in parts:
        origin = parts["train"].origin
        train, val = hold_out(parts["train"].images)
        parts["train"] = Part("train", train, f"{origin}, without those for validation")
        parts["val"] = Part("val", val, f"every fifth of these, as no list says which ({origin})")
    return list(parts.values())
