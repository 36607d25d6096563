"""Inspects a folder of images and masks and proposes the dataset.toml that describes it.

Words in names show which folders and files are masks ("masks", "SegmentationClass", "trainannot",
"x_label.png", ...), equal stems pair images with masks, and a sample of the masks shows the class
values. Comments in the proposal explain every guess.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, KeysView, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path, PurePosixPath

import numpy as np

from perpixel.data.dataset import RawValue
from perpixel.data.datasets.folder import FILE, composed, files_below, stem_of
from perpixel.data.mask_values import count_values, has_soft_edges
from perpixel.data.paths import first_few, read_list, require_folder
from perpixel.errors import PerpixelError, plural
from perpixel.io.atomic import atomic_write
from perpixel.io.images import IMAGE_SUFFIXES, Palette, distinct_palette, read_palette
from perpixel.recipes.schema import IGNORE_INDEX

_MASK_WORDS = {
    "mask", "masks", "label", "labels", "ann", "anns", "annot", "annots", "annotation",
    "annotations", "gt", "groundtruth", "truth", "seg", "segmap", "segmaps", "segmentation",
    "semantic", "targets",
}  # fmt: skip
_IMAGE_WORDS = {"image", "images", "img", "imgs", "photos", "rgb", "frames"}
_UNLIKELY_WORDS = {
    "instance", "instances", "object", "panoptic", "color", "visualization", "overlay",
}  # fmt: skip
_SPLITS = {
    "training": "train", "train": "train",
    "validation": "val", "valid": "val", "val": "val",
    "testing": "test", "test": "test",
}  # fmt: skip

_LOSSY_SUFFIXES = (".jpg", ".jpeg", ".jfif")
_MAX_MASKS = 200
_VOC_VOID = (224, 224, 192)


@dataclass(frozen=True)
class Proposal:
    """The text of a dataset.toml, the texts of list files by name, and notes for the user."""

    toml: str
    lists: Mapping[str, str]
    notes: tuple[str, ...]


def propose(folder: Path) -> Proposal:
    """Proposes a description of the images and masks in `folder`; writes nothing.

    Raises PerpixelError when no masks have the stems of images, when a mask of the sample cannot
    be read, and when the masks hold more values than there can be classes.
    """
    require_folder(folder, dataset="your images", holds="them and their masks")
    files = files_below(folder)
    matches, notes = _find_matches(folder, files)
    splits, lists = _propose_splits(folder, files, matches)
    masks = [folder / path for match in matches for path in match.mask_of.values()]
    sample = np.linspace(0, len(masks) - 1, min(len(masks), _MAX_MASKS)).astype(int)
    pixels, value_notes = count_values([masks[index] for index in sample])
    parts = [
        "# Proposed by `perpixel data init`: correct wrong guesses.\n"
        f"# It read {len(sample)} of the {plural(len(masks), 'mask')}; "
        "a value that only others hold will be an error.",
        _suffix_text(matches[0]),
        _class_text(pixels, read_palette(masks[0])),
        *splits,
    ]
    return Proposal("\n\n".join(parts) + "\n", lists, (*notes, *value_notes))


def write_proposal(folder: Path, proposal: Proposal) -> tuple[Path, ...]:
    """Writes the lists and dataset.toml into `folder`, and returns their paths.

    Raises PerpixelError when one of them exists or cannot be written, and then writes none.
    """
    texts = {folder / name: text for name, text in {**proposal.lists, FILE: proposal.toml}.items()}
    for path in texts:
        if path.exists():
            raise PerpixelError(f"{path}: exists already; move it away to have it proposed anew")
    try:
        for path, text in texts.items():
            # File names may have bytes that are not UTF-8; in dataset.toml they are in comments.
            errors = "backslashreplace" if path.name == FILE else "surrogateescape"
            atomic_write(path, text.encode(errors=errors))
    except PerpixelError:
        for path in texts:  # the next call would refuse to overwrite them
            path.unlink(missing_ok=True)
        raise
    return tuple(texts)


# --- Which folders and files belong together -----------------------------------------------------


@dataclass(frozen=True)
class _Folder:
    """A folder of images or masks, with the sub-folders whose names have no known word."""

    path: str
    words: frozenset[str]
    split: str
    """"train", "val", "test", or "" where no word names a split."""
    rest: str
    """The path's parts without a known word: equal for masks and their images."""
    files: tuple[str, ...]
    """Paths below the folder."""


@dataclass(frozen=True)
class _Match:
    """A folder of images, one of masks, and endings under which they have equal stems."""

    images: _Folder
    masks: _Folder
    image_suffixes: tuple[str, ...]
    mask_suffix: str
    mask_of: Mapping[str, str]
    """The mask's path below the root by stem, for every image that has a mask; sorted."""
    without_mask: int
    """The number of images without a mask."""

    @property
    def split(self) -> str:
        return self.images.split or self.masks.split

    @property
    def rank(self) -> tuple[int, int, int]:
        """Orders the matches of a split; the largest is the most likely."""
        words = self.masks.words | _split_words(self.mask_suffix)
        return (
            len(self.mask_of),
            -len(words & _UNLIKELY_WORDS),
            len(self.images.words & _IMAGE_WORDS),
        )


def _find_matches(folder: Path, files: Sequence[str]) -> tuple[list[_Match], list[str]]:
    """Finds the best match of every split, the largest first; notes say what is left out."""
    image_files = [file for file in files if file.lower().endswith(IMAGE_SUFFIXES)]
    folders = _find_folders(image_files)
    candidates: dict[tuple[str, bool], dict[str, _Match]] = defaultdict(dict)
    for images, masks in product(folders, repeat=2):
        for match in _match_folders(images, masks):
            splits = candidates[masks.rest, match.split != ""]
            if match.rank > splits.setdefault(match.split, match).rank:
                splits[match.split] = match
    if not candidates:
        raise PerpixelError(
            f"{folder}: found {len(image_files)} images, but no masks for them. Masks are "
            f"recognized by their folder (images/ and masks/, train/ and trainannot/, ...) or "
            f"their ending (a.jpg and a_mask.png), and have their image's stem; JPEG files cannot "
            f"be masks, as they do not keep values. Rename the folders, or write {FILE} by hand"
        )
    splits = max(
        candidates.values(), key=lambda splits: sum(len(m.mask_of) for m in splits.values())
    )
    matches = sorted(splits.values(), key=lambda match: -len(match.mask_of))
    endings = (matches[0].image_suffixes, matches[0].mask_suffix)
    matches = [match for match in matches if (match.image_suffixes, match.mask_suffix) == endings]
    notes = [
        f"{plural(match.without_mask, 'image')} in {match.images.path} without a mask: left out"
        for match in matches
        if match.without_mask
    ]
    used = [part.path for match in matches for part in (match.images, match.masks)]
    unused = [
        f"{other.path} ({plural(len(other.files), 'file')})"
        for other in folders
        if not any(_is_in(path, other.path) or _is_in(other.path, path) for path in used)
    ]
    if unused:
        notes.append(f"not used: {first_few(unused)}")
    return matches, notes


def _is_in(folder: str, other: str) -> bool:
    return PurePosixPath(folder).is_relative_to(other)


def _find_folders(images: Iterable[str]) -> list[_Folder]:
    """Finds every folder that may be the root of images or masks; a file can be in several."""
    files: dict[str, list[str]] = defaultdict(list)
    for image in images:
        parts = PurePosixPath(image).parts
        depths = [depth for depth, part in enumerate(parts[:-1], 1) if _has_known_word(part)]
        # Without a known word, any folder above may be the root of all the images.
        for depth in depths[-1:] or range(len(parts)):
            files["/".join(parts[:depth]) or "."].append("/".join(parts[depth:]))
    folders = []
    for path in sorted(files):
        parts = PurePosixPath(path).parts
        words = [word for part in parts for word in _split_words(part)]
        split = next((_SPLITS[word] for word in reversed(words) if word in _SPLITS), "")
        rest = "/".join(part for part in parts if not _has_known_word(part))
        folders.append(_Folder(path, frozenset(words), split, rest, tuple(files[path])))
    return folders


def _has_known_word(name: str) -> bool:
    return bool(_split_words(name) & (_MASK_WORDS | _IMAGE_WORDS | _SPLITS.keys()))


def _split_words(name: str) -> KeysView[str]:
    """Splits "SegmentationClass", "train_labels" or "trainannot" into lower-case words."""
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]
    for word in list(words):
        compound = re.fullmatch(rf"({'|'.join(_SPLITS)})(\w+)", word)
        if compound and compound[2] in _MASK_WORDS | _IMAGE_WORDS:
            words += compound.groups()
    return dict.fromkeys(words).keys()


def _match_folders(images: _Folder, masks: _Folder) -> Iterator[_Match]:
    """Yields all ways in which files of `masks` may be the masks of files of `images`."""
    is_same = images is masks
    has_no_known_word = images.path in (images.rest, ".")
    if not is_same and (
        images.words & _MASK_WORDS
        or not masks.words & _MASK_WORDS
        or (images.split and masks.split and images.split != masks.split)
        or not (
            images.rest == masks.rest or (has_no_known_word and _is_in(images.path, masks.rest))
        )
    ):
        return
    for mask_suffix in _common_endings(masks.files):
        is_format = mask_suffix.lower() in IMAGE_SUFFIXES
        if mask_suffix.lower().endswith(_LOSSY_SUFFIXES):
            continue
        if is_same and not is_format and not _split_words(mask_suffix) & _MASK_WORDS:
            continue
        mask_of = _files_by_stem(masks.files, (mask_suffix,))
        others = set(images.files) - set(mask_of.values()) if is_same else images.files
        endings = [(end,) for end in _common_endings(others) if end.lower() not in IMAGE_SUFFIXES]
        for image_suffixes in (IMAGE_SUFFIXES, *endings):
            stems = _files_by_stem(others, image_suffixes).keys()
            pairs = {
                stem: str(PurePosixPath(masks.path) / mask_of[stem])
                for stem in sorted(stems & mask_of.keys())
            }
            if pairs:
                without_mask = len(stems) - len(pairs)
                yield _Match(images, masks, image_suffixes, mask_suffix, pairs, without_mask)


def _files_by_stem(files: Iterable[str], suffixes: Sequence[str]) -> dict[str, str]:
    stems = ((stem_of(file, suffixes), file) for file in files)
    return {stem: file for stem, file in stems if stem is not None}


def _common_endings(files: Iterable[str]) -> list[str]:
    """Endings of 10% of the files or more: ".png", "_labelIds.png", "_gtFine_labelIds.png"."""
    counts: Counter[str] = Counter()
    names = [PurePosixPath(file) for file in files]
    for name in names:
        stem, ending = name.stem, name.suffix
        counts[ending] += 1
        while word := re.search(r"(?:[-_. ]+[A-Za-z][A-Za-z0-9]*|(?<=\d)[A-Za-z]+)$", stem):
            stem, ending = stem[: word.start()], word[0] + ending
            counts[ending] += 1
    return [ending for ending, count in counts.items() if 10 * count >= len(names)]


# --- Which images are for training and which for validation --------------------------------------


def _propose_splits(
    folder: Path, files: Sequence[str], matches: Sequence[_Match]
) -> tuple[list[str], dict[str, str]]:
    """Returns the TOML of every split, with one for validation, and the lists that they need."""
    splits: dict[str, str] = {}
    lists: dict[str, str] = {}

    def add(
        split: str, match: _Match, stems: Sequence[str], note: str, list_file: str = ""
    ) -> None:
        if not list_file and len(stems) < len(match.mask_of) + match.without_mask:
            list_file = f"{split}.txt" if f"{split}.txt" not in files else f"{FILE}.{split}.txt"
            lists[list_file] = "".join(f"{stem}\n" for stem in stems)
        lines = [
            f"# {plural(len(stems), 'pair')}: {note}.",
            f"[splits.{split}]",
            f"images = {_toml_value(match.images.path)}",
            f"masks = {_toml_value(match.masks.path)}",
        ]
        if list_file:
            lines.append(f"list = {_toml_value(list_file)}")
        splits[split] = "\n".join(lines)

    has_val = any(match.split == "val" for match in matches)
    for match in matches:
        stems = list(match.mask_of)
        if has_val or (match.split not in ("", "train") and len(matches) > 1):
            add(match.split, match, stems, "every image that has a mask")
        elif lists_found := _find_lists(folder, files, match):
            for split, (list_file, lines) in lists_found.items():
                add(split, match, lines, "as listed in that file", list_file)
        else:
            val = stems[4::5] or stems[-1:]
            train = [stem for stem in stems if stem not in set(val)]
            if not train:
                add("train", match, val, "the only one, which is used for validation, too")
                add("val", match, val, "the same: its score says little")
                continue
            add("train", match, train, "the images that are not for validation")
            add("val", match, val, "every fifth image, as no name says which are for validation.\n"
                "# Frames of one video look alike: divide those by video instead")  # fmt: skip
    return [splits[split] for split in ("train", "val", "test") if split in splits], lists


def _find_lists(
    folder: Path, files: Sequence[str], match: _Match
) -> dict[str, tuple[str, list[str]]]:
    """Finds existing list files of the pairs, and their lines, by split; both splits or none."""
    lists: dict[str, tuple[str, list[str]]] = {}
    for file in files:
        split = _SPLITS.get(PurePosixPath(file).stem)
        if split and file.endswith(".txt") and split not in lists:
            lines = [composed(line) for line in read_list(folder / file)]
            if lines and match.mask_of.keys() >= set(lines):
                lists[split] = (file, lines)
    return lists if {"train", "val"} <= lists.keys() else {}


# --- The text of dataset.toml --------------------------------------------------------------------


def _class_text(pixels: Mapping[RawValue, int], palette: Palette | None) -> str:
    """The keys for the ignored values and the classes."""
    values = sorted(pixels)
    share = {value: f"{pixels[value] / sum(pixels.values()):.2%}" for value in values}
    is_rgb, is_gray = len(values[0]) == 3, all(len(set(value)) == 1 for value in values)
    key = "colors" if is_rgb else "ids"
    toml = {value: _toml_value([value if is_rgb else value[0]]) for value in values}
    void = _VOC_VOID if is_rgb and not is_gray else (IGNORE_INDEX,) * len(values[0])
    # In black and white masks, such as of 0 and 255, both are classes.
    all_classes = len(values) < 3 or has_soft_edges(pixels)
    classes = [value for value in values if value != void or all_classes]
    names = [f"class_{index if is_rgb else value[0]}" for index, value in enumerate(classes)]
    if len(classes) == 2 and not any(classes[0]):
        names = ["background", "foreground"]
    colors, origin = _display_colors(classes, palette)
    lines = []
    if len(classes) < len(values):
        lines += [
            f"# By convention, {toml[void][1:-1]} is for pixels without a label "
            f"({share[void]} of all).",
            f"ignored_{key} = {toml[void]}\n",
        ]
    lines += [
        "# The classes in the order of the model's outputs, with their shares of the pixels. The",
        f"# names are placeholders: replace them. The colors are {origin}.",
        f'# A line that only means "no label" belongs in ignored_{key}.',
        "classes = [",
    ]
    for name, value, color in zip(names, classes, colors, strict=True):
        # Without `ids` and `colors`, `color` is the value in RGB masks.
        raw = "" if is_rgb and not is_gray else f", {key} = {toml[value]}"
        line = f"{{ name = {_toml_value(name)}, color = {list(color)}{raw} }},"
        lines.append(f"  {line}  # {share[value]}")
    return "\n".join([*lines, "]"])


def _display_colors(
    classes: Sequence[RawValue], palette: Palette | None
) -> tuple[Sequence[RawValue], str]:
    """Returns a display color for each class, and a text that says where they come from."""
    if palette and max(classes)[0] < len(palette):
        colors = [palette[value[0]] for value in classes]
        if len(set(colors)) == len(colors) and any(len(set(color)) > 1 for color in colors):
            return colors, "those of the masks' palette"
    if any(len(set(value)) > 1 for value in classes):
        return classes, "those in the masks"
    return distinct_palette(len(classes)), "generated"


def _suffix_text(match: _Match) -> str:
    stem, mask = next(iter(match.mask_of.items()))
    lines = [f"# The mask of the image {stem} in {match.images.path} is {mask}."]
    if match.image_suffixes != IMAGE_SUFFIXES:
        lines.append(f"image_suffixes = {_toml_value(list(match.image_suffixes))}")
    return "\n".join([*lines, f"mask_suffix = {_toml_value(match.mask_suffix)}"])


def _toml_value(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
