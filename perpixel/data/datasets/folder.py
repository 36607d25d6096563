"""A user's own images and masks, described by a dataset.toml in the folder that holds them.

The shortest description. Masks hold the class indices 0 and 1, and 255 for unlabeled pixels; the
mask of train/images/sub/a.jpg is train/masks/sub/a.png:

    classes = ["background", "building"]

    [splits.train]
    images = "train/images"
    masks = "train/masks"

All keys:

    image_suffixes = ["_rgb.jpg"]       # endings of image files; default: every known format's
    mask_suffix = "_mask.png"           # the ending of mask files; default: ".png"
    ignored_ids = [0, 255]              # ignored mask values; default: 255, unless a class has it
    ignored_colors = [[255, 255, 255]] # the same for RGB masks; default: none
    bands = [4, 3, 2]                   # of TIFFs, in place of red, green, blue; default: 1, 2, 3
    mean = [70.1, 64.9, 58.2]           # of these bands' 0..255 values, as `perpixel data check`
    std = [31.0, 28.4, 26.6]            # prints them; default: those of the recipe
    apply_exif_orientation = false      # reads images as they are stored; default: true
    classes = [
      { name = "road", color = [128, 64, 128], ids = [7, 8] },
      { name = "car", color = [0, 0, 142], ids = [26] },
    ]
    [splits.train]
    images = "images"
    masks = "masks"
    list = "train.txt"                  # one stem ("sub/a") per line; default: every image

`color` is for display and, by default, the class's color in RGB masks, too; without it a palette
is generated. `ids` are the class's values in single-channel masks, `colors` those in RGB masks, as
in colors = [[0, 0, 142], [0, 0, 70]]. Either all classes have one of these keys or none has.
"""

import os
import re
import reprlib
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from perpixel.data.dataset import Classes, LabelMapping, PairDataset
from perpixel.data.pair_list import PairList
from perpixel.data.paths import first_few, read_list, require_folder
from perpixel.errors import PerpixelError
from perpixel.io.images import IMAGE_SUFFIXES, MAX_ID, MIN_ID, distinct_palette
from perpixel.recipes.base import Color, Spec
from perpixel.recipes.overrides import require_known, suggestion
from perpixel.recipes.schema import IGNORE_INDEX, DatasetInput

FILE = "dataset.toml"

_Value = TypeVar("_Value", bound=int | Color)


def open_folder(root: Path, split: str, *, complete: bool = True) -> PairDataset:
    """Opens a split that ROOT/dataset.toml describes, in the order of its list or by name.

    Raises UsageError for an unknown split, PerpixelError that names file and key for a wrong value,
    and for images without masks; with `complete` false missing files are listed under the names
    they should have.
    """
    description = _read_description(root)
    require_known(split, description.splits, f"{root / FILE} has no split {split!r}")
    try:
        classes, mapping = _classes_and_mapping(description)
        files = _find_pairs(root, description, split, complete=complete)
    except PerpixelError as error:
        raise PerpixelError(f"{root / FILE}: {error}") from None
    return PairDataset(
        root,
        files,
        classes,
        mapping,
        input=DatasetInput(bands=description.bands, mean=description.mean, std=description.std),
        apply_exif_orientation=description.apply_exif_orientation,
    )


def splits_of_folder(root: Path) -> tuple[str, ...]:
    """The splits in ROOT/dataset.toml; raises PerpixelError as `open_folder` does."""
    return tuple(_read_description(root).splits)


def lists_of_folder(root: Path) -> list[Path]:
    """The list files that ROOT/dataset.toml names and that exist."""
    lists = {split.list_file for split in _read_description(root).splits.values()}
    return [root / name for name in sorted(filter(None, lists)) if (root / name).is_file()]


def files_below(folder: Path, *, ancestors: frozenset[str] = frozenset()) -> list[str]:
    """Lists the files in `folder` and its sub-folders, sorted, without hidden ones.

    Links are followed, except into one of `ancestors`, the real paths of the folders above. Raises
    PerpixelError for a folder that cannot be listed.
    """
    real = os.path.realpath(folder)
    if real in ancestors:
        return []
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:
        raise PerpixelError(f"{folder}: cannot be listed ({error.strerror})") from None
    files: list[str] = []
    for entry in entries:
        # For a link that leads nowhere, os.path.isdir returns False and entry.is_dir raises.
        if os.path.isdir(entry) if entry.is_symlink() else entry.is_dir():
            below = files_below(folder / entry.name, ancestors=ancestors | {real})
            files += [f"{entry.name}/{file}" for file in below]
        else:
            files.append(entry.name)
    return sorted(files)


def stem_of(path: str, suffixes: Iterable[str]) -> str | None:
    """Returns `path` without the longest of `suffixes` it ends in, in any case; None without one.

    The stem is composed (Unicode's NFC), as macOS stores some names decomposed.
    """
    lowered = path.lower()
    matches = [suffix for suffix in suffixes if lowered.endswith(suffix.lower())]
    return composed(path[: -len(max(matches, key=len))]) if matches else None


def composed(name: str) -> str:
    """Normalizes `name` so that a letter and its accents are one character (Unicode's NFC)."""
    return unicodedata.normalize("NFC", name)


def _require_ending(text: str) -> str:
    if not re.search(r"\.[A-Za-z0-9]+$", text):
        raise ValueError("write the whole ending, such as '.png' or '_mask.png'")
    return text


_Text = Annotated[str, Field(min_length=1)]
_Ending = Annotated[str, AfterValidator(_require_ending)]
# A single id or color needs no list around it.
_Ids = Annotated[
    tuple[Annotated[int, Field(ge=MIN_ID, le=MAX_ID)], ...],
    BeforeValidator(lambda value: [value] if isinstance(value, int) else value),
]
_Colors = Annotated[
    tuple[Color, ...],
    BeforeValidator(
        lambda value: (
            [value] if isinstance(value, list) and value and isinstance(value[0], int) else value
        )
    ),
]


class _Class(Spec):
    name: _Text
    color: Color | None = None
    ids: _Ids | None = Field(None, min_length=1)
    colors: _Colors | None = Field(None, min_length=1)


# A class may be written as its name alone.
_NamedClass = Annotated[
    _Class, BeforeValidator(lambda value: {"name": value} if isinstance(value, str) else value)
]


class _Split(Spec):
    images: _Text
    masks: _Text
    list_file: _Text | None = Field(None, alias="list")


class _Description(DatasetInput):
    classes: tuple[_NamedClass, ...] = Field(min_length=1, max_length=IGNORE_INDEX - 1)
    splits: dict[str, _Split] = Field(min_length=1)
    image_suffixes: tuple[_Ending, ...] = Field(IMAGE_SUFFIXES, min_length=1)
    mask_suffix: _Ending = ".png"
    ignored_ids: _Ids | None = None
    ignored_colors: _Colors = ()
    apply_exif_orientation: bool = True


_KEYS = {
    "classes": ("name", "color", "ids", "colors"),
    "splits": ("images", "masks", "list"),
    "": tuple(_Description.model_fields),
}


def _read_description(root: Path) -> _Description:
    require_folder(root, dataset="your images and masks", holds=f"them and a {FILE}")
    path = root / FILE
    if not path.is_file():
        raise PerpixelError(
            f"{path}: no such file. It describes your images and masks; "
            f"`perpixel data init {root}` proposes one"
        )
    try:
        content = tomllib.loads(path.read_text("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # another encoding; brackets nested too deep
        raise PerpixelError(f"{path}: not a TOML file: {error}") from None
    try:
        return _Description.model_validate(content)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        # A list whose only item is wrong is reported as empty, too; show only the item's error.
        outer = {
            problem["loc"][:depth] for problem in errors for depth in range(len(problem["loc"]))
        }
        messages = [_message(problem) for problem in errors if problem["loc"] not in outer]
        more = f"; and {len(messages) - 5} more" if len(messages) > 5 else ""
        raise PerpixelError(f"{path}: {'; '.join(messages[:5])}{more}") from None


def _message(problem: Any) -> str:
    """Words one of pydantic's errors for someone who wrote TOML."""
    *parents, key = problem["loc"]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"])
    path = path.removeprefix(".")
    keys = _KEYS.get(parents[0] if parents else "", ())
    value = reprlib.repr(problem["input"])
    match problem["type"]:
        case "extra_forbidden":
            return (
                f"unknown key {path}. The keys there are {', '.join(keys)}."
                f"{suggestion(str(key), keys)}"
            )
        case "missing":
            return f"{path} is missing"
        case "model_type" | "dict_type":
            return f"{path} = {value}: should be a table of {', '.join(keys)}"
        case _:
            message = problem["msg"].replace("Tuple", "List").replace("tuple", "list")
            return f"{path} = {value}: {message}"


def _classes_and_mapping(description: _Description) -> tuple[Classes, LabelMapping]:
    names = [item.name for item in description.classes]
    for name, count in Counter(names).items():
        if count > 1:
            raise PerpixelError(f"{count} classes have the name {name!r}; keep one of them")
    color, ids, colors = (_of_all_classes(description, key) for key in ("color", "ids", "colors"))
    palette = color or [values[0] for values in colors] or distinct_palette(len(names))
    if not ids and not colors:
        # A mask's number of channels then decides which of the two is used.
        ids = [(index,) for index in range(len(names))]
        colors = [(value,) for value in color]
    ignored_ids = description.ignored_ids
    if ignored_ids is None:
        is_class = any(IGNORE_INDEX in values for values in ids)
        ignored_ids = (IGNORE_INDEX,) if ids and not is_class else ()
    mapping = LabelMapping(
        ids=_index_of_value(ids, ignored_ids, "ids"),
        colors=_index_of_value(colors, description.ignored_colors, "colors"),
    )
    return Classes(tuple(names), tuple(palette)), mapping


def _of_all_classes(description: _Description, key: str) -> list[Any]:
    """The values of all classes under `key`, or an empty list when no class has it."""
    values = [getattr(item, key) for item in description.classes]
    without = [item.name for item in description.classes if getattr(item, key) is None]
    if 0 < len(without) < len(values):
        raise PerpixelError(
            f"{len(without)} of {len(values)} classes have no {key} ({first_few(without)}): "
            f"give {key} to every class or to none"
        )
    return [] if without else values


def _index_of_value(
    classes: Sequence[Iterable[_Value]], ignored: Iterable[_Value], key: str
) -> dict[_Value, int]:
    """Maps every raw value to its class's index, or to IGNORE_INDEX."""
    items = [(value, index) for index, values in enumerate(classes) for value in values]
    items += [(value, IGNORE_INDEX) for value in ignored]
    for value, count in Counter(value for value, _ in items).items():
        if count > 1:
            raise PerpixelError(
                f"{value} is listed {count} times in the {key} of the classes and ignored_{key}; "
                f"keep one"
            )
    return dict(items)


def _find_pairs(root: Path, description: _Description, name: str, *, complete: bool) -> PairList:
    split, key = description.splits[name], f"splits.{name}"
    images = _path_prefix(root, split.images, f"{key}.images")
    masks = _path_prefix(root, split.masks, f"{key}.masks")
    mask_of = _files_by_stem(root, masks, (description.mask_suffix,), exclude=set())
    # Masks that lie among the images or below them are not images.
    exclude = set(mask_of.values()) if masks.startswith(images) else set()
    image_of = _files_by_stem(root, images, description.image_suffixes, exclude=exclude)
    stems = list(image_of)
    if split.list_file:
        stems = _read_stems(root, split.list_file, f"{key}.list")
    elif not stems:
        raise PerpixelError(
            f"{key}.images: {split.images} holds no images. They end in "
            f"{', '.join(description.image_suffixes)}; image_suffixes changes that"
        )
    unknown = [stem for stem in stems if stem not in image_of]
    if unknown and complete:
        raise PerpixelError(
            f"{key}.list: {len(unknown)} of {len(stems)} lines of {split.list_file} name no "
            f"image in {split.images} ({first_few(unknown)}). A line is an image's path below "
            f"{split.images} without its suffix"
        )
    without = [stem for stem in stems if stem not in mask_of]
    if without and complete:
        raise PerpixelError(
            f"{key}: {len(without)} of {len(stems)} images have no mask "
            f"({first_few(image_of[stem] for stem in without)}); that of the first would be "
            f"{masks}{without[0]}{description.mask_suffix}. Correct mask_suffix or {key}.masks, "
            f"add the masks, or name the images to use in a file with {key}.list"
        )
    return PairList(
        (
            image_of.get(stem) or f"{images}{stem}{description.image_suffixes[0]}",
            mask_of.get(stem) or f"{masks}{stem}{description.mask_suffix}",
        )
        for stem in stems
    )


def _path_prefix(root: Path, text: str, key: str) -> str:
    """The start of the paths of a folder's files: "images/", or "" for `root` itself."""
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts:
        raise PerpixelError(
            f"{key} = {text!r}: write folders relative to the one of {FILE} and below it; "
            f"a link brings in another one"
        )
    if not (root / path).is_dir():
        folders = sorted(child.name for child in root.iterdir() if child.is_dir())
        raise PerpixelError(f"{key} = {text!r}: no such folder; there are {first_few(folders)}")
    return f"{path}/" if path.parts else ""


def _files_by_stem(
    root: Path, prefix: str, suffixes: Sequence[str], *, exclude: set[str]
) -> dict[str, str]:
    """Paths below `root` of the files in a folder that end in one of `suffixes`, by their stem."""
    paths: dict[str, str] = {}
    for file in files_below(root / prefix):
        path, stem = prefix + file, stem_of(file, suffixes)
        if stem is None or path in exclude:
            continue
        if stem in paths:
            raise PerpixelError(
                f"{paths[stem]} and {path} have the same stem, so they would share a mask; rename "
                f"one, or exclude one kind with image_suffixes or mask_suffix"
            )
        paths[stem] = path
    return paths


def _read_stems(root: Path, name: str, key: str) -> list[str]:
    if not (root / name).is_file():
        raise PerpixelError(f"{key} = {name!r}: no such file below {root}")
    stems = [composed(line) for line in read_list(root / name)]
    if not stems:
        raise PerpixelError(f"{key}: {name} names no images")
    return stems
