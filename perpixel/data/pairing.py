"""Finds which files of a folder are images and which are their masks.

Words in names show which folders and files are masks ("masks", "SegmentationClass", "trainannot",
"x_label.png", "mask_1.png", ...), and equal stems pair images with masks.
"""

import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from pathlib import Path, PurePosixPath

from perpixel.data.datasets.folder import stem_of
from perpixel.data.paths import first_few
from perpixel.errors import PerpixelError, plural
from perpixel.io.images import IMAGE_SUFFIXES, MASK_SUFFIXES

MASK_WORDS = {
    "mask", "masks", "label", "labels", "lbl", "lbls", "ann", "anns", "annot", "annots",
    "annotation", "annotations", "gt", "gts", "groundtruth", "truth", "seg", "segs", "segmap",
    "segmaps", "segmentation", "segmentations", "semantic", "target", "targets", "trimap",
    "trimaps", "manual", "matte", "mattes",
}  # fmt: skip
IMAGE_WORDS = {"image", "images", "img", "imgs", "photos", "rgb", "frames"}
_UNLIKELY_WORDS = {
    "instance", "instances", "object", "panoptic", "color", "visualization", "vis", "viz",
    "overlay", "overlays", "preview", "depth", "boundary", "boundaries", "edges",
}  # fmt: skip
SPLITS = {
    "training": "train", "train": "train",
    "validation": "val", "valid": "val", "val": "val",
    "testing": "test", "test": "test",
}  # fmt: skip
_KNOWN_WORDS = MASK_WORDS | IMAGE_WORDS | SPLITS.keys()


_Stems = tuple[Mapping[str, str], tuple[str, ...]]
"""Paths below the root by stem, and two paths of the same stem, if there are any."""


@dataclass(frozen=True, eq=False)
class Folder:
    """A folder of images or masks, with the sub-folders whose names have no known word."""

    path: str
    words: frozenset[str]
    split: str
    """"train", "val", "test", or "" where no word names a split."""
    rest: str
    """The path's parts without a known word: equal for masks and their images."""
    files: tuple[str, ...]
    """Paths below the folder."""

    _stems: dict[tuple[tuple[str, ...], str], _Stems] = field(default_factory=dict)

    @cached_property
    def endings(self) -> list[list[str]]:
        """How many of its files end."""
        return _endings(self.files)

    @cached_property
    def mask_prefixes(self) -> list[str]:
        """How names of masks among its files may start."""
        return _prefixes(self.files, MASK_WORDS)

    @cached_property
    def image_prefixes(self) -> list[str]:
        """How names of images among its files may start."""
        return _prefixes(self.files, IMAGE_WORDS)

    def stems(self, suffixes: tuple[str, ...], prefix: str) -> _Stems:
        """Finds its files of such names; a folder is asked again for each that may go with it."""
        if (suffixes, prefix) not in self._stems:
            self._stems[suffixes, prefix] = self.find_stems(suffixes, prefix)
        return self._stems[suffixes, prefix]

    def find_stems(
        self, suffixes: tuple[str, ...], prefix: str, *, exclude: Collection[str] = ()
    ) -> _Stems:
        """Finds its files of such names, without those whose paths are in `exclude`."""
        start = "" if self.path == "." else f"{self.path}/"
        paths: dict[str, str] = {}
        clash: tuple[str, ...] = ()
        for file in self.files:
            stem, path = stem_of(file, suffixes, prefix), start + file
            if stem is not None and path not in exclude:
                clash = clash or ((paths[stem], path) if stem in paths else ())
                paths[stem] = path
        return paths, clash


@dataclass(frozen=True)
class Naming:
    """How the names of images and of masks start and end around their common stem."""

    image_suffixes: tuple[str, ...] = IMAGE_SUFFIXES
    mask_suffix: tuple[str, ...] = (".png",)
    image_prefix: str = ""
    mask_prefix: str = ""


@dataclass(frozen=True, eq=False)
class Match:
    """A folder of images, one of masks, and the naming under which they have equal stems."""

    images: Folder
    masks: Folder
    naming: Naming
    image_of: Mapping[str, str]
    """Paths below the root by stem, with and without a mask."""
    mask_of: Mapping[str, str]
    """The mask's path by stem, for every image that has a mask; sorted."""
    clash: tuple[str, ...]
    """Two files of the same stem, if there are any."""

    @property
    def split(self) -> str:
        """The split that a word in a folder's name says, or ""."""
        return self.images.split or self.masks.split

    @property
    def mask_words(self) -> frozenset[str]:
        """Words in the names of folder and files of the masks."""
        naming = f"{self.naming.mask_prefix} {self.naming.mask_suffix[0]}"
        return self.masks.words | split_words(PurePosixPath(naming).stem)

    @property
    def is_named(self) -> bool:
        """Whether a word says which files are masks, in a folder that holds not only masks."""
        is_folder_of_masks = self.images is self.masks and self.images.words & MASK_WORDS
        return bool(self.mask_words & MASK_WORDS) and not is_folder_of_masks

    @property
    def rank(self) -> tuple[float, ...]:
        """Orders matches of the same files; the largest is the most likely."""
        is_unlikely = bool(self.mask_words & _UNLIKELY_WORDS)
        return (
            len(self.mask_of) * (0.5 if is_unlikely else 1),
            self.is_named,
            not self.clash,
            len(self.images.words & IMAGE_WORDS),
            self.naming.mask_suffix[0].lower().endswith(".png"),
            len(self.naming.mask_suffix) == 1,
        )


def find_matches(folder: Path, files: Sequence[str]) -> tuple[list[Match], list[str]]:
    """Finds the folders of images and masks among `files`, sorted paths below `folder`.

    Every file is in one pair at most. Returns the matches, the largest first, and a note on
    each kind of image file that is in none. Raises PerpixelError when there are no masks, when two
    images would share a mask, and when an image has several masks and nothing tells which counts.
    """
    pictures = [file for file in files if file.lower().endswith((*IMAGE_SUFFIXES, *MASK_SUFFIXES))]
    folders = _find_folders(pictures)
    candidates = [match for pair in _possible_pairs(folders) for match in _match_folders(*pair)]
    matches = [_complete(match, pictures) for match in _choose(candidates)]
    with_images: dict[str, list[Match]] = defaultdict(list)
    for match in candidates:
        with_images[match.images.path].append(match)
    for match in matches:
        if match.clash:
            raise PerpixelError(
                f"{folder}: {' and '.join(match.clash)} have the same stem, so they would share a "
                f"mask. Rename one, or move the one that is no image elsewhere"
            )
        _require_one_kind(folder, match, with_images[match.images.path])
    return matches, _notes(pictures, matches) if matches else []


def split_words(name: str) -> frozenset[str]:
    """Splits "SegmentationClass", "train_labels" or "trainannot" into lower-case words."""
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]
    for word in list(words):
        compound = re.fullmatch(rf"({'|'.join(SPLITS)})(\w+)", word)
        if compound and compound[2] in MASK_WORDS | IMAGE_WORDS:
            words += compound.groups()
    return frozenset(words)


def _find_folders(images: Iterable[str]) -> list[Folder]:
    """Finds every folder that may be the root of images or masks; a file can be in several."""
    files: dict[str, list[str]] = defaultdict(list)
    for image in images:
        parts = PurePosixPath(image).parts
        known = [split_words(part) & _KNOWN_WORDS for part in parts[:-1]]
        last = max((depth for depth, found in enumerate(known, 1) if found), default=0)
        # Without a word for images or masks, any folder may be the root of all the images.
        is_named = any(found - SPLITS.keys() for found in known)
        for depth in [last] if is_named else range(last, len(parts)):
            files["/".join(parts[:depth]) or "."].append("/".join(parts[depth:]))
    folders = []
    for path in sorted(files):
        parts = PurePosixPath(path).parts
        words = frozenset(word for part in parts for word in split_words(part))
        splits = [SPLITS[word] for part in parts for word in split_words(part) if word in SPLITS]
        rest = "/".join(part for part in parts if not _has_known_word(part))
        folders.append(Folder(path, words, splits[-1] if splits else "", rest, tuple(files[path])))
    return folders


def _has_known_word(name: str) -> bool:
    return bool(split_words(name) & _KNOWN_WORDS)


def _possible_pairs(folders: Sequence[Folder]) -> Iterator[tuple[Folder, Folder]]:
    """Yields the pairs of folders whose names allow that one has the masks of the other."""
    masks_of_rest: dict[str, list[Folder]] = defaultdict(list)
    for masks in folders:
        if masks.words & MASK_WORDS:
            masks_of_rest[masks.rest].append(masks)
    for images in folders:
        yield images, images
        if images.words & MASK_WORDS:
            continue
        rests = [images.rest]
        if not images.words & IMAGE_WORDS:  # the masks may lie beside this folder
            rests += [str(path) for path in PurePosixPath(images.rest).parents]
        for rest in dict.fromkeys(rest.removeprefix(".") for rest in rests):
            for masks in masks_of_rest[rest]:
                if not (images.split and masks.split and images.split != masks.split):
                    yield images, masks


def _match_folders(images: Folder, masks: Folder) -> Iterator[Match]:
    """Yields all ways in which files of `masks` may be the masks of files of `images`."""
    namings = list(_namings(images, masks, with_prefixes=False))
    matches = [match for naming in namings for match in _match(images, masks, naming)]
    if not any(len(match.mask_of) == len(match.image_of) for match in matches):
        namings = list(_namings(images, masks, with_prefixes=True))
        matches += [match for naming in namings for match in _match(images, masks, naming)]
    yield from matches


def _namings(images: Folder, masks: Folder, *, with_prefixes: bool) -> Iterator[Naming]:
    is_same = images is masks
    mask_prefixes = masks.mask_prefixes if with_prefixes else []
    for mask_prefix, mask_suffix in product(["", *mask_prefixes], masks.endings):
        # JPEG changes values, so that its files are no masks.
        endings = [end for end in mask_suffix if end.lower().endswith(MASK_SUFFIXES)]
        if not endings:
            continue
        is_plain = not mask_prefix and endings[0].lower() in MASK_SUFFIXES
        words = split_words(f"{mask_prefix} {endings[0].rpartition('.')[0]}")
        if is_same and not is_plain and not words & MASK_WORDS:
            continue
        others = images
        if is_same:
            rest = [file for file in images.files if stem_of(file, endings, mask_prefix) is None]
            others = replace(images, files=tuple(rest), _stems={})
        image_prefixes = others.image_prefixes if with_prefixes else []
        image_suffixes: list[tuple[str, ...]] = [IMAGE_SUFFIXES]
        for spellings in others.endings:
            readable = tuple(end for end in spellings if end.lower().endswith(IMAGE_SUFFIXES))
            if readable and readable[0].lower() not in IMAGE_SUFFIXES:
                image_suffixes.append(readable)
        # Several formats of masks, and each by itself: one of them may be something else.
        mask_suffixes = dict.fromkeys([tuple(endings), *[(end,) for end in endings]])
        for ends, suffixes, image_prefix in product(
            mask_suffixes, image_suffixes, ["", *image_prefixes]
        ):
            # Numbers at the end of both are of frames: any two would be a pair.
            if _ends_in_number(ends) and _ends_in_number(suffixes):
                continue
            if with_prefixes == bool(mask_prefix or image_prefix):
                yield Naming(suffixes, ends, image_prefix, mask_prefix)


def _match(images: Folder, masks: Folder, naming: Naming) -> Iterator[Match]:
    """Yields the match under a naming, if it has pairs."""
    mask_of, mask_clash = masks.stems(naming.mask_suffix, naming.mask_prefix)
    if images is masks:
        exclude = set(mask_of.values())
        image_of, clash = images.find_stems(
            naming.image_suffixes, naming.image_prefix, exclude=exclude
        )
    else:
        image_of, clash = images.stems(naming.image_suffixes, naming.image_prefix)
    pairs = {stem: mask_of[stem] for stem in sorted(image_of.keys() & mask_of.keys())}
    if pairs:
        yield Match(images, masks, naming, image_of, pairs, clash or mask_clash)


def _endings(files: Iterable[str]) -> list[list[str]]:
    """Endings of 10% of the files or more: [".png"], ["_labelIds.png", "_labelIds.tif"].

    Those that differ in their format alone are together, the most frequent first.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    names = [PurePosixPath(file) for file in files]
    for name in names:
        stem, word = name.stem, ""
        counts[word][name.suffix] += 1
        while found := re.search(r"([-_. ]+[A-Za-z0-9]+|(?<=\d)[A-Za-z]+)$", stem):
            stem, word = stem[: found.start()], found[0] + word
            counts[word][name.suffix] += 1
    endings = []
    for word, formats in counts.items():
        # Numbers are an ending if many files have the same, as nnU-Net's "_0000"; not of frames.
        least = 0.2 if _ends_in_number([word]) else 0.1
        if not word or formats.total() >= max(least * len(names), 2 if least > 0.1 else 1):
            spellings = {end.lower(): word + end for end, _ in reversed(formats.most_common())}
            endings.append(list(reversed(spellings.values())))
    return endings


def _ends_in_number(endings: Sequence[str]) -> bool:
    return re.search(r"[-_. ]\d+(\.[A-Za-z]\w*)?$", endings[0]) is not None


def _prefixes(files: Sequence[str], words: Iterable[str]) -> list[str]:
    """How 10% of the names or more start with one of `words`, or all with the same word."""
    counts: Counter[str] = Counter()
    for file in files:
        name = PurePosixPath(file).stem
        end = 0
        while found := re.match(r"[A-Za-z]+(?:[-_. ]+|(?=\d))", name[end:]):
            end += found.end()
            counts[name[:end]] += 1
    return [
        prefix
        for prefix, count in counts.items()
        if count == len(files) > 1
        or (10 * count >= len(files) and split_words(prefix) & set(words))
    ]


def _choose(candidates: Sequence[Match]) -> list[Match]:
    """Chooses the largest match, and the others whose files are in none before it."""
    chosen: list[Match] = []
    used: set[str] = set()
    for match in sorted(candidates, key=lambda match: match.rank, reverse=True):
        # Without a word for masks, files of equal stems are only pairs if the largest match is so.
        if chosen and not match.is_named and match.naming != chosen[0].naming:
            continue
        pairs = {
            stem: mask
            for stem, mask in match.mask_of.items()
            if mask not in used and match.image_of[stem] not in used
        }
        if 2 * len(pairs) > len(match.mask_of):
            chosen.append(replace(match, mask_of=pairs))
            used.update(pairs.values(), (match.image_of[stem] for stem in pairs))
    return chosen


def _complete(match: Match, files: Sequence[str]) -> Match:
    """Adds the images in sub-folders that may be for something else: they are below it, too."""
    # New folders, which have found no stems yet.
    images, masks = (
        replace(folder, files=_files_below(folder.path, files), _stems={})
        for folder in (match.images, match.masks)
    )
    naming = match.naming
    mask_of, mask_clash = masks.find_stems(naming.mask_suffix, naming.mask_prefix)
    is_inside = PurePosixPath(masks.path).is_relative_to(images.path)
    exclude = set(mask_of.values()) if is_inside else set()
    image_of, clash = images.find_stems(naming.image_suffixes, naming.image_prefix, exclude=exclude)
    return replace(match, image_of=image_of, clash=clash or mask_clash)


def _files_below(folder: str, files: Sequence[str]) -> tuple[str, ...]:
    """Those of `files`, which are sorted, that are below a folder, as paths below it."""
    start = "" if folder == "." else f"{folder}/"
    end = start.removesuffix("/") + chr(ord("/") + 1) if start else None
    first = bisect_left(files, start)
    last = len(files) if end is None else bisect_left(files, end)
    return tuple(file.removeprefix(start) for file in files[first:last])


def _require_one_kind(folder: Path, match: Match, candidates: Iterable[Match]) -> None:
    """Raises PerpixelError when other masks of the same images may hold other classes."""
    images = {match.image_of[stem] for stem in match.mask_of}
    for other in candidates:
        words, others = _kind(match) - _kind(other), _kind(other) - _kind(match)
        if not words or not others or (match.mask_words | other.mask_words) & _UNLIKELY_WORDS:
            continue
        shared = [stem for stem in other.mask_of if other.image_of[stem] in images]
        if 2 * len(shared) > len(images):
            image = other.image_of[shared[0]]
            stem = next(stem for stem in match.mask_of if match.image_of[stem] == image)
            raise PerpixelError(
                f"{folder}: {image} has several masks, {match.mask_of[stem]} and "
                f"{other.mask_of[shared[0]]}. If each shows one class, `perpixel data convert` "
                f"makes one mask of them. Otherwise move those that are not to be used elsewhere"
            )


def _kind(match: Match) -> set[str]:
    """Words that may name a class: those of the masks' folder and names that are not known."""
    suffix = PurePosixPath("x" + match.naming.mask_suffix[0]).stem[1:]
    text = f"{match.masks.path} {match.naming.mask_prefix} {suffix}"
    return {*split_words(text), *re.findall(r"\d+", text)} - _KNOWN_WORDS


def _notes(pictures: Iterable[str], matches: Sequence[Match]) -> list[str]:
    """Says which files are in no pair."""
    notes = []
    if len(matches) > 1 and len({match.split for match in matches}) < len(matches):
        parts = [
            f"{match.images.path} with {match.masks.path} ({plural(len(match.mask_of), 'pair')})"
            for match in matches
        ]
        notes.append(f"{len(matches)} groups of images and masks: {first_few(parts)}")
    masks = {mask for match in matches for mask in match.mask_of.values()}
    used = masks | {match.image_of[stem] for match in matches for stem in match.mask_of}
    unused = [file for file in pictures if file not in used]
    without = {
        image: match.images.path
        for match in matches
        for image in match.image_of.values()
        if image not in used
    }
    for path in dict.fromkeys(without.values()):
        names = [image for image, folder in without.items() if folder == path]
        notes.append(
            f"{plural(len(names), 'image')} in {path} without a mask: left out ({first_few(names)})"
        )
    others: dict[str, list[str]] = defaultdict(list)
    for name in (PurePosixPath(file) for file in unused if file not in without):
        others[str(name.parent)].append(name.name)
    if others:
        folders = [
            f"{path} ({plural(len(names), 'file')}, such as {names[0]})"
            for path, names in others.items()
        ]
        notes.append(f"not used: {first_few(folders)}")
    return notes
