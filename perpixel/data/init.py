"""Inspects a folder of images and masks and proposes the dataset.toml that describes it.

Words in names show which folders and files are masks ("masks", "SegmentationClass", "trainannot",
"x_label.png", ...), equal stems pair images with masks, and a sample of the masks shows the class
values. Comments in the proposal explain every guess.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from perpixel.data.class_names import ClassNames, find_names
from perpixel.data.class_table import reads_by_color, write_classes
from perpixel.data.datasets.folder import FILE, files_below
from perpixel.data.find_lists import divide_by_lists
from perpixel.data.mask_values import count_values
from perpixel.data.missing_masks import missing_masks_error
from perpixel.data.pairing import Match, Naming, find_matches
from perpixel.data.paths import require_folder
from perpixel.errors import PerpixelError, plural
from perpixel.io.atomic import atomic_write

_MAX_MASKS = 200


@dataclass(frozen=True)
class Proposal:
    """The text of a dataset.toml, the texts of list files by name, and notes for the user."""

    toml: str
    lists: Mapping[str, str]
    notes: tuple[str, ...]


def propose(folder: Path, *, names: ClassNames | None = None) -> Proposal:
    """Proposes a description of the images and masks in `folder`; writes nothing.

    `names` are the classes' names; by default those of a file that an export brought, or
    placeholders. Raises PerpixelError when no masks have the stems of images, when a mask of the
    sample cannot be read, and when the masks hold more values than there can be classes; UsageError
    when `names` do not fit the masks.
    """
    require_folder(folder, dataset="your images", holds="them and their masks")
    files = files_below(folder)
    matches, notes = find_matches(folder, files)
    if not matches:
        raise missing_masks_error(folder, files)
    splits, lists, split_notes = _propose_splits(folder, files, matches)
    masks = [folder / path for match in matches for path in match.mask_of.values()]
    sample = np.linspace(0, len(masks) - 1, min(len(masks), _MAX_MASKS)).astype(int)
    classes, class_notes = _propose_classes(folder, files, [masks[i] for i in sample], names)
    parts = [
        "# Proposed by `perpixel data init`: correct wrong guesses.\n"
        f"# It read {len(sample)} of the {plural(len(masks), 'mask')}; "
        "a value that only others hold will be an error.",
        _naming_text(matches[0]),
        classes,
        *splits,
    ]
    return Proposal("\n\n".join(parts) + "\n", lists, (*notes, *split_notes, *class_notes))


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


# --- Which images are for training and which for validation --------------------------------------


@dataclass(frozen=True)
class _Part:
    """Some pairs of a match, which are in one split."""

    match: Match
    stems: Sequence[str]
    origin: str
    """A comment that says why they are in this split."""
    list_file: str = ""
    """The user's list that names them, if there is one."""

    @property
    def is_whole(self) -> bool:
        """Whether these are all images of the folder, so that no list is needed."""
        return len(self.stems) == len(self.match.image_of)


_Parts = dict[str, list[_Part]]
"""The parts of every split."""


def _propose_splits(
    folder: Path, files: Sequence[str], matches: Sequence[Match]
) -> tuple[list[str], dict[str, str], list[str]]:
    """Returns the TOML of every split, with one for validation, the lists they need, and notes."""
    parts: _Parts = {"train": [], "val": [], "test": []}
    splits = {match.split for match in matches}
    has_val = "val" in splits and len(splits) > 1
    undivided = []
    for match in matches:
        if not has_val and (match.split in ("", "train") or len(splits) == 1):
            undivided.append(match)
        else:
            split = match.split or "train"
            parts[split].append(_Part(match, list(match.mask_of), "every image that has a mask"))
    listed, notes = divide_by_lists(folder, files, matches, undivided)
    for match, division in listed:
        for split, (stems, origin, list_file) in division.items():
            parts[split].append(_Part(match, stems, origin, list_file))
    covered = [match for match, _ in listed]
    notes += _divide_evenly([match for match in undivided if match not in covered], parts)
    lists: dict[str, str] = {}
    texts = [
        _split_text(split, split_parts, matches[0].naming, files, lists)
        for split, split_parts in parts.items()
        if split_parts
    ]
    return texts, lists, notes


def _divide_evenly(matches: Sequence[Match], parts: _Parts) -> list[str]:
    """Puts every fifth pair of each match into val, and the others into train."""
    origin = "every fifth image, as no name says which are for validation.\n# "
    if len(matches) > 1:
        hint = "Images of one place, film or patient look alike: divide by folder instead"
    else:
        hint = "Frames of one video look alike: divide those by video instead"
    # Of matches of a single pair, every fifth is for validation.
    single = [match for match in matches if len(match.mask_of) == 1]
    is_val = {id(match) for match in single[4::5]}
    if single and len(single) == len(matches) > 1:
        is_val = is_val or {id(single[-1])}
    for match in matches:
        stems = list(match.mask_of)
        if len(matches) == len(stems) == 1:
            origins = "the only one, which is used for validation, too", "the same: its score says"
            parts["train"].append(_Part(match, stems, origins[0]))
            parts["val"].append(_Part(match, stems, f"{origins[1]} little"))
            continue
        val = stems[4::5] or stems[-1:]
        if match in single:
            val = stems if id(match) in is_val else []
        train = [stem for stem in stems if stem not in set(val)]
        if train:
            parts["train"].append(_Part(match, train, "the images that are not for validation"))
        if val:
            parts["val"].append(_Part(match, val, origin + hint))
    if len(matches) < 2:
        return []
    return [
        f"each of the {len(matches)} groups is divided into train and val. Where a group is a "
        f"place, film or patient, whole groups for val are a fairer test: edit {FILE}"
    ]


def _split_text(
    split: str,
    parts: Sequence[_Part],
    naming: Naming,
    files: Sequence[str],
    lists: dict[str, str],
) -> str:
    """The TOML of a split; adds the list that it needs to `lists`."""
    name = f"{split}.txt"
    if name in map(str.lower, files):
        name = f"{FILE}.{name}"
    lines: list[str] = []
    for part in parts:
        list_file = part.list_file
        if not list_file and not part.is_whole:
            # One folder's stems are enough; several folders may hold the same ones.
            of_stem = part.match.image_of if len(parts) > 1 else {}
            list_file = name
            names = "".join(f"{of_stem.get(stem, stem)}\n" for stem in part.stems)
            lists[name] = lists.get(name, "") + names
        lines += [
            f"# {plural(len(part.stems), 'pair')}: {part.origin}.",
            f"[[splits.{split}]]" if len(parts) > 1 else f"[splits.{split}]",
            f"images = {_toml_value(part.match.images.path)}",
            f"masks = {_toml_value(part.match.masks.path)}",
        ]
        if list_file:
            lines.append(f"list = {_toml_value(list_file)}")
        lines += [*_naming_lines(part.match.naming, naming), ""]
    return "\n".join(lines[:-1])


# --- The text of dataset.toml --------------------------------------------------------------------


def _propose_classes(
    folder: Path, files: Sequence[str], masks: Sequence[Path], names: ClassNames | None
) -> tuple[str, list[str]]:
    """Returns the keys for the masks' values and the classes, and notes."""
    notes: list[str] = []
    if names is None:
        names, notes = find_names(folder, files)
    values = count_values(masks)
    if reads_by_color(values, names):
        values = count_values(masks, palette_as_colors=True)
    text = write_classes(values, names)
    return text.toml, [*values.notes, *notes, *text.notes]


def _naming_text(match: Match) -> str:
    stem, mask = next(iter(match.mask_of.items()))
    lines = [f"# The mask of the image {stem} in {match.images.path} is {mask}."]
    # The ending of the masks is there even if it is the default.
    lines += _naming_lines(match.naming, replace(Naming(), mask_suffix=()))
    return "\n".join(lines)


def _naming_lines(naming: Naming, default: Naming) -> Iterator[str]:
    """The keys for how names start and end, without those of `default`."""
    defaults = asdict(default)
    for key, value in asdict(naming).items():
        if value != defaults[key]:
            is_single = key == "mask_suffix" and len(value) == 1
            yield f"{key} = {_toml_value(value[0] if is_single else value)}"


def _toml_value(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
