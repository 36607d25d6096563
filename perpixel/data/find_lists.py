"""Finds list files that divide a folder's images into splits: train.txt, val_list.txt, ..."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from perpixel.data.pairing import SPLITS, Match
from perpixel.data.paths import first_few, numbered_lines
from perpixel.data.split_lists import LIST_SUFFIXES, NO_MASK, ImageNames, SplitList
from perpixel.errors import PerpixelError, plural

Division = dict[str, tuple[list[str], str, str]]
"""Stems of a match by split; a comment on their origin, and the list that names just them or ""."""

_LIST_WORDS = "list|lists|set|sets|split|splits|ids|id|files|file|images|imgs|names|data"
_SPLIT_WORD = re.compile(rf"(trainval|{'|'.join(SPLITS)})(?:{_LIST_WORDS})?")
_WORDS_FOR_ALL = {"split", "splits", "fold", "folds"}
_STRUCTURED_SUFFIXES = (".json", ".yaml", ".yml", ".pkl")


@dataclass(frozen=True)
class _Group:
    """Lists of one folder with names of one form, and what they say about some matches."""

    folder: Path
    files: Mapping[str, str]
    """List files by split; "trainval" stands for images that are not for tests."""
    lists: Mapping[str, SplitList]
    matches: tuple[Match, ...]
    is_plain: bool
    """Whether their names say nothing but that they are lists of splits."""

    @property
    def num_images(self) -> int:
        return sum(len(split_list.images) for split_list in self.lists.values())

    @property
    def rank(self) -> tuple[float, ...]:
        """Orders the groups for the same images; the largest is the most likely."""
        return (
            not any(split_list.unused for split_list in self.lists.values()),
            {"train", "val"} <= self.lists.keys(),
            "segmentation" in next(iter(self.files.values())).lower(),
            self.is_plain,
            self.num_images,
        )


def divide_by_lists(
    folder: Path, files: Sequence[str], matches: Sequence[Match], undivided: Sequence[Match]
) -> tuple[list[tuple[Match, Division]], list[str]]:
    """Divides the pairs of `undivided` as list files among `files` say, where there are any.

    The other `matches` are divided by their folders' names. Notes say which lines and lists are not
    used. Raises PerpixelError for a list that cannot be used when the images that it holds back
    could be trained with otherwise.
    """
    groups = _find_groups(folder, files, undivided or matches)
    divisions: list[tuple[Match, Division]] = []
    notes: list[str] = []
    unused: list[str] = []
    for group in sorted(groups, key=lambda group: group.rank, reverse=True):
        covered = [match for match, _ in divisions]
        if not undivided or any(match in covered for match in group.matches):
            unused += group.files.values() if group.num_images else ()
        elif group.num_images:
            divided, group_notes = _divide(group)
            divisions += divided
            notes += group_notes
        elif group.is_plain and group.lists.keys() & {"val", "test"}:
            split, file = next(iter(group.files.items()))
            raise PerpixelError(
                f"{folder / file}: none of its lines names an image here "
                f"({group.lists[split].unused[0]}). If it divides the images, write their paths "
                f"below {folder}, one a line; otherwise move it elsewhere"
            )
        elif group.is_plain:
            notes.append(f"not used: {first_few(group.files.values())}, which names no image here")
    covered = [match for match, _ in divisions]
    others, deciding = _other_lists(folder, files, matches)
    if deciding and any(match not in covered for match in undivided):
        raise PerpixelError(
            f"{folder / deciding[0]}: seems to say which images are for training and which for "
            f"validation. Write a list for each split, train.txt and val.txt, with an image's path "
            f"a line, and move this file elsewhere"
        )
    unused += others + deciding
    if unused:
        notes.append(f"not used: other lists of images ({first_few(unused)})")
    return divisions, notes


def _find_groups(folder: Path, files: Sequence[str], matches: Sequence[Match]) -> list[_Group]:
    names: dict[tuple[str, str, tuple[str, ...]], dict[str, str]] = defaultdict(dict)
    for file in files:
        path = PurePosixPath(file)
        split, others, _ = _split_of(path.stem)
        if split and path.suffix.lower() in LIST_SUFFIXES:
            form = str(path.parent), path.suffix.lower(), others
            names[form].setdefault(split, file)
    groups = []
    for (parent, _, others), files_of in names.items():
        inside = _matches_below(parent, matches)
        try:
            lists = {split: _read(folder, file, inside) for split, file in files_of.items()}
        except PerpixelError:
            if others:
                continue
            raise
        # Lists for other tasks are not in the way, nor are empty ones.
        lists = {split: split_list for split, split_list in lists.items() if split_list.num_lines}
        if {"train", "val"} <= lists.keys():
            lists.pop("trainval", None)
        if lists:
            used = {split: files_of[split] for split in lists}
            groups.append(_Group(folder, used, lists, tuple(inside), not others))
    return groups


def _split_of(name: str) -> tuple[str, tuple[str, ...], bool]:
    """Returns the split that a list's name says, or "", and the words that are not about lists.

    The last value is whether the name is that of a file for all splits: train_test_split, folds.
    """
    words = [w.lower() for w in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name)]
    matches = {word: _SPLIT_WORD.fullmatch(word) for word in words}
    splits = {SPLITS.get(found[1], found[1]) for found in matches.values() if found}
    is_for_all = bool(_WORDS_FOR_ALL.intersection(words)) and len(splits) != 1
    if splits == {"train", "val"} and not is_for_all:
        splits = {"trainval"}
    others = [w for w in words if not matches[w] and w not in _LIST_WORDS.split("|")]
    split = splits.pop() if len(splits) == 1 else ""
    return split, tuple(others), is_for_all or len(splits) > 1


def _matches_below(parent: str, matches: Sequence[Match]) -> Sequence[Match]:
    """The matches in the folder of a list, or in the next one above that has any."""
    for folder in (PurePosixPath(parent), *PurePosixPath(parent).parents):
        inside = [
            match for match in matches if PurePosixPath(match.images.path).is_relative_to(folder)
        ]
        if inside:
            return inside
    return matches


def _read(folder: Path, file: str, matches: Sequence[Match]) -> SplitList:
    stems: dict[str, str] = {}
    masks: dict[str, str] = {}
    for match in matches:
        stems.update((image, stem) for stem, image in match.image_of.items())
        masks.update((match.image_of[stem], mask) for stem, mask in match.mask_of.items())
    return ImageNames(stems, masks).read(folder / file, folder=str(PurePosixPath(file).parent))


def _divide(group: _Group) -> tuple[list[tuple[Match, Division]], list[str]]:
    """Divides the pairs of a group's matches, and notes what its lists leave out."""
    images: dict[str, tuple[str, ...]] = {}
    origins: dict[str, tuple[str, str]] = {}
    notes = []
    for split, split_list in group.lists.items():
        file = group.files[split]
        split = "train" if split == "trainval" else split
        if split in images:
            continue  # trainval.txt beside train.txt
        images[split], origins[split] = split_list.images, (f"as {file} says", file)
        if split_list.unused:
            count = f"{len(split_list.unused)} of {plural(split_list.num_lines, 'line')}"
            problem = f"{group.folder / file}: {count} cannot be used: "
            problem += first_few(split_list.unused)
            is_lost = any(line.reason != NO_MASK for line in split_list.unused)
            if not split_list.images or (
                is_lost and not group.lists.keys() & {"train", "trainval"}
            ):
                raise PerpixelError(
                    f"{problem}. Correct it: what it does not name would be trained with"
                )
            notes.append(f"{problem}: left out")
            origins[split] = f"as {file} says, but for {count}", ""
    listed = {image for split in images.values() for image in split}
    matches = {
        match.image_of[stem]: (match, stem) for match in group.matches for stem in match.mask_of
    }
    rest = tuple(image for image in matches if image not in listed)
    names = first_few(group.files.values())
    left_out = f"the images that {names} leave{'' if len(group.files) > 1 else 's'} out"
    if "train" not in images and "val" in images:
        images["train"], origins["train"], rest = rest, (left_out, ""), ()
    elif "val" not in images and rest and "test" not in images:
        images["val"], origins["val"], rest = rest, (left_out, ""), ()
    elif "val" not in images:
        pool, origin = rest, left_out
        if "train" in images:
            pool, origin = images["train"], origins["train"][0]
        val = set(pool[4::5] or pool[-1:])
        images["train"] = tuple(image for image in pool if image not in val) or pool
        images["val"] = tuple(image for image in pool if image in val)
        origins["train"] = f"{origin}, without those for validation", ""
        origins["val"] = f"every fifth of these, as no list is for validation ({origin})", ""
        rest = () if pool is rest else rest
    if rest:
        are = "is" if len(rest) == 1 else "are"
        notes.append(
            f"{plural(len(rest), 'pair')} {are} in none of the lists {names}: left out "
            f"({first_few(rest)})"
        )
    divisions: dict[int, Division] = {id(match): {} for match in group.matches}
    for split, (origin, file) in origins.items():
        for image in images[split]:
            match, stem = matches[image]
            division = divisions[id(match)]
            division.setdefault(split, ([], origin, file))[0].append(stem)
    return [(match, divisions[id(match)]) for match in group.matches], notes


def _other_lists(
    folder: Path, files: Sequence[str], matches: Sequence[Match]
) -> tuple[list[str], list[str]]:
    """Finds lists of some of the images whose names say no split, and files for all splits."""
    names = {PurePosixPath(image).stem for match in matches for image in match.image_of.values()}
    num_pairs = sum(len(match.mask_of) for match in matches)
    lists: list[str] = []
    deciding: list[str] = []
    for file in files:
        path = PurePosixPath(file)
        if path.stem in names or path.suffix.lower() not in (*LIST_SUFFIXES, *_STRUCTURED_SUFFIXES):
            continue
        split, _, is_for_all = _split_of(path.stem)
        if is_for_all:
            deciding.append(file)
        elif not split and path.suffix.lower() in LIST_SUFFIXES:
            try:
                split_list = _read(folder, file, matches)
                lines = [line for _, line in numbered_lines(folder / file)]
            except PerpixelError:
                continue
            if 2 * len(split_list.images) < max(split_list.num_lines, 1):
                continue
            columns = {word.lower() for line in lines for word in re.split(r"[,;\s]+", line)}
            if len({SPLITS[word] for word in columns & SPLITS.keys()}) > 1:
                deciding.append(file)
            elif len(set(split_list.images)) < num_pairs:
                lists.append(file)
    return lists, deciding
