"""Inspects a folder of images and masks and proposes the dataset.toml that describes it.

Words in names show which folders and files are masks (`pairing`), lists or folders which images are
for validation (`splits`), and a sample of the masks which values are classes (`class_table`).
Comments in the proposal explain every guess.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from perpixel.data.class_names import ClassNames, find_names, recognize
from perpixel.data.class_table import reads_by_color, toml_value, write_classes
from perpixel.data.datasets.folder import FILE, files_below, open_folder, splits_of_folder
from perpixel.data.mask_values import count_values
from perpixel.data.missing_masks import missing_masks_error
from perpixel.data.pairing import Match, Naming, find_matches, is_image_or_mask
from perpixel.data.paths import require_folder
from perpixel.data.splits import Part, divide
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
    placeholders. Raises PerpixelError when no masks have the stems of images, when a list that
    divides the images or a mask of the sample cannot be read, and when the masks hold more values
    than there can be classes; UsageError when `names` do not fit the masks.
    """
    require_folder(folder, dataset="your images", holds="them and their masks")
    files = files_below(folder)
    matches, notes = find_matches(folder, files)
    if not matches:
        raise missing_masks_error(folder, files)
    parts, split_notes = divide(folder, files, matches)
    splits, lists = _splits_text(parts, matches, files)
    masks = [folder / path for match in matches for path in match.mask_of.values()]
    sample = np.linspace(0, len(masks) - 1, min(len(masks), _MAX_MASKS)).astype(int)
    classes, class_notes = _classes_text(folder, files, [masks[i] for i in sample], names)
    head = (
        "# Proposed by `perpixel data init`: correct wrong guesses.\n"
        f"# It read {len(sample)} of the {plural(len(masks), 'mask')}; "
        "a value that only others hold will be an error."
    )
    toml = "\n\n".join([head, _naming_text(matches[0]), classes, *splits])
    return Proposal(f"{toml}\n", lists, (*notes, *split_notes, *class_notes))


def write_proposal(folder: Path, proposal: Proposal) -> tuple[Path, ...]:
    """Writes the lists and dataset.toml into `folder`, and returns their paths.

    Raises PerpixelError when one of them exists or cannot be written, and when they do not describe
    pairs, as where two images would share a mask; then none is written.
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
        for split in splits_of_folder(folder):
            open_folder(folder, split)
    except PerpixelError:
        for path in texts:  # the next call would refuse to overwrite them
            path.unlink(missing_ok=True)
        raise
    return tuple(texts)


# --- The text of dataset.toml --------------------------------------------------------------------


def _naming_text(match: Match) -> str:
    image, mask = next(iter(match.mask_of.items()))
    lines = [f"# The mask of {image} is {mask}."]
    # The ending of the masks is there even if it is the default.
    lines += _naming_lines(match.naming, replace(Naming(), mask_suffix=""))
    return "\n".join(lines)


def _naming_lines(naming: Naming, default: Naming) -> Iterator[str]:
    """The keys for how names start and end, without those of `default`."""
    defaults = asdict(default)
    for key, value in asdict(naming).items():
        if value != defaults[key]:
            yield f"{key} = {toml_value(value)}"


def _classes_text(
    folder: Path, files: Sequence[str], masks: Sequence[Path], names: ClassNames | None
) -> tuple[str, list[str]]:
    """Returns the keys for the masks' values and the classes, and notes."""
    notes: list[str] = []
    values = count_values(masks)
    if names is None:
        names, notes = find_names(folder, files)
    if names is None:
        names = recognize(values)
    if reads_by_color(values, names):
        values = count_values(masks, palette_as_colors=True)
    toml, class_notes = write_classes(values, names)
    return toml, [*values.notes, *notes, *class_notes]


def _splits_text(
    parts: Sequence[Part], matches: Sequence[Match], files: Sequence[str]
) -> tuple[list[str], dict[str, str]]:
    """Returns the TOML of every split, and the texts of the lists that they need."""
    texts: list[str] = []
    lists: dict[str, str] = {}
    match_of = {image: match for match in matches for image in match.mask_of}
    masks = {mask for match in matches for mask in match.mask_of.values()}
    images = [file for file in files if is_image_or_mask(file) and file not in masks]
    for split in ("train", "val", "test"):
        tables: list[tuple[Part, Match, list[str]]] = []
        for part in (part for part in parts if part.split == split):
            images_of: dict[Match, list[str]] = {}
            for image in part.images:
                images_of.setdefault(match_of[image], []).append(image)
            tables += [(part, match, of_match) for match, of_match in images_of.items()]
        new_list = f"{split}.txt"
        if new_list in map(str.lower, files):
            new_list = f"{FILE}.{new_list}"
        lines: list[str] = []
        for part, match, of_match in tables:
            path = match.images.path
            lines += [
                "",
                f"# {plural(len(of_match), 'pair')}: {part.origin}.",
                f"[[splits.{split}]]" if len(tables) > 1 else f"[splits.{split}]",
                f"images = {toml_value(path)}",
                f"masks = {toml_value(match.masks.path)}",
            ]
            list_file = part.list_file
            start = "" if path == "." else f"{path}/"
            if not list_file and sum(file.startswith(start) for file in images) > len(of_match):
                list_file = new_list
                lists[new_list] = lists.get(new_list, "") + "".join(f"{i}\n" for i in of_match)
            lines += [f"list = {toml_value(list_file)}"] if list_file else []
            lines += _naming_lines(match.naming, matches[0].naming)
        texts += ["\n".join(lines[1:])] if lines else []
    return texts, lists
