"""Reads class names from the files that annotation tools export, and knows well-known colors.

The forms, by their tools' documentation: labelmap.txt (CVAT, docs.cvat.ai "Segmentation Mask"),
_classes.csv (Roboflow), class_dict.csv and label_colors.txt (CamVid), dataset.json (nnU-Net,
documentation/dataset_format.md), data.yaml (YOLO), id2label.json (Hugging Face), one name a line.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from perpixel.data.dataset import Classes
from perpixel.data.datasets import ade20k, camvid, cityscapes, pascal_voc
from perpixel.data.mask_values import MaskValues
from perpixel.data.paths import first_few
from perpixel.errors import PerpixelError, UsageError
from perpixel.recipes.base import Color

_FILES = (
    "labelmap.txt", "label_colors.txt", "_classes.csv", "class_dict.csv", "classes.csv",
    "dataset.json", "id2label.json", "classes.json", "classes.txt", "class_names.txt",
    "labels.txt", "codes.txt", "obj.names", "data.yaml", "data.yml", "dataset.yaml",
)  # fmt: skip
"""Names of such files; the first that is there and can be read is used."""

_MIN_COLORS = 3
"""So many colors of a well-known data set, beside black and white, are no coincidence."""


@dataclass(frozen=True)
class ClassNames:
    """Class names, with the ids and colors that masks have for them where the file says so."""

    origin: str
    """The file's name, for messages."""
    names: tuple[str, ...]
    ids: tuple[int, ...] | None = None
    colors: tuple[Color, ...] | None = None
    is_explicit: bool = False
    """Whether the user named the file or listed the names."""

    def __post_init__(self) -> None:
        if not self.names or not all(self.names):
            raise PerpixelError(f"{self.origin}: holds no class names, or an empty one")
        for value, count in Counter((*(self.ids or ()), *(self.colors or ()))).items():
            if count > 1:
                raise PerpixelError(f"{self.origin}: {value} has more than one name")
        if any(max(color) > 255 for color in self.colors or ()):
            raise PerpixelError(f"{self.origin}: colors are numbers from 0 to 255")

    @property
    def in_order(self) -> tuple[str, ...]:
        """The names in the order of their ids; raises PerpixelError unless those are 0, 1, ..."""
        ids = self.ids or range(len(self.names))
        if sorted(ids) != list(range(len(self.names))):
            raise PerpixelError(
                f"{self.origin}: its ids are {first_few(ids)}; those of a model's outputs are 0 to "
                f"{len(self.names) - 1}"
            )
        return tuple(name for _, name in sorted(zip(ids, self.names, strict=True)))


def parse_names(text: str) -> ClassNames:
    """Returns the names of --names: "road,car,sky", or the path of a file in any known form.

    Raises UsageError for a text that is neither, PerpixelError as `read_names` does.
    """
    if Path(text).is_file():
        return replace(read_names(Path(text)), is_explicit=True)
    names = tuple(name.strip() for name in text.split(","))
    if len(names) < 2 or not all(names):
        raise UsageError(
            f"--names {text}: neither a file nor names with commas between them, as in road,car,sky"
        )
    return ClassNames("--names", names, is_explicit=True)


def find_names(folder: Path, files: Iterable[str]) -> tuple[ClassNames | None, list[str]]:
    """Finds class names in `files`, paths below `folder`; notes say which files are not used."""
    notes: list[str] = []
    # Deeper ones belong to something else; each split may have its own copy.
    near = [file for file in files if file.count("/") <= 2]
    for name in _FILES:
        tables: list[ClassNames] = []
        for file in (file for file in near if PurePosixPath(file).name.lower() == name):
            try:
                tables.append(replace(read_names(folder / file), origin=file))
            except PerpixelError as error:
                notes.append(f"not used for class names: {error}")
        if any(replace(table, origin=tables[0].origin) != tables[0] for table in tables):
            paths = first_few(table.origin for table in tables)
            notes.append(f"not used for class names: {paths}: they differ; --names FILE picks one")
        elif tables:
            return tables[0], notes
    return None, notes


def read_names(path: Path) -> ClassNames:
    """Reads class names from a text, CSV, JSON or YAML file.

    Raises PerpixelError naming the file when it holds none in a known form.
    """
    try:
        text = path.read_text("utf-8-sig")
        match path.suffix.lower():
            case ".json":
                return _names_of_table(str(path), json.loads(text))
            case ".yaml" | ".yml":
                return _names_of_table(str(path), yaml.load(text, Loader=yaml.BaseLoader))
            case _:
                return _names_of_text(str(path), text)
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise PerpixelError(f"{path}: holds no class names in a known form ({error})") from None


def _names_of_table(origin: str, content: Any) -> ClassNames:
    """A list of names, names by id, or ids by name; under "names" or "labels", if there."""
    table = content
    if isinstance(content, dict):
        table = content.get("names", content.get("labels", content))
    if not isinstance(table, dict | list):
        raise ValueError(f"{type(table).__name__} where names are expected")
    rows: list[tuple[int, str]] = []
    for key, value in table.items() if isinstance(table, dict) else enumerate(table):
        is_name = isinstance(value, str) and str(key).isdecimal()
        id_, name = (int(key), value) if is_name else (value, key)
        if type(id_) is not int or not isinstance(name, str):
            raise ValueError(f"{json.dumps(value)[:60]} is neither a name nor an id")
        rows.append((id_, name.strip()))
    rows.sort()
    ids = tuple(id_ for id_, _ in rows)
    # YOLO's polygons have no background, so that masks made of them may hold its ids plus 1; with
    # `masks_dir` the ids are those of masks (docs.ultralytics.com/datasets/semantic).
    are_positions = isinstance(table, list) or "names" in content
    if are_positions and "masks_dir" not in content and ids == tuple(range(len(ids))):
        return ClassNames(origin, tuple(name for _, name in rows))
    return ClassNames(origin, tuple(name for _, name in rows), ids)


def _names_of_text(origin: str, text: str) -> ClassNames:
    """A line is a name, perhaps with its id or color before or after it."""
    lines = [line.strip() for line in text.splitlines()]
    rows = [_split_line(line) for line in lines if line and not line.startswith("#")]
    numbers = [[int(field) for field in row if field.isdecimal()] for row in rows]
    is_header = len(rows) > 1 and not numbers[0] and len(rows[0]) == len(rows[1])
    if is_header and (numbers[1] or re.fullmatch(r"(?i)(class|label|name)s?", rows[0][0])):
        rows, numbers = rows[1:], numbers[1:]
    # LabelMe lists the name for unlabeled pixels first; it has no index.
    if rows and rows[0] == ["__ignore__"]:
        rows, numbers = rows[1:], numbers[1:]
    for row, row_numbers in zip(rows, numbers, strict=True):
        count = len(row_numbers)
        if count not in (0, 1, 3) or count != len(numbers[0]) or len(row) != count + 1:
            raise ValueError(f"{' '.join(row)!r} is not one name, or not like the other lines")
    names = tuple(field for row in rows for field in row if not field.isdecimal())
    ids = tuple(row[0] for row in numbers if len(row) == 1)
    colors = tuple((row[0], row[1], row[2]) for row in numbers if len(row) == 3)
    return ClassNames(origin, names, ids or None, colors or None)


def _split_line(line: str) -> list[str]:
    # In labelmap.txt parts and actions follow: name:r,g,b:parts:actions
    line = re.sub(r"^([^:]+:\s*\d+,\s*\d+,\s*\d+):.*", r"\1", line)
    fields = re.split(r"[,;:=\t]|(?<=\d)\s", line)
    return [field.strip(" \"'") for field in fields if field.strip(" \"'")]


# --- Well-known colors ---------------------------------------------------------------------------


def recognize(values: MaskValues) -> ClassNames | None:
    """Finds the data set of whose colors those of the masks are a part; None for none or several.

    Where masks have a palette, the names are those of its indices. With few of the data set's
    classes, the images are a part of it, or another one in its colors: others are not named then.
    """
    indices = values.color_of_index
    used = {*indices.values()} or {(v[0], v[1], v[2]) for v in values.pixels if len(v) == 3}
    tables = _known_colors()
    fitting = [title for title, names in tables.items() if used <= names.keys()]
    # VOC's and CamVid's colors overlap; VOC's palette has them at VOC's indices.
    voc = pascal_voc.CLASSES.palette
    if indices and all(voc[i : i + 1] == (color,) for i, color in indices.items()):
        fitting = ["PASCAL VOC"]
    if len(used - {(0, 0, 0), (255, 255, 255)}) < _MIN_COLORS or len(fitting) != 1:
        return None
    origin = f"{fitting[0]}'s colors, which are used for other classes, too"
    names = tables[fitting[0]]
    if 2 * len(used) < len(names):
        names = {color: name for color, name in names.items() if color in used}
    if not indices:
        return ClassNames(origin, tuple(names.values()), colors=tuple(names))
    index_of = {color: index for index, color in reversed([*enumerate(values.palette or ())])}
    shown = {index_of[color]: color for color in names if color in index_of} | {**indices}
    ids = sorted(shown)
    return ClassNames(origin, tuple(names[shown[i]] for i in ids), tuple(ids))


def _known_colors() -> dict[str, dict[Color, str]]:
    """The names of the classes of well-known data sets by color."""
    black = (0, 0, 0)
    release = _names_by_color(black, camvid.RELEASE_CLASSES)
    return {
        "PASCAL VOC": _names_by_color(pascal_voc.VOID_COLOR, pascal_voc.CLASSES),
        "Cityscapes": _names_by_color(black, cityscapes.CLASSES, cityscapes.OTHER_CLASSES),
        "CamVid": release | _names_by_color(black, camvid.CLASSES) | release,
        "ADE20K": _names_by_color(black, ade20k.CLASSES),
    }


def _names_by_color(void: Color, *parts: Classes) -> dict[Color, str]:
    names: dict[Color, str] = {}
    for part in parts:
        for name, color in zip(part.names, part.palette, strict=True):
            # Two of ADE20K's classes have one color.
            names[color] = f"{names[color]} or {name}" if color in names else name
    return {**names, void: "void"}
