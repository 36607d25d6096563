"""A user's own images and masks, described by a dataset.toml in the folder that holds them.

The shortest description. Masks hold the class indices 0 and 1, and 255 for unlabeled pixels; the
mask of train/images/sub/a.jpg is train/masks/sub/a.png:

    classes = ["background", "building"]

    [splits.train]
    images = "train/images"
    masks = "train/masks"

All keys:

    image_suffixes = ["_rgb.jpg"]       # endings of image files; default: every known format's
    mask_suffix = "_mask.png"           # the ending of mask files, or several; default: ".png"
    image_prefix = "image_"             # how the names of all images start; default: ""
    mask_prefix = "mask_"               # the same for masks
    ignored_ids = [0, 255]              # ignored mask values; default: 255, unless a class has it
    ignored_colors = [[255, 255, 255]] # the same for RGB masks; default: none
    read_palette_as = "colors"          # what a mask with a palette gives; default: "indices"
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
    list = "train.txt"                  # names images, one per line; default: every image

A split of several folders is an array of tables, [[splits.train]] for each, which may share a list
and may have image_suffixes, mask_suffix, image_prefix and mask_prefix of their own. A list's lines
are stems ("sub/a") or paths, with or without endings (perpixel/data/split_lists.py).

`color` is for display and, by default, the class's color in RGB masks, too. Without it, or where
`colors` look alike, a palette is generated. `ids` are the class's values in single-channel masks,
`colors` those in RGB masks, as in colors = [[0, 0, 142], [0, 0, 70]]. Either all classes have one
of these keys or none has.
"""

import os
import re
import reprlib
import tomllib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from perpixel.data.dataset import Classes, LabelMapping, PairDataset
from perpixel.data.pair_list import Pair, PairList
from perpixel.data.paths import composed, first_few, require_folder
from perpixel.data.split_lists import NO_IMAGE, ImageNames
from perpixel.errors import PerpixelError
from perpixel.io.images import IMAGE_SUFFIXES, MAX_ID, MIN_ID, distinct_palette, readable_palette
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
    classes, mapping = classes_of_folder(root)
    try:
        files = _find_pairs(root, description, split, complete=complete)
    except PerpixelError as error:
        raise PerpixelError(f"{root / FILE}: {error}") from None
    return PairDataset(
        root,
        files,
        classes,
        mapping,
        read_palette_as=description.read_palette_as,
        input=DatasetInput(bands=description.bands, mean=description.mean, std=description.std),
        apply_exif_orientation=description.apply_exif_orientation,
    )


def classes_of_folder(root: Path) -> tuple[Classes, LabelMapping]:
    """The classes in ROOT/dataset.toml and their values; raises PerpixelError as `open_folder`."""
    description = _read_description(root)
    try:
        return _classes_and_mapping(description)
    except PerpixelError as error:
        raise PerpixelError(f"{root / FILE}: {error}") from None


def splits_of_folder(root: Path) -> tuple[str, ...]:
    """The splits in ROOT/dataset.toml; raises PerpixelError as `open_folder` does."""
    return tuple(_read_description(root).splits)


def lists_of_folder(root: Path) -> list[Path]:
    """The list files that ROOT/dataset.toml names and that exist."""
    splits = _read_description(root).splits.values()
    lists = {table.list_file for tables in splits for table in tables}
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


def stem_of(path: str, suffixes: Iterable[str], prefix: str = "") -> str | None:
    """Returns `path` without the longest of `suffixes` it ends in, in any case; None without one.

    Its name must start with `prefix`, which is left out, too. The stem is composed (Unicode's NFC),
    as macOS stores some names decomposed.
    """
    lowered = path.lower()
    matches = [suffix for suffix in suffixes if lowered.endswith(suffix.lower())]
    start = path.rfind("/") + 1
    if not matches or not path.startswith(prefix, start):
        return None
    return composed(path[:start] + path[start + len(prefix) : -len(max(matches, key=len))])


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


# A single value needs no list around it.
_Endings = Annotated[
    tuple[_Ending, ...],
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    Field(min_length=1),
]


class _Naming(Spec):
    image_suffixes: _Endings = IMAGE_SUFFIXES
    mask_suffix: _Endings = (".png",)
    image_prefix: str = ""
    mask_prefix: str = ""


class _Table(_Naming):
    """A folder of images and one of masks; names are as in the description, unless it says so."""

    images: _Text
    masks: _Text
    list_file: _Text | None = Field(None, alias="list")


_Split = Annotated[
    tuple[_Table, ...],
    BeforeValidator(lambda value: value if isinstance(value, list) else [value]),
    Field(min_length=1),
]


class _Description(_Naming, DatasetInput):
    classes: tuple[_NamedClass, ...] = Field(min_length=1, max_length=IGNORE_INDEX - 1)
    splits: dict[str, _Split] = Field(min_length=1)
    ignored_ids: _Ids | None = None
    ignored_colors: _Colors = ()
    read_palette_as: Literal["indices", "colors"] | None = None
    apply_exif_orientation: bool = True


_KEYS = {
    "classes": ("name", "color", "ids", "colors"),
    "splits": ("images", "masks", "list", *_Naming.model_fields),
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
        messages = [_message(problem, content) for problem in errors if problem["loc"] not in outer]
        more = f"; and {len(messages) - 5} more" if len(messages) > 5 else ""
        raise PerpixelError(f"{path}: {'; '.join(messages[:5])}{more}") from None


def _message(problem: Any, content: Any) -> str:
    """Words one of pydantic's errors for someone who wrote `content` as TOML."""
    *parents, key = problem["loc"]
    path = ""
    for part in problem["loc"]:
        if isinstance(part, str):
            path += f".{part}"
            content = content.get(part) if isinstance(content, dict) else None
        elif isinstance(content, list):  # a single value has no list around it
            path += f"[{part}]"
            content = content[part] if part < len(content) else None
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
    palette = tuple(color) or readable_palette(tuple(values[0] for values in colors))
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
    return Classes(tuple(names), palette or distinct_palette(len(names))), mapping


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


@dataclass(frozen=True)
class _Files:
    """The files of one table of a split."""

    key: str
    table: _Table
    images: str
    """The start of the images' paths below the root: "images/", or ""."""
    masks: str
    image_of: Mapping[str, str]
    """Paths below the root, by stem."""
    mask_of: Mapping[str, str]

    def new_pair(self, name: str) -> Pair:
        """The paths that image and mask of a stem, or of a file's name, would have."""
        table = self.table
        name = name.removeprefix("./").lstrip("/").removeprefix(self.images)
        stem = stem_of(name, table.image_suffixes, table.image_prefix) or name
        folder, slash, last = stem.rpartition("/")
        folder += slash
        return (
            f"{self.images}{folder}{table.image_prefix}{last}{table.image_suffixes[0]}",
            f"{self.masks}{folder}{table.mask_prefix}{last}{table.mask_suffix[0]}",
        )


def _find_pairs(root: Path, description: _Description, name: str, *, complete: bool) -> PairList:
    tables = _find_files(root, description, name)
    pairs: list[Pair] = []
    for list_file in dict.fromkeys(files.table.list_file for files in tables):
        group = [files for files in tables if files.table.list_file == list_file]
        pairs += _pairs_of_list(root, list_file, group, complete=complete)
    return PairList(pairs)


def _find_files(root: Path, description: _Description, name: str) -> list[_Files]:
    """Finds the files of every table of a split. Masks are not images, wherever they lie."""
    tables = description.splits[name]
    files_of_tables: list[_Files] = []
    for index, table in enumerate(tables):
        key = f"splits.{name}" if len(tables) == 1 else f"splits.{name}[{index}]"
        unset = _Naming.model_fields.keys() - table.model_fields_set
        table = table.model_copy(update={field: getattr(description, field) for field in unset})
        images = _path_prefix(root, table.images, f"{key}.images")
        masks = _path_prefix(root, table.masks, f"{key}.masks")
        mask_of = _files_by_stem(root, masks, table.mask_suffix, table.mask_prefix)
        files_of_tables.append(_Files(key, table, images, masks, {}, mask_of))
    for index, files in enumerate(files_of_tables):
        below = [other for other in files_of_tables if other.masks.startswith(files.images)]
        exclude = {mask for other in below for mask in other.mask_of.values()}
        naming = files.table.image_suffixes, files.table.image_prefix
        image_of = _files_by_stem(root, files.images, *naming, exclude=exclude)
        files_of_tables[index] = replace(files, image_of=image_of)
    return files_of_tables


def _pairs_of_list(
    root: Path, list_file: str | None, tables: Sequence[_Files], *, complete: bool
) -> list[Pair]:
    """The pairs in the folders of `tables` that a list names, or all of them without one."""
    stems: dict[str, str] = {}
    masks: dict[str, str] = {}
    owners: dict[str, _Files] = {}
    for files in tables:
        for stem, image in files.image_of.items():
            # Tables may share a folder of images, each with the masks of some of them.
            has_mask = image in owners and stems[image] in owners[image].mask_of
            if image not in owners or (stem in files.mask_of and not has_mask):
                stems[image], owners[image] = stem, files
                masks[image] = files.mask_of.get(stem) or files.new_pair(stem)[1]
        if not list_file and not files.image_of:
            prefix = files.table.image_prefix
            raise PerpixelError(
                f"{files.key}.images: {files.table.images} holds no images. They "
                f"{f'start with {prefix} and ' if prefix else ''}end in "
                f"{', '.join(files.table.image_suffixes)}; image_suffixes changes that"
            )
    images: Sequence[str] = list(stems)
    pairs: list[Pair] = []
    if list_file:
        images, missing = _read_images(root, list_file, tables, ImageNames(stems, masks), complete)
        pairs = [tables[0].new_pair(name) for name in missing]
    without = [image for image in images if stems[image] not in owners[image].mask_of]
    if without and complete:
        key = owners[without[0]].key
        raise PerpixelError(
            f"{key}: images have no mask: {len(without)} of {len(images)} ({first_few(without)}); "
            f"that of the first would be {masks[without[0]]}. Correct mask_suffix or {key}.masks, "
            f"add the masks, or name the images to use in a file with {key}.list"
        )
    return [(image, masks[image]) for image in images] + pairs


def _read_images(
    root: Path, list_file: str, tables: Sequence[_Files], names: ImageNames, complete: bool
) -> tuple[Sequence[str], list[str]]:
    """Reads a list: the images, and, unless `complete`, the names of those that do not exist."""
    key = f"{tables[0].key}.list"
    if not (root / list_file).is_file():
        raise PerpixelError(f"{key} = {list_file!r}: no such file below {root}")
    listed = names.read(root, list_file)
    if not listed.num_lines:
        raise PerpixelError(f"{key}: {list_file} names no images")
    wrong = [line for line in listed.unused if complete or line.reason != NO_IMAGE]
    if wrong:
        folders = first_few(files.table.images for files in tables)
        raise PerpixelError(
            f"{key}: {len(wrong)} of {listed.num_lines} lines of {list_file} cannot be used: "
            f"{first_few(wrong)}. A line is an image's path below {folders} or the root, with or "
            f"without its suffix, and perhaps its mask's"
        )
    return listed.images, [line.name for line in listed.unused]


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
    root: Path,
    folder: str,
    suffixes: Sequence[str],
    prefix: str,
    *,
    exclude: Collection[str] = (),
) -> dict[str, str]:
    """Paths below `root` of the files in a folder that have such names, by their stem."""
    paths: dict[str, str] = {}
    for file in files_below(root / folder):
        path, stem = folder + file, stem_of(file, suffixes, prefix)
        if stem is None or path in exclude:
            continue
        if stem in paths:
            raise PerpixelError(
                f"{paths[stem]} and {path} have the same stem, so they would share a mask; rename "
                f"one, or exclude one kind with image_suffixes or mask_suffix"
            )
        paths[stem] = path
    return paths
