"""Finds which files of a folder are images and which are their masks.

Words in names show which folders and files are masks ("masks", "SegmentationClass", "trainannot",
"x_label.png", "mask_1.png", ...), and equal stems pair images with masks. Every way to pair two
folders is a candidate; the one with the most pairs is chosen, then the next one for other files.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
    "validation": "val", "valid": "val", "val": "val", "va": "val", "dev": "val",
    "evaluation": "val", "eval": "val", "holdout": "val",
    "testing": "test", "test": "test",
}  # fmt: skip
_KNOWN_WORDS = MASK_WORDS | IMAGE_WORDS | SPLITS.keys()

_MIN_SHARE = 0.1
"""Endings and prefixes of fewer of a folder's files are parts of their names."""


@dataclass(frozen=True)
class Naming:
    """How the names of images and of masks start and end around their common stem."""

    image_suffixes: tuple[str, ...] = IMAGE_SUFFIXES
    mask_suffix: str = ".png"
    image_prefix: str = ""
    mask_prefix: str = ""

    @property
    def mask_text(self) -> str:
        """What masks' names have beside the stem, without the format."""
        return f"{self.mask_prefix} {self.mask_suffix.rpartition('.')[0]}"


class Folder:
    """A folder of images or masks: its path and its files, as paths below it."""

    def __init__(self, path: str, files: Sequence[str]) -> None:
        self.path = path
        self.files = files
        self.words = split_words(path)
        self.split = split_of(path)
        self.rest = "/".join(p for p in path.split("/") if not split_words(p) & _KNOWN_WORDS)
        """The path's parts without a known word: equal for masks and their images."""
        self._paths: dict[tuple[tuple[str, ...], str], dict[str, str]] = {}

    def find(self, suffixes: tuple[str, ...], prefix: str) -> dict[str, str]:
        """Finds its files of such names: their paths below the root by stem."""
        if (suffixes, prefix) not in self._paths:  # it may go with many folders
            start = "" if self.path == "." else f"{self.path}/"
            stems = ((stem_of(file, suffixes, prefix), start + file) for file in self.files)
            self._paths[suffixes, prefix] = {stem: path for stem, path in stems if stem is not None}
        return self._paths[suffixes, prefix]

    def without(self, paths: Iterable[str]) -> "Folder":
        """The folder without some files, given as paths below the root."""
        excluded = {path if self.path == "." else path[len(self.path) + 1 :] for path in paths}
        return Folder(self.path, [file for file in self.files if file not in excluded])

    @cached_property
    def endings(self) -> list[str]:
        """How the names of many of its files end: ".png", "_labelIds.png", "_0000.png"."""
        counts: Counter[str] = Counter()
        spelling: dict[str, str] = {}
        for name in map(PurePosixPath, self.files):
            stem, ending = name.stem, name.suffix
            while True:
                counts[ending.lower()] += 1
                spelling.setdefault(ending.lower(), ending)
                word = re.search(r"([-_. ]+[A-Za-z0-9]+|(?<=\d)[A-Za-z]+)$", stem)
                if word is None:
                    break
                stem, ending = stem[: word.start()], word[0] + ending
        least = _MIN_SHARE * len(self.files)
        # Numbers are an ending if many files have the same, as nnU-Net's "_0000"; not of frames.
        return [
            spelling[ending]
            for ending, count in counts.items()
            if _is_format(ending)
            or count >= (max(2 * least, 2) if _ends_in_number(ending) else least)
        ]

    def prefixes(self, words: Iterable[str]) -> list[str]:
        """How the names of many of its files start with one of `words`, or all with any word."""
        counts: Counter[str] = Counter()
        for file in self.files:
            name, end = PurePosixPath(file).stem, 0
            while word := re.match(r"[A-Za-z]+(?:[-_. ]+|(?=\d))", name[end:]):
                end += word.end()
                counts[name[:end]] += 1
        return [
            prefix
            for prefix, count in counts.items()
            if count == len(self.files) > 1
            or (count >= _MIN_SHARE * len(self.files) and split_words(prefix).intersection(words))
        ]


@dataclass(frozen=True, eq=False)
class Match:
    """A folder of images, one of masks, and the naming under which they have equal stems."""

    images: Folder
    masks: Folder
    naming: Naming
    stem_of: Mapping[str, str]
    """The stem of every image, by its path below the root."""
    mask_of: Mapping[str, str]
    """The masks of the images that have one, in the order of their stems; paths below the root."""

    @property
    def split(self) -> str:
        """The split that a word in a folder's name says, or ""."""
        return self.images.split or self.masks.split

    @property
    def mask_words(self) -> frozenset[str]:
        """Words in the names of folder and files of the masks."""
        return self.masks.words | split_words(self.naming.mask_text)

    @property
    def is_named(self) -> bool:
        """Whether a word says which files are masks, in a folder that holds not only masks."""
        is_folder_of_masks = self.images.path == self.masks.path and self.images.words & MASK_WORDS
        return bool(self.mask_words & MASK_WORDS) and not is_folder_of_masks

    @property
    def rank(self) -> tuple[float, ...]:
        """Orders candidates for the same files; the largest is the most likely."""
        return (
            len(self.mask_of) * (0.5 if self.mask_words & _UNLIKELY_WORDS else 1),
            self.is_named,
            len(self.images.words & IMAGE_WORDS),
            self.naming.mask_suffix.lower().endswith(".png"),
        )


def split_of(path: str) -> str:
    """The split that the last word for one in a path names, "val" for "a/valid"; "" for none."""
    words = (word for part in path.split("/") for word in _words(part))
    return next((SPLITS[word] for word in reversed([*words]) if word in SPLITS), "")


def split_words(name: str) -> frozenset[str]:
    """Splits "SegmentationClass", "train_labels" or "trainannot" into lower-case words."""
    return frozenset(_words(name))


def _words(name: str) -> list[str]:
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]
    for word in list(words):
        compound = re.fullmatch(rf"({'|'.join(SPLITS)})(\w+)", word)
        if compound and compound[2] in MASK_WORDS | IMAGE_WORDS:
            words += compound.groups()
    return words


def find_matches(folder: Path, files: Sequence[str]) -> tuple[list[Match], list[str]]:
    """Finds the folders of images and masks among `files`, sorted paths below `folder`.

    Every file is in one pair at most. Returns the matches, the largest first, and a note on
    each kind of image file that is in none. Raises PerpixelError when an image has several masks
    and nothing tells which counts.
    """
    candidates = find_candidates(files)
    matches = _choose(candidates)
    for match in matches:
        _require_one_kind(folder, match, candidates)
    return matches, _notes(files, matches) if matches else []


def find_candidates(files: Sequence[str]) -> list[Match]:
    """Finds every way in which some of `files` may be masks of others; a file may be in several."""
    folders = _find_folders(file for file in files if is_image_or_mask(file))
    return [match for pair in _possible_pairs(folders) for match in _match(*pair)]


def is_image_or_mask(file: str) -> bool:
    """Whether a file has the ending of a format of images or masks."""
    return file.lower().endswith((*IMAGE_SUFFIXES, *MASK_SUFFIXES))


def _find_folders(images: Iterable[str]) -> list[Folder]:
    """Finds every folder that may be the root of images or masks; a file can be in several."""
    files: dict[str, list[str]] = defaultdict(list)
    for image in images:
        parts = image.split("/")
        known = [split_words(part) & _KNOWN_WORDS for part in parts[:-1]]
        last = max((depth for depth, found in enumerate(known, 1) if found), default=0)
        # Without a word for images or masks, any folder may be the root of all the images.
        is_named = any(found - SPLITS.keys() for found in known)
        for depth in [last] if is_named else range(last, len(parts)):
            files["/".join(parts[:depth]) or "."].append("/".join(parts[depth:]))
    return [Folder(path, files[path]) for path in sorted(files)]


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
            names = _own_words(images.path)
            same = [masks for masks in masks_of_rest[rest] if names & _own_words(masks.path)]
            for masks in same or masks_of_rest[rest]:  # images_berlin go with masks_berlin
                if not (images.split and masks.split and images.split != masks.split):
                    yield images, masks


def _match(images: Folder, masks: Folder) -> Iterator[Match]:
    """Yields all ways in which files of `masks` may be the masks of files of `images`."""
    for prefix, suffix in product(["", *masks.prefixes(MASK_WORDS)], masks.endings):
        naming = Naming(IMAGE_SUFFIXES, suffix, "", prefix)
        # JPEG changes values, so that its files are no masks; numbers are of frames, or objects.
        if not suffix.lower().endswith(MASK_SUFFIXES) or _ends_in_number(suffix):
            continue
        others, masks_of_stem = images, masks.find((suffix,), prefix)
        if images is masks:
            if naming.mask_text.strip() and not split_words(naming.mask_text) & MASK_WORDS:
                continue
            others = images.without(masks_of_stem.values())
        endings = [(end,) for end in others.endings if end.lower().endswith(IMAGE_SUFFIXES)]
        image_suffixes = [IMAGE_SUFFIXES, *(end for end in endings if not _is_format(*end))]
        for ends, start in product(image_suffixes, ["", *others.prefixes(IMAGE_WORDS)]):
            image_of = others.find(ends, start)
            stems = sorted(image_of.keys() & masks_of_stem.keys())
            if stems:
                naming = replace(naming, image_suffixes=ends, image_prefix=start)
                stem_of_image = {image: stem for stem, image in image_of.items()}
                mask_of = {image_of[stem]: masks_of_stem[stem] for stem in stems}
                yield Match(images, masks, naming, stem_of_image, mask_of)


def _is_format(ending: str) -> bool:
    return ending.count(".") == 1 and ending.startswith(".")


def _ends_in_number(ending: str) -> bool:
    return re.search(r"[-_. ]\d+(\.[A-Za-z]\w*)?$", ending) is not None


def _choose(candidates: Sequence[Match]) -> list[Match]:
    """Chooses the largest match, and the others whose files are in none before it."""
    chosen: list[Match] = []
    used: set[str] = set()
    for match in sorted(candidates, key=lambda match: match.rank, reverse=True):
        # Without a word for masks, files of equal stems are only pairs if the largest match is so.
        if chosen and not match.is_named and match.naming != chosen[0].naming:
            continue
        free = {
            image: mask
            for image, mask in match.mask_of.items()
            if image not in used and mask not in used
        }
        if 2 * len(free) > len(match.mask_of):
            chosen.append(replace(match, mask_of=free))
            used.update(free.keys(), free.values())
    return chosen


def _require_one_kind(folder: Path, match: Match, candidates: Iterable[Match]) -> None:
    """Raises PerpixelError when other masks of the same images may hold other classes."""
    kind = _kind(match)
    for other in candidates:
        if other.images.path != match.images.path or kind <= _kind(other) or _kind(other) <= kind:
            continue
        shared = [image for image in match.mask_of if image in other.mask_of]
        is_unlikely = bool((match.mask_words | other.mask_words) & _UNLIKELY_WORDS)
        if 2 * len(shared) > len(match.mask_of) and not is_unlikely:
            image = shared[0]
            raise PerpixelError(
                f"{folder}: {image} has several masks, {match.mask_of[image]} and "
                f"{other.mask_of[image]}. If each shows one class, `perpixel data convert` "
                f"makes one mask of them. Otherwise move those that are not to be used elsewhere"
            )


def _kind(match: Match) -> set[str]:
    """Words that may name a class."""
    return _own_words(f"{match.masks.path} {match.naming.mask_text}")


def _own_words(text: str) -> set[str]:
    """The words and numbers in a name that are not known."""
    return {*split_words(text), *re.findall(r"\d+", text)} - _KNOWN_WORDS


def _notes(files: Iterable[str], matches: Sequence[Match]) -> list[str]:
    """Says which files are in no pair."""
    used = {file for match in matches for pair in match.mask_of.items() for file in pair}
    unused: dict[str, list[str]] = defaultdict(list)
    for file in files:
        if file not in used and is_image_or_mask(file):
            unused[str(PurePosixPath(file).parent)].append(PurePosixPath(file).name)
    folders = [
        f"{path} ({plural(len(names), 'file')}, such as {names[0]})"
        for path, names in unused.items()
    ]
    return [f"in no pair, and left out: {first_few(folders)}"] if folders else []
