"""A user's own images and masks, described by a dataset.toml in the folder that holds them.

The shortest description. Masks hold the classes' positions, 0 and 1, and 255 where there is no
label; the mask of train/images/sub/a.jpg is train/masks/sub/a.png:

    classes = ["background", "building"]

    [splits.train]
    images = "train/images"
    masks = "train/masks"

All there is to say:

    image_suffixes = ["_rgb.jpg"]       # how image files end; default: in any known format
    mask_suffix = "_mask.png"           # what masks have in its place; default: ".png"
    ignored_ids = [0, 255]              # mask values without a class; default: 255, if no class's
    ignored_colors = [[255, 255, 255]] # the same for RGB masks; default: none
    classes = [
      { name = "road", color = [128, 64, 128], ids = [7, 8] },
      { name = "car", color = [0, 0, 142], ids = [26] },
    ]
    [splits.train]
    images = "images"
    masks = "masks"
    list = "train.txt"                  # one stem ("sub/a") per line; default: every image

`color` is for display and, by default, the class's color in RGB masks too; without it a palette
is generated. `ids` are what single-channel masks hold for the class, `colors` what RGB masks do,
as in colors = [[0, 0, 142], [0, 0, 70]]. Each of the three is given to all classes or to none.
"""

import os
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
from perpixel.data.paths import first_few, read_list, require_folder, require_split
from perpixel.errors import PerpixelError
from perpixel.io.images import IMAGE_SUFFIXES, distinct_palette
from perpixel.recipes.base import Color, Spec
from perpixel.recipes.overrides import suggestion
from perpixel.recipes.schema import IGNORE_INDEX

FILE = "dataset.toml"

_Value = TypeVar("_Value", bound=int | Color)


def open_folder(root: Path, split: str, *, complete: bool = True) -> PairDataset:
    """The pairs of `split` as ROOT/dataset.toml describes them, in the order of its list or name.

    Raises UsageError for a split it does not have, PerpixelError, naming the file and the key, for
    whatever in it is not as it should be, and for images without masks; with `complete` false
    those are listed with the masks they should have.
    """
    described = _described(root)
    require_split(split, described.splits, dataset=str(root / FILE))
    try:
        classes, table = _classes_and_table(described)
        files = _pairs(root, described, split, complete=complete)
    except PerpixelError as error:
        raise PerpixelError(f"{root / FILE}: {error}") from None
    return PairDataset(root, files, classes, table)


def splits_of_folder(root: Path) -> tuple[str, ...]:
    """The splits that ROOT/dataset.toml describes; raises PerpixelError as `open_folder` does."""
    return tuple(_described(root).splits)


def lists_of_folder(root: Path) -> list[Path]:
    """The list files that ROOT/dataset.toml names and that are there."""
    lists = {split.listing for split in _described(root).splits.values() if split.listing}
    return [root / name for name in sorted(lists) if (root / name).is_file()]


def files_below(folder: Path, *, above: frozenset[str] = frozenset()) -> list[str]:
    """The files in `folder` and its sub-folders, links followed, hidden ones left out; sorted.

    A link to a folder that it lies in is left out, too: `above` are the real paths of those. Raises
    PerpixelError for a folder that cannot be listed.
    """
    real = os.path.realpath(folder)
    if real in above:
        return []
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:
        raise PerpixelError(f"{folder}: cannot be listed ({error.strerror})") from None
    found: list[str] = []
    for entry in entries:
        # os.path's answer, too, for a link that leads nowhere: no folder.
        if os.path.isdir(entry) if entry.is_symlink() else entry.is_dir():
            below = files_below(folder / entry.name, above=above | {real})
            found += [f"{entry.name}/{file}" for file in below]
        else:
            found.append(entry.name)
    return sorted(found)


def stem_of(path: str, suffixes: Iterable[str]) -> str | None:
    """`path` less the longest of `suffixes` that it ends in, in upper or lower case; or None.

    In Unicode's NFC, as macOS stores some names decomposed.
    """
    lowered = path.lower()
    fitting = [suffix for suffix in suffixes if lowered.endswith(suffix.lower())]
    return composed(path[: -len(max(fitting, key=len))]) if fitting else None


def composed(name: str) -> str:
    """`name` with each letter and its accents as one character (Unicode's NFC)."""
    return unicodedata.normalize("NFC", name)


def _ending(text: str) -> str:
    _, dot, kind = text.rpartition(".")
    if not dot or not kind.isalnum():
        raise ValueError("write the whole ending, such as '.png' or '_mask.png'")
    return text


_Text = Annotated[str, Field(min_length=1)]
_Ending = Annotated[str, AfterValidator(_ending)]
# One id or color may stand without the list around it.
_Ids = Annotated[
    tuple[Annotated[int, Field(ge=0, lt=2**16)], ...],
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


# A name alone is a class, too.
_Named = Annotated[
    _Class, BeforeValidator(lambda value: {"name": value} if isinstance(value, str) else value)
]


class _Split(Spec):
    images: _Text
    masks: _Text
    listing: _Text | None = Field(None, alias="list")


class _Description(Spec):
    classes: tuple[_Named, ...] = Field(min_length=1, max_length=IGNORE_INDEX - 1)
    splits: dict[str, _Split] = Field(min_length=1)
    image_suffixes: tuple[_Ending, ...] = Field(IMAGE_SUFFIXES, min_length=1)
    mask_suffix: _Ending = ".png"
    ignored_ids: _Ids | None = None
    ignored_colors: _Colors = ()


_KEYS = {
    "classes": ("name", "color", "ids", "colors"),
    "splits": ("images", "masks", "list"),
    "": tuple(_Description.model_fields),
}


def _described(root: Path) -> _Description:
    require_folder(root, dataset="your images and masks", holds=f"them and a {FILE}")
    path = root / FILE
    if not path.is_file():
        raise PerpixelError(
            f"{path}: no such file. It describes your images and masks; "
            f"`perpixel data init {root}` proposes one"
        )
    try:
        told = tomllib.loads(path.read_text("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # another encoding; brackets without end
        raise PerpixelError(f"{path}: not a TOML file: {error}") from None
    try:
        return _Description.model_validate(told)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        # A list whose only item is wrong counts as empty, too; the item's error is the one to see.
        inner = {one["loc"][:depth] for one in errors for depth in range(len(one["loc"]))}
        problems = [_problem(one) for one in errors if one["loc"] not in inner]
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise PerpixelError(f"{path}: {'; '.join(problems[:5])}{more}") from None


def _problem(error: Any) -> str:
    """What pydantic says of one key, in the words of someone who wrote TOML."""
    *parents, key = error["loc"]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"])
    where = where.removeprefix(".")
    known = _KEYS.get(parents[0] if parents else "", ())
    given = reprlib.repr(error["input"])
    match error["type"]:
        case "extra_forbidden":
            keys = f"The keys there are {', '.join(known)}."
            return f"unknown key {where}. {keys}{suggestion(str(key), known)}"
        case "missing":
            return f"{where} is missing"
        case "model_type" | "dict_type":
            return f"{where} = {given}: should be a table of {', '.join(known)}"
        case _:
            message = error["msg"].removeprefix("Value error, ")
            message = message.replace("Tuple", "List").replace("tuple", "list")
            return f"{where} = {given}: {message}"


def _classes_and_table(described: _Description) -> tuple[Classes, LabelMapping]:
    names = [one.name for one in described.classes]
    for name, count in Counter(names).items():
        if count > 1:
            raise PerpixelError(f"{count} classes have the name {name!r}; keep one of them")
    color, ids, colors = (_of_all(described, key) for key in ("color", "ids", "colors"))
    palette = color or [several[0] for several in colors] or distinct_palette(len(names))
    if not ids and not colors:
        # The mask files themselves then tell which of the two applies.
        ids = [(position,) for position in range(len(names))]
        colors = [(one,) for one in color]
    ignored = described.ignored_ids
    if ignored is None:
        ignored = (
            () if not ids or any(IGNORE_INDEX in several for several in ids) else (IGNORE_INDEX,)
        )
    table = LabelMapping(
        ids=_indices(ids, ignored, "ids"),
        colors=_indices(colors, described.ignored_colors, "colors"),
    )
    return Classes(tuple(names), tuple(palette)), table


def _of_all(described: _Description, key: str) -> list[Any]:
    """What every class has under `key`, or an empty list when none has it."""
    values = [getattr(one, key) for one in described.classes]
    without = [one.name for one in described.classes if getattr(one, key) is None]
    if 0 < len(without) < len(values):
        raise PerpixelError(
            f"{len(without)} of {len(values)} classes have no {key} ({first_few(without)}): "
            f"give {key} to every class or to none"
        )
    return [] if without else values


def _indices(
    classes: Sequence[Iterable[_Value]], ignored: Iterable[_Value], kind: str
) -> dict[_Value, int]:
    """From every raw value to its class's position in `classes`, or to IGNORE_INDEX."""
    owned = [(value, index) for index, several in enumerate(classes) for value in several]
    owned += [(value, IGNORE_INDEX) for value in ignored]
    for value, count in Counter(value for value, _ in owned).items():
        if count > 1:
            raise PerpixelError(
                f"{value} is listed {count} times in the {kind} of the classes and ignored_{kind}; "
                f"keep one"
            )
    return dict(owned)


def _pairs(root: Path, described: _Description, name: str, *, complete: bool) -> PairList:
    split, where = described.splits[name], f"splits.{name}"
    images = _prefix(root, split.images, f"{where}.images")
    masks = _prefix(root, split.masks, f"{where}.masks")
    mask_of = _by_stem(root, masks, (described.mask_suffix,), set())
    # Masks that lie among the images or below them are not images.
    taken = set(mask_of.values()) if masks.startswith(images) else set()
    image_of = _by_stem(root, images, described.image_suffixes, taken)
    stems = list(image_of)
    if split.listing:
        stems = _listed(root, split.listing, f"{where}.list")
    elif not stems:
        raise PerpixelError(
            f"{where}.images: {split.images} holds no images. They end in "
            f"{', '.join(described.image_suffixes)}; image_suffixes changes that"
        )
    unknown = [stem for stem in stems if stem not in image_of]
    if unknown and complete:
        raise PerpixelError(
            f"{where}.list: {len(unknown)} of {len(stems)} lines of {split.listing} name no "
            f"image in {split.images} ({first_few(unknown)}). A line is an image's path below "
            f"{split.images} without its suffix"
        )
    bare = [stem for stem in stems if stem not in mask_of]
    if bare and complete:
        raise PerpixelError(
            f"{where}: {len(bare)} of {len(stems)} images have no mask "
            f"({first_few(image_of[stem] for stem in bare)}); that of the first would be "
            f"{masks}{bare[0]}{described.mask_suffix}. Correct mask_suffix or {where}.masks, "
            f"add the masks, or name the images to use in a file with {where}.list"
        )
    return PairList(
        (
            image_of.get(stem) or f"{images}{stem}{described.image_suffixes[0]}",
            mask_of.get(stem) or f"{masks}{stem}{described.mask_suffix}",
        )
        for stem in stems
    )


def _prefix(root: Path, text: str, where: str) -> str:
    """What stands before the names of a folder's files: "images/", or "" for `root` itself."""
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts:
        raise PerpixelError(
            f"{where} = {text!r}: write folders relative to the one of {FILE} and below it; "
            f"a link brings in another one"
        )
    if not (root / path).is_dir():
        there = sorted(child.name for child in root.iterdir() if child.is_dir())
        raise PerpixelError(f"{where} = {text!r}: no such folder; there are {first_few(there)}")
    return f"{path}/" if path.parts else ""


def _by_stem(root: Path, prefix: str, suffixes: Sequence[str], taken: set[str]) -> dict[str, str]:
    """Paths below `root` of the files in a folder that end in one of `suffixes`, by their stem."""
    found: dict[str, str] = {}
    for file in files_below(root / prefix):
        path, stem = prefix + file, stem_of(file, suffixes)
        if stem is None or path in taken:
            continue
        if stem in found:
            raise PerpixelError(
                f"{found[stem]} and {path} have the same stem, so that their masks cannot be told "
                f"apart; rename one, or leave one kind out with image_suffixes or mask_suffix"
            )
        found[stem] = path
    return found


def _listed(root: Path, name: str, where: str) -> list[str]:
    if not (root / name).is_file():
        raise PerpixelError(f"{where} = {name!r}: no such file below {root}")
    stems = [composed(line) for line in read_list(root / name)]
    if not stems:
        raise PerpixelError(f"{where}: {name} names no images")
    return stems
