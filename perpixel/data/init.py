"""Look at a folder of images and masks and propose the dataset.toml that describes it.

Names tell which folders and files are masks ("masks", "SegmentationClass", "trainannot",
"x_label.png", ...), equal stems tell which image is whose, and a sample of the masks tells their
values. Whatever is a guess is explained by a comment in the proposal.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, KeysView, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from perpixel.data.dataset import RawValue
from perpixel.data.datasets.folder import FILE, composed, files_below, stem_of
from perpixel.data.mask_values import count_values, has_soft_edges
from perpixel.data.paths import first_few, read_list, require_folder
from perpixel.errors import PerpixelError
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

_LOSSY = (".jpg", ".jpeg")
_SAMPLE = 200
_VOC_VOID = (224, 224, 192)


@dataclass(frozen=True)
class Proposal:
    """The text of a dataset.toml, the texts of list files by name, and remarks for the person."""

    toml: str
    lists: Mapping[str, str]
    notes: tuple[str, ...]


def propose(folder: Path) -> Proposal:
    """Looks at the images and masks in `folder`; writes nothing.

    Raises PerpixelError when no masks have the stems of images, when a mask of the sample cannot
    be read, and when the masks hold more values than there can be classes.
    """
    require_folder(folder, dataset="your images", holds="them and their masks")
    files = files_below(folder)
    matches, notes = _matches(folder, files)
    splits, lists = _divided(folder, files, matches)
    masks = [folder / path for match in matches for path in match.mask_of.values()]
    sample = np.linspace(0, len(masks) - 1, min(len(masks), _SAMPLE)).astype(int)
    pixels, doubts = count_values([masks[index] for index in sample])
    parts = [
        "# Proposed by `perpixel data init`: correct what it guessed wrong.\n"
        f"# It read {len(sample)} of the {len(masks)} masks; "
        "a value that only others hold will be an error.",
        _suffix_text(matches[0]),
        _class_text(pixels, read_palette(masks[0])),
        *splits,
    ]
    return Proposal("\n\n".join(parts) + "\n", lists, (*notes, *doubts))


def write_proposal(folder: Path, proposal: Proposal) -> tuple[Path, ...]:
    """Writes the lists and dataset.toml into `folder`, and returns their paths.

    Raises PerpixelError when one cannot be written or, before writing any, is there already.
    """
    texts = {folder / name: text for name, text in {**proposal.lists, FILE: proposal.toml}.items()}
    for path in texts:
        if path.exists():
            raise PerpixelError(f"{path}: is there already; move it away to have it proposed anew")
    for path, text in texts.items():
        try:
            # File names may be of any bytes; in dataset.toml they stand in comments.
            odd = "backslashreplace" if path.name == FILE else "surrogateescape"
            path.write_bytes(text.encode(errors=odd))
        except OSError as error:
            for begun in texts:  # they would be in the next attempt's way
                with suppress(OSError):
                    begun.unlink()
            raise PerpixelError(f"{path}: cannot be written ({error.strerror})") from None
    return tuple(texts)


# --- Which folders and files belong together -----------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """A folder that holds images or masks, itself or in sub-folders whose names tell nothing."""

    folder: str
    words: frozenset[str]
    split: str
    """"train", "val", "test", or "" where the path does not tell."""
    rest: str
    """The parts of the path that tell nothing: the same for masks and their images."""
    files: tuple[str, ...]
    """Paths below the folder."""


@dataclass(frozen=True)
class _Match:
    """A folder of images, one of masks, and endings under which they have equal stems."""

    images: _Place
    masks: _Place
    image_suffixes: tuple[str, ...]
    mask_suffix: str
    mask_of: Mapping[str, str]
    """The mask's path below the root by the stem, for every image that has one; sorted."""
    bare: int
    """How many images have none."""

    @property
    def split(self) -> str:
        return self.images.split or self.masks.split

    @property
    def rank(self) -> tuple[int, ...]:
        words = self.masks.words | _words(self.mask_suffix)
        return (
            len(self.mask_of),
            -len(words & _UNLIKELY_WORDS),
            self.images.split == self.masks.split,
            len(self.images.words & _IMAGE_WORDS),
            -len(self.mask_suffix) - len(self.image_suffixes[0]),
        )


def _matches(folder: Path, files: Sequence[str]) -> tuple[list[_Match], list[str]]:
    """The best match of every split, the largest first, and notes on what is left out."""
    image_files = [file for file in files if file.lower().endswith(IMAGE_SUFFIXES)]
    places = _places(image_files)
    found: dict[tuple[str, bool], dict[str, _Match]] = defaultdict(dict)
    for match in (one for images in places for masks in places for one in _fits(images, masks)):
        splits = found[match.masks.rest, match.split != ""]
        if match.rank > splits.setdefault(match.split, match).rank:
            splits[match.split] = match
    if not found:
        raise PerpixelError(
            f"{folder}: found {len(image_files)} images, but no masks that belong to them. Masks "
            f"are told by their folder (images/ and masks/, train/ and trainannot/, ...) or their "
            f"ending (a.jpg and a_mask.png), and have their image's stem; JPEG files cannot be "
            f"masks, as they do not keep values. Rename the folders, or write {FILE} by hand"
        )
    splits = max(found.values(), key=lambda splits: sum(len(m.mask_of) for m in splits.values()))
    matches = sorted(splits.values(), key=lambda match: -len(match.mask_of))
    endings = (matches[0].image_suffixes, matches[0].mask_suffix)
    matches = [one for one in matches if (one.image_suffixes, one.mask_suffix) == endings]
    bare = {match.images.folder: match.bare for match in matches if match.bare}
    notes = [f"{count} images in {name} have no mask: left out" for name, count in bare.items()]
    used = [one.folder for match in matches for one in (match.images, match.masks)]
    unused = [
        f"{place.folder} ({len(place.files)} files)"
        for place in places
        if not any(_is_in(one, place.folder) or _is_in(place.folder, one) for one in used)
    ]
    return matches, [*notes, *([f"not used: {first_few(unused)}"] if unused else [])]


def _is_in(folder: str, other: str) -> bool:
    return PurePosixPath(folder).is_relative_to(other)


def _places(images: Iterable[str]) -> list[_Place]:
    """Every folder that images or masks may be counted from; a file can be in several."""
    files: dict[str, list[str]] = defaultdict(list)
    for image in images:
        parts = PurePosixPath(image).parts
        telling = [depth for depth, part in enumerate(parts[:-1], 1) if _tells(part)]
        # Where no name tells anything, any folder above may be the one of all the images.
        for depth in telling[-1:] or range(len(parts)):
            files["/".join(parts[:depth]) or "."].append("/".join(parts[depth:]))
    found = []
    for folder in sorted(files):
        parts = PurePosixPath(folder).parts
        words = [word for part in parts for word in _words(part)]
        split = next((_SPLITS[word] for word in reversed(words) if word in _SPLITS), "")
        rest = "/".join(part for part in parts if not _tells(part))
        found.append(_Place(folder, frozenset(words), split, rest, tuple(files[folder])))
    return found


def _tells(name: str) -> bool:
    return bool(_words(name) & (_MASK_WORDS | _IMAGE_WORDS | _SPLITS.keys()))


def _words(name: str) -> KeysView[str]:
    """The words of "SegmentationClass", "train_labels" or "trainannot", in lower case, in turn."""
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]
    for word in list(words):
        joined = re.fullmatch(rf"({'|'.join(_SPLITS)})(\w+)", word)
        if joined and joined[2] in _MASK_WORDS | _IMAGE_WORDS:
            words += joined.groups()
    return dict.fromkeys(words).keys()


def _fits(images: _Place, masks: _Place) -> Iterator[_Match]:
    """All the ways in which files of `masks` may be the masks of files of `images`."""
    same, plain = images is masks, images.folder in (images.rest, ".")
    if not same and (
        images.words & _MASK_WORDS
        or not masks.words & _MASK_WORDS
        or (images.split and masks.split and images.split != masks.split)
        or not (images.rest == masks.rest or (plain and _is_in(images.folder, masks.rest)))
    ):
        return
    for mask_suffix in _endings(masks.files):
        telling = mask_suffix.lower() in IMAGE_SUFFIXES or _words(mask_suffix) & _MASK_WORDS
        if mask_suffix.lower().endswith(_LOSSY) or (same and not telling):
            continue
        mask_of = _by_stem(masks.files, (mask_suffix,))
        others = set(images.files) - set(mask_of.values()) if same else images.files
        words = [(one,) for one in _endings(others) if one.lower() not in IMAGE_SUFFIXES]
        for image_suffixes in (IMAGE_SUFFIXES, *words):
            stems = _by_stem(others, image_suffixes).keys()
            both = {
                stem: str(PurePosixPath(masks.folder) / mask_of[stem])
                for stem in sorted(stems & mask_of.keys())
            }
            if both:
                bare = len(stems) - len(both)
                yield _Match(images, masks, image_suffixes, mask_suffix, both, bare)


def _by_stem(files: Iterable[str], suffixes: Sequence[str]) -> dict[str, str]:
    stems = ((stem_of(file, suffixes), file) for file in files)
    return {stem: file for stem, file in stems if stem is not None}


def _endings(files: Iterable[str]) -> list[str]:
    """Endings of a tenth of the files or more: ".png", "_labelIds.png", "_gtFine_labelIds.png"."""
    counts: Counter[str] = Counter()
    names = [PurePosixPath(file) for file in files]
    for name in names:
        stem, ending = name.stem, name.suffix
        counts[ending] += 1
        while word := re.search(r"(?:[-_. ]+[A-Za-z][A-Za-z0-9]*|(?<=\d)[A-Za-z]+)$", stem):
            stem, ending = stem[: word.start()], word[0] + ending
            counts[ending] += 1
    return [ending for ending, count in counts.items() if 10 * count >= len(names)]


# --- Which images train and which validate -----------------------------------------------------


def _divided(
    folder: Path, files: Sequence[str], matches: Sequence[_Match]
) -> tuple[list[str], dict[str, str]]:
    """The text of every split, with one for validation, and the list files that this takes."""
    splits: dict[str, str] = {}
    lists: dict[str, str] = {}

    def add(split: str, match: _Match, stems: Sequence[str], remark: str, file: str = "") -> None:
        if not file and len(stems) < len(match.mask_of) + match.bare:
            file = f"{split}.txt" if f"{split}.txt" not in files else f"{FILE}.{split}.txt"
            lists[file] = "".join(f"{stem}\n" for stem in stems)
        lines = [
            f"# {len(stems)} pair{'s' * (len(stems) != 1)}: {remark}.",
            f"[splits.{split}]",
            f"images = {_quoted(match.images.folder)}",
            f"masks = {_quoted(match.masks.folder)}",
        ]
        splits[split] = "\n".join([*lines, *([f"list = {_quoted(file)}"] if file else [])])

    validated = "val" in {match.split for match in matches}
    for match in matches:
        stems = list(match.mask_of)
        if validated or (match.split not in ("", "train") and len(matches) > 1):
            add(match.split, match, stems, "every image that has a mask")
        elif existing := _existing_lists(folder, files, match):
            for split, (file, lines) in existing.items():
                add(split, match, lines, "as that file lists them", file)
        elif len(stems) == 1:
            add("train", match, stems, "the only one, which validates, too")
            add("val", match, stems, "the same: its score says little")
        else:
            val = stems[4::5] or stems[-1:]
            rest = [stem for stem in stems if stem not in set(val)]
            add("train", match, rest, "the images that are not for validation")
            add("val", match, val, "every fifth image, as nothing says which are for it.\n"
                "# Frames of one film look alike: divide those by film instead")  # fmt: skip
    return [splits[split] for split in ("train", "val", "test") if split in splits], lists


def _existing_lists(
    folder: Path, files: Sequence[str], match: _Match
) -> dict[str, tuple[str, list[str]]]:
    """List files that already divide the pairs, and their lines, by split; or none."""
    found: dict[str, tuple[str, list[str]]] = {}
    for file in files:
        split = _SPLITS.get(PurePosixPath(file).stem)
        if split and file.endswith(".txt") and split not in found:
            lines = [composed(line) for line in read_list(folder / file)]
            if lines and match.mask_of.keys() >= set(lines):
                found[split] = (file, lines)
    return found if {"train", "val"} <= found.keys() else {}


# --- What the masks hold -------------------------------------------------------------------------


def _class_text(pixels: Mapping[RawValue, int], palette: Palette | None) -> str:
    """The keys for the ignored values and the classes."""
    values = sorted(pixels)
    share = {value: f"{pixels[value] / sum(pixels.values()):.2%}" for value in values}
    rgb, gray = len(values[0]) == 3, all(len(set(value)) == 1 for value in values)
    key = "colors" if rgb else "ids"
    written = {value: _quoted([value if rgb else value[0]]) for value in values}
    void = _VOC_VOID if rgb and not gray else (IGNORE_INDEX,) * len(values[0])
    # Masks of nothing but 0 and 255 are black and white images: 255 is their foreground.
    white = len(values) < 3 or has_soft_edges(pixels)
    classes = [value for value in values if value != void or white]
    names = [f"class_{position if rgb else value[0]}" for position, value in enumerate(classes)]
    if len(classes) == 2 and not any(classes[0]):
        names = ["background", "foreground"]
    colors, origin = _display(classes, palette)
    lines = []
    if len(classes) < len(values):
        lines += [
            f"# By custom, {written[void][1:-1]} is for pixels without a label "
            f"({share[void]} of all).",
            f"ignored_{key} = {written[void]}\n",
        ]
    lines += [
        "# The classes in the order of the model's outputs, with their shares of the pixels. The",
        f"# names are made up: give them their own. The colors are {origin}.",
        f'# A line that only means "no label" belongs in ignored_{key}.',
        "classes = [",
    ]
    for name, value, color in zip(names, classes, colors, strict=True):
        # Without `ids` and `colors`, `color` is what RGB masks hold.
        raw = "" if rgb and not gray else f", {key} = {written[value]}"
        line = f"{{ name = {_quoted(name)}, color = {list(color)}{raw} }},"
        lines.append(f"  {line}  # {share[value]}")
    return "\n".join([*lines, "]"])


def _display(
    classes: Sequence[RawValue], palette: Palette | None
) -> tuple[Sequence[RawValue], str]:
    """A color to show each class in, and where it comes from."""
    if palette and max(classes)[0] < len(palette):
        found = [palette[value[0]] for value in classes]
        if len(set(found)) == len(found) and any(len(set(color)) > 1 for color in found):
            return found, "those of the masks' palette"
    if any(len(set(value)) > 1 for value in classes):
        return classes, "those in the masks"
    return distinct_palette(len(classes)), "made up, too"


def _suffix_text(match: _Match) -> str:
    stem, mask = next(iter(match.mask_of.items()))
    lines = [f"# The mask of the image {stem} in {match.images.folder} is {mask}."]
    if match.image_suffixes != IMAGE_SUFFIXES:
        lines.append(f"image_suffixes = {_quoted(list(match.image_suffixes))}")
    return "\n".join([*lines, f"mask_suffix = {_quoted(match.mask_suffix)}"])


def _quoted(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
