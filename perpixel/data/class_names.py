"""Reads class names from the files that annotation tools export, and knows well-known colors.

The forms, by their tools' documentation: labelmap.txt (CVAT, docs.cvat.ai "Segmentation Mask"),
_classes.csv (Roboflow), class_dict.csv and label_colors.txt (CamVid), label_classes.json (Hasty),
meta.json (Supervisely), dataset.json (nnU-Net, documentation/dataset_format.md), data.yaml and
obj.names (YOLO), class_names.txt and labels.txt (LabelMe), and one name a line.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from perpixel.data.dataset import Classes
from perpixel.data.datasets import ade20k, camvid, cityscapes, pascal_voc
from perpixel.data.paths import first_few
from perpixel.errors import PerpixelError, UsageError
from perpixel.recipes.base import Color

_FILES = (
    "labelmap.txt", "label_colors.txt", "_classes.csv", "class_dict.csv", "classes.csv",
    "label_classes.json", "meta.json", "notes.json", "classes.json", "id2label.json",
    "dataset.json",
    "classes.txt", "class_names.txt", "labels.txt", "codes.txt", "obj.names",
    "data.yaml", "data.yml", "dataset.yaml", "dataset.yml",
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
        for values in (self.ids or (), self.colors or ()):
            for value in values:
                if values.count(value) > 1:
                    raise PerpixelError(f"{self.origin}: {value} has more than one name")
        if any(channel > 255 for color in self.colors or () for channel in color):
            raise PerpixelError(f"{self.origin}: a color's channels are 0 to 255")

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
    near = [file for file in files if len(PurePosixPath(file).parts) <= 3]
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
    except (OSError, ValueError) as error:
        raise PerpixelError(f"{path}: cannot be read as UTF-8 text ({error})") from None
    try:
        match path.suffix.lower():
            case ".json":
                rows = _rows_of_json(json.loads(text))
            case ".yaml" | ".yml":
                rows = _rows_of_yaml(yaml.load(text, Loader=yaml.BaseLoader))
            case _:
                rows = _rows_of_text(text)
    except (ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise PerpixelError(f"{path}: holds no class names in a known form ({error})") from None
    # LabelMe lists the name for unlabeled pixels first; it has no index.
    if rows and rows[0] == _Row("__ignore__"):
        rows = rows[1:]
    names = tuple(row.name.strip().strip("\"'") for row in rows)
    ids = tuple(row.id for row in rows if row.id is not None)
    colors = tuple(row.color for row in rows if row.color is not None)
    return ClassNames(
        str(path),
        names,
        ids if len(ids) == len(rows) else None,
        colors if len(colors) == len(rows) else None,
    )


@dataclass(frozen=True)
class _Row:
    name: str
    id: int | None = None
    color: Color | None = None


_RGB = r"(?P<color>\d+[\s,;]+\d+[\s,;]+\d+)"
_FORMS = (
    rf"(?P<name>[^:]+):\s*{_RGB}\s*(?::.*)?",  # labelmap.txt: name:r,g,b:parts:actions
    rf"(?P<id>\d+)\s*[,;\t]\s*(?P<name>[^,;\t]*[^,;\t\d][^,;\t]*)[,;\t]\s*{_RGB}",  # id,name,r,g,b
    rf"(?P<name>[^,;\t]*[^,;\t\d][^,;\t]*)[,;\t]\s*(?P<id>\d+)\s*[,;\t]\s*{_RGB}",  # name,id,r,g,b
    rf"(?P<name>.*?\S)\s*[\s,;]\s*{_RGB}",  # class_dict.csv: name,r,g,b
    rf"{_RGB}[\s,;]+(?P<name>.*\D.*)",  # label_colors.txt: r g b name
    r"(?P<id>\d+)\s*[\s,;:=]\s*(?P<name>.*\D.*)",  # _classes.csv: id, name
    r"(?P<name>.*?\S)\s*[,;:=\t]\s*(?P<id>\d+)",  # name,id
)
_HEADER = r"(?i)(?:.*[^a-z])?(?:class|label|name|value|id|index|r|red)s?(?:[^a-z].*)?"
"""A line with the names of columns."""


def _rows_of_text(text: str) -> list[_Row]:
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    for form in _FORMS:
        matches = [re.fullmatch(form, line) for line in lines]
        if len(matches) > 1 and matches[0] is None and re.fullmatch(_HEADER, lines[0]):
            matches = matches[1:]
        found = [match for match in matches if match is not None]
        if found and len(found) == len(matches):
            return [_row_of_match(match.groupdict()) for match in found]
    if len(lines) == 1 and "," in lines[0]:
        lines = lines[0].split(",")
    if lines and re.fullmatch(r"(?i)class(?:es|[ _]names?)?|labels?|names?", lines[0]):
        lines = lines[1:]
    for line in lines:
        if "," in line or "\t" in line:
            raise ValueError(f"{line!r} is not one name, or not like the other lines")
    return [_Row(line) for line in lines]


def _row_of_match(groups: Mapping[str, str | None]) -> _Row:
    id_, color = groups.get("id"), groups.get("color")
    channels = [int(channel) for channel in re.findall(r"\d+", color or "")]
    return _Row(
        groups["name"] or "",
        None if id_ is None else int(id_),
        (channels[0], channels[1], channels[2]) if channels else None,
    )


_NAME_KEYS = ("name", "title", "class_name", "label")
_ID_KEYS = ("id", "value", "png_index")


def _rows_of_json(content: Any) -> list[_Row]:
    """Names under "labels", "classes", "categories" or "names", or of the whole content."""
    if isinstance(content, dict):
        for key in ("labels", "classes", "categories", "names", "id2label"):
            if key in content:
                return _rows_of_json(content[key])
        items = list(content.items())
        if all(isinstance(value, str) for value in content.values()):
            return [
                _Row(name, id_) for id_, name in sorted((int(key), name) for key, name in items)
            ]
        if all(type(value) is int for value in content.values()):
            return [_Row(name, id_) for id_, name in sorted((id_, name) for name, id_ in items)]
        return [_Row(name, color=_color_of(color)) for name, color in items]
    if not isinstance(content, list):
        raise ValueError(f"{type(content).__name__} where names are expected")
    rows = []
    for item in content:
        if isinstance(item, str):
            rows.append(_Row(item))
            continue
        keys = item if isinstance(item, dict) else {}
        name = next((keys[key] for key in _NAME_KEYS if isinstance(keys.get(key), str)), None)
        if name is None:
            raise ValueError(f"{json.dumps(item)[:60]} has no name")
        id_ = next((keys[key] for key in _ID_KEYS if type(keys.get(key)) is int), None)
        rows.append(_Row(name, id_, _color_of(keys["color"]) if keys.get("color") else None))
    return rows


def _color_of(value: Any) -> Color:
    """Reads [255, 0, 0] or "#ff0000", with or without alpha."""
    if isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6,8}", value):
        value = list(bytes.fromhex(value[1:7]))
    if not isinstance(value, list) or len(value) not in (3, 4) or {*map(type, value)} != {int}:
        raise ValueError(f"{value!r} is neither an id nor a color")
    return value[0], value[1], value[2]


def _rows_of_yaml(content: Any) -> list[_Row]:
    """The value of `names`: a list, or a table by id."""
    names = content.get("names") if isinstance(content, dict) else None
    if not names:
        raise ValueError("no key `names`")
    items = names.items() if isinstance(names, dict) else enumerate(names)
    rows = [_Row(str(name), id=int(index)) for index, name in items]
    # YOLO's polygons have no background, so that masks made of them may hold these ids plus 1;
    # with `masks_dir` the ids are those of masks (docs.ultralytics.com/datasets/semantic).
    if "masks_dir" not in content and [row.id for row in rows] == list(range(len(rows))):
        rows = [replace(row, id=None) for row in rows]
    return rows


# --- Well-known colors ---------------------------------------------------------------------------


def recognize(colors: Iterable[Color], *, indices: Mapping[int, Color]) -> ClassNames | None:
    """Finds the data set of whose colors the masks' `colors` are a part; None for none or several.

    `indices` are the colors of the palette's used indices, empty for masks without a palette.
    """
    used = set(colors)
    tables = [
        table
        for table in _known_tables()
        if used <= {*(table.colors or ())}
        and len(used - {(0, 0, 0), (255, 255, 255)}) >= _MIN_COLORS
    ]
    if len(tables) > 1:  # VOC's and CamVid's overlap; VOC's palette has them at VOC's indices
        voc = pascal_voc.CLASSES.palette
        is_voc = indices and all(voc[i : i + 1] == (color,) for i, color in indices.items())
        if not is_voc and len({table.origin for table in tables}) > 1:
            return None
    if not tables:
        return None
    table = tables[0]
    pairs = list(zip(table.names, table.colors or (), strict=True))
    # With few of its classes, the data is a part of it, or another one in its colors.
    if 2 * len(used) >= len(table.names):
        return table
    return ClassNames(
        table.origin,
        tuple(name for name, color in pairs if color in used),
        colors=tuple(color for _, color in pairs if color in used),
    )


def _known_tables() -> Sequence[ClassNames]:
    black = (0, 0, 0)
    return [
        _known_table("PASCAL VOC", pascal_voc.CLASSES, void=pascal_voc.VOID_COLOR),
        _known_table("Cityscapes", cityscapes.CLASSES, cityscapes.OTHER_CLASSES, void=black),
        _known_table("CamVid", camvid.CLASSES, void=black),
        _known_table("CamVid", camvid.RELEASE_CLASSES, void=black),
        _known_table("ADE20K", ade20k.CLASSES, void=black),
    ]


def _known_table(title: str, *parts: Classes, void: Color) -> ClassNames:
    names: dict[Color, str] = {}
    for part in parts:
        for name, color in zip(part.names, part.palette, strict=True):
            # Two of ADE20K's classes have one color.
            names[color] = f"{names[color]} or {name}" if color in names else name
    names[void] = "void"
    return ClassNames(title, tuple(names.values()), colors=tuple(names))
