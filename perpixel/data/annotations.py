"""Reads annotations that are no masks: COCO, LabelMe and YOLO files, and one mask per class.

The formats, as their owners describe or write them:

- COCO JSON: https://cocodataset.org/#format-data; `segmentation` is a list of polygons, or RLE.
  Roboflow writes train/_annotations.coco.json, CVAT annotations/instances_default.json.
- LabelMe JSON, one file per image: wkentaro/labelme, labelme/_label_file.py and _utils/_shape.py;
  X-AnyLabeling adds shapes of four corners.
- YOLO text: https://docs.ultralytics.com/datasets/segment, paths as ultralytics/data/utils.py
  resolves them (check_det_dataset, img2label_paths).
- A mask per class and image; Label Studio's "Brush labels to PNG" names the files
  task-ID-annotation-ID-by-USER-TAG-LABEL-NUMBER.png (label_studio_converter/brush.py), and only
  its JSON export says which image a task shows (HumanSignal/label-studio, issue 8561).
"""

import base64
import json
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import numpy as np
import yaml
from PIL import Image
from pydantic import BaseModel, ValidationError

from perpixel.data.datasets.folder import composed, files_below
from perpixel.data.paths import first_few, read_list
from perpixel.data.regions import Bitmap, ClassMask, Polygons, Region, Rle
from perpixel.errors import PerpixelError
from perpixel.io.images import IMAGE_SUFFIXES, Array, decode_image
from perpixel.recipes.overrides import require_known

FORMATS = ("coco", "labelme", "yolo", "masks")

Remarks = defaultdict[str, list[str]]
"""What the user should know: a kind, such as "annotations ..., not drawn", and its cases."""

EMBEDDED = "perpixel-images"
"""The folder for images that LabelMe keeps in its JSON and that lie nowhere else."""

_Parsed = TypeVar("_Parsed", bound=BaseModel)


@dataclass(frozen=True)
class Annotation:
    """A region of a class; `class_name` None means that its pixels have no label."""

    class_name: str | None
    region: Region
    origin: str
    """Its name in messages: file and number."""


@dataclass(frozen=True)
class AnnotatedImage:
    """An image with its annotations, in the order of the file."""

    path: str
    """Below the root."""
    split: str
    """"train", "val", "test", or "" where no name says it."""
    origin: str
    """The annotation file, below the root."""
    size: tuple[int | None, int | None] = (None, None)
    """Height and width as the annotation file says."""
    annotations: list[Annotation] = field(default_factory=list)
    is_embedded: bool = False
    """Whether the image is in the annotation file, and `path` does not exist yet."""


@dataclass(frozen=True)
class Annotations:
    """All that was read."""

    format: str
    """"COCO", "LabelMe", "YOLO", or "a mask per class"."""
    images: tuple[AnnotatedImage, ...]
    class_names: tuple[str, ...]
    """In the order of the format; background is not in it unless it is annotated."""
    in_file_order: bool = False
    """Whether later annotations cover earlier ones; otherwise small ones cover large ones."""


def read_annotations(root: Path, remarks: Remarks, *, only: str | None) -> Annotations:
    """Reads the annotations below `root`, of the format `only` (one of FORMATS), or of any.

    Adds to `remarks` what is left out. Raises UsageError for an unknown format, PerpixelError when
    there are no annotations, those of several formats, or malformed ones.
    """
    if only is not None:
        require_known(only, FORMATS, f"--format {only}: there is no such format")
    files = files_below(root)
    images = _ImageIndex(file for file in files if file.lower().endswith(IMAGE_SUFFIXES))
    documents = _read_json(root, files) if only in (None, "coco", "labelme", "masks") else {}
    yolo = (file for file in map(_label_file, images.paths) if _is_label_file(root, file))
    by_format = {
        "coco": [file for file, content in documents.items() if _is_coco(content)],
        "labelme": [file for file, content in documents.items() if _is_labelme(content)],
        "yolo": list(islice(yolo, 1)),
    }
    found = [name for name in FORMATS if by_format.get(name)]
    if only is None and len(found) > 1:
        examples = ", ".join(f"{name} ({by_format[name][0]})" for name in found)
        raise PerpixelError(
            f"{root}: holds annotations of several formats: {examples}. Name one of them, as in "
            f"--format {found[0]}"
        )
    if not images.paths and "labelme" not in found:
        raise PerpixelError(
            f"{root}: holds no images. Name the folder that holds them and their annotations; a "
            f"link in it brings in another folder"
        )
    chosen = only or next(iter(found), "masks")
    used = {file: documents[file] for file in by_format.get(chosen, []) if file in documents}
    if chosen != "masks" and (unused := sorted(documents.keys() - used.keys())):
        remarks[f"JSON files without {chosen} annotations, not used"] += unused
    match chosen:
        case "coco" if used:
            annotations = _read_coco(root, images, used, remarks)
        case "labelme" if used:
            annotations = _read_labelme(root, images, used, remarks)
        case "yolo" if by_format["yolo"]:
            annotations = _read_yolo(root, images, files, remarks)
        case "masks":
            annotations = _read_class_masks(root, images, documents, remarks)
        case name:
            raise PerpixelError(f"{root}: holds no {name} annotations{_json_text(documents)}")
    if not annotations.images:
        text = "; ".join(remark_lines(remarks))
        raise PerpixelError(
            f"{root}: none of the annotated images is there: {text}. Name the folder that holds "
            f"them and their annotations; a link in it brings in another folder"
        )
    return annotations


def remark_lines(remarks: Remarks) -> list[str]:
    """Words the remarks, a line for each kind, with the first few cases."""
    return [f"{kind}: {len(cases)} ({first_few(cases)})" for kind, cases in remarks.items()]


# --- Files and names -----------------------------------------------------------------------------

_SPLIT = re.compile(r"(?<![a-z])(train|val|test)(?:ing|idation|id)?(?![a-z])", re.IGNORECASE)


def _split_of(path: str) -> str:
    """The split that the last word for one in a path names: "val" for "a/valid"."""
    words = _SPLIT.findall(path)
    return words[-1].lower() if words else ""


def _folder_split(path: str) -> str:
    """The split that a file's folders name; an image called train_7.jpg may show a train."""
    return _split_of(posixpath.dirname(path))


def _stem(path: str) -> str:
    return posixpath.splitext(path)[0]


def _class_name(name: object, origin: str) -> str:
    """A class name on one line; raises PerpixelError for one that a text file cannot hold."""
    text = " ".join(str(name).split())
    if not text or not text.isprintable():
        raise PerpixelError(f"{origin}: {name!r} is no name for a class; name it there")
    return "background" if text.strip("_").casefold() == "background" else text


def _note_equal_names(names: Iterable[str], remarks: Remarks) -> None:
    if equal := [name for name, count in Counter(names).items() if count > 1]:
        remarks["names that several classes have: one class"] += equal


class _ImageIndex:
    """Finds the images that annotations name."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = tuple(paths)
        self._by_path = {composed(path): path for path in self.paths}
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for path in self._by_path:
            self._by_name[posixpath.basename(path).casefold()].append(path)

    def at(self, name: str, folder: str) -> str | None:
        """The image at `name`, as seen from `folder` or from the root; Windows' paths, too."""
        name = composed(name.replace("\\", "/"))
        for path in (posixpath.join(folder, name), name):
            if found := self._by_path.get(posixpath.normpath(path)):
                return found
        return None

    def find(self, name: str, folder: str, *, split: str, origin: str) -> str | None:
        """The image at `name`, or else the only one below the root with its file name.

        Of several, the one in the folder of `split`, or with more of the path. Raises
        PerpixelError when they are equally good.
        """
        if found := self.at(name, folder):
            return found
        parts = composed(name.replace("\\", "/")).casefold().split("/")
        paths = self._by_name.get(parts[-1], [])

        def rank(path: str) -> tuple[bool, int]:
            ends = zip(reversed(path.casefold().split("/")), reversed(parts), strict=False)
            common = next((n for n, (a, b) in enumerate(ends) if a != b), len(parts))
            return split != "" and _folder_split(path) == split, common

        best = [path for path in paths if rank(path) == max(map(rank, paths))]
        if len(best) > 1:
            raise PerpixelError(
                f"{origin}: names the image {name!r}, of which there are several "
                f"({first_few(best)}); move the others elsewhere"
            )
        return self._by_path[best[0]] if best else None


def _read_json(root: Path, files: Sequence[str]) -> dict[str, Any]:
    """Reads all JSON files; the images that LabelMe embeds are left out, as they are large."""
    documents: dict[str, Any] = {}
    for file in files:
        if file.lower().endswith(".json"):
            documents[file] = content = _load_json(root / file)
            if isinstance(content, dict) and isinstance(content.get("imageData"), str):
                content["imageData"] = content["imageData"][:1]
    return documents


def _load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # ValueError: another encoding, too
        raise PerpixelError(f"{path}: not a JSON file that can be read: {error}") from None


def _json_text(documents: Mapping[str, Any]) -> str:
    """What the JSON files hold instead."""
    if not documents:
        return ""
    file, content = next(iter(documents.items()))
    keys = f"the keys {first_few(content)}" if isinstance(content, dict) else "a list"
    return (
        f". {file} holds {keys}: COCO has images, annotations (not the panoptic ones) and "
        f"categories, LabelMe has shapes; most annotation tools export COCO"
    )


def _parse(model: type[_Parsed], content: object, path: Path) -> _Parsed:
    """Validates a document; the error names the file and the first wrong value's place."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        keys = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]]
        # Parts such as "list[list[float]]" are the alternatives that pydantic tried.
        place = "".join(key for key in keys if re.fullmatch(r"\.[A-Za-z]\w{3,}|\.id|\[\d+\]", key))
        raise PerpixelError(f"{path}: {place.removeprefix('.')}: {problem['msg']}") from None


def _polygons(
    outlines: Iterable[Sequence[float]],
    origin: str,
    remarks: Remarks,
    *,
    is_normalized: bool = False,
) -> Polygons | None:
    """The polygons among x, y, x, y, ...; None without one, and the others in `remarks`."""
    parts = []
    for numbers in outlines:
        points = np.array(numbers, np.float64)
        if points.size % 2:
            remarks["outlines with an odd number of coordinates, not drawn"].append(origin)
        elif points.size < 6:
            remarks["outlines of fewer than 3 points, not drawn"].append(origin)
        elif not np.isfinite(points).all():
            remarks["outlines with NaN or infinite coordinates, not drawn"].append(origin)
        elif is_normalized and np.abs(points).max() > 2:
            remarks["outlines in pixels in place of fractions, not drawn"].append(origin)
        else:
            parts.append(points.reshape(-1, 2))
    return Polygons(tuple(parts), is_normalized) if parts else None


# --- COCO ----------------------------------------------------------------------------------------


class _CocoRle(BaseModel):
    size: tuple[int, int]
    counts: list[int] | str


class _CocoImage(BaseModel):
    id: int | str
    file_name: str
    height: int | None = None
    width: int | None = None


class _CocoAnnotation(BaseModel):
    image_id: int | str
    category_id: int | str
    id: int | str | None = None
    iscrowd: int | None = 0
    segmentation: list[list[float]] | list[float] | _CocoRle | None = None


class _CocoCategory(BaseModel):
    id: int | str
    name: str


class _Coco(BaseModel):
    images: list[_CocoImage]
    annotations: list[_CocoAnnotation]
    categories: list[_CocoCategory]


def _is_coco(content: object) -> bool:
    # Without annotations it is a test set's list of images, without categories COCO's captions,
    # and with segments_info COCO's panoptic format, whose regions are PNG files.
    return (
        isinstance(content, dict)
        and all(isinstance(content.get(k), list) for k in ("images", "annotations", "categories"))
        and not any(isinstance(a, dict) and "segments_info" in a for a in content["annotations"])
    )


def _read_coco(
    root: Path, index: _ImageIndex, documents: Mapping[str, Any], remarks: Remarks
) -> Annotations:
    images: dict[str, AnnotatedImage] = {}
    name_in_file: dict[str, str] = {}
    class_names: dict[str, None] = {}
    names_of_file: dict[str, set[str]] = {}
    for file, content in documents.items():
        coco = _parse(_Coco, content, root / file)
        names = {
            identity: _class_name(category.name, f"{root / file}")
            for identity, category in _by_id(coco.categories, root / file).items()
        }
        class_names |= dict.fromkeys(names.values())
        _note_equal_names(names.values(), remarks)
        names_of_file[file] = set(names.values())
        image_of: dict[str, AnnotatedImage | None] = {}
        for identity, item in _by_id(coco.images, root / file).items():
            split, name = _split_of(file), item.file_name
            path = index.find(name, posixpath.dirname(file), split=split, origin=f"{root / file}")
            image_of[identity] = None
            if path is None:
                kind = "images that annotations name and that are not there, left out"
                remarks[kind].append(f"{name} in {file}")
                continue
            if path not in images:
                split = split or _folder_split(path)
                size = item.height or None, item.width or None
                images[path] = AnnotatedImage(path, split, file, size)
                name_in_file[path] = name
            elif images[path].origin != file or name_in_file[path] != name:
                raise PerpixelError(
                    f"{root / path}: is both {name_in_file[path]!r} in {images[path].origin} and "
                    f"{name!r} in {file}; move one of the two files elsewhere"
                )
            else:
                remarks["images listed twice, their annotations joined"].append(f"{name} in {file}")
            image_of[identity] = images[path]
        for number, annotation in enumerate(coco.annotations):
            origin = f"{file}: annotation {number if annotation.id is None else annotation.id}"
            _add_coco(annotation, origin, image_of, names, remarks)
    if partly := sorted(class_names.keys() - set.intersection(*names_of_file.values())):
        remarks["categories that only some of the COCO files have"] += partly
    return Annotations("COCO", tuple(images.values()), tuple(class_names))


def _add_coco(
    annotation: _CocoAnnotation,
    origin: str,
    image_of: Mapping[str, AnnotatedImage | None],
    names: Mapping[str, str],
    remarks: Remarks,
) -> None:
    image = image_of.get(str(annotation.image_id))
    name = names.get(str(annotation.category_id))
    if str(annotation.image_id) not in image_of:
        kind = "annotations with an image_id that no image has, not drawn"
        remarks[kind].append(f"{origin}: {annotation.image_id!r}")
    elif name is None:
        kind = "annotations with a category_id that no category has, not drawn"
        remarks[kind].append(f"{origin}: {annotation.category_id!r}")
    elif not annotation.segmentation:
        remarks["annotations without a segmentation (a box alone?), not drawn"].append(origin)
    elif image is not None:
        match annotation.segmentation:
            case _CocoRle(size=size, counts=counts):
                region: Region | None = Rle(size, counts)
            case outlines:
                is_flat = not isinstance(outlines[0], list)  # RectLabel's, for one polygon
                parts: Any = [outlines] if is_flat else outlines
                region = _polygons(parts, origin, remarks)
        if region is not None:
            image.annotations.append(Annotation(name, region, origin))
            if annotation.iscrowd:
                remarks["crowds (iscrowd), drawn as their class"].append(origin)


_Item = TypeVar("_Item", _CocoImage, _CocoCategory)


def _by_id(items: Iterable[_Item], path: Path) -> dict[str, _Item]:
    """The items by id; raises PerpixelError when two different ones share one."""
    by_id: dict[str, _Item] = {}
    for item in items:
        other = by_id.setdefault(str(item.id), item)
        if other != item:
            raise PerpixelError(
                f"{path}: the id {item.id!r} stands for two things, {other} and {item}; number "
                f"them anew, together with their annotations"
            )
    return by_id


# --- LabelMe -------------------------------------------------------------------------------------

_IGNORED_LABEL = "__ignore__"
"""What LabelMe's conversion to VOC gives no label (examples/semantic_segmentation/labels.txt)."""

_POLYGONS = ("polygon", "oriented_rectangle", "rotation", "quadrilateral")
"""LabelMe's own, and those that X-AnyLabeling writes with four corners."""


class _Shape(BaseModel):
    label: str | int
    points: list[tuple[float, float]]
    shape_type: str | None = None
    mask: str | None = None


class _LabelMe(BaseModel):
    shapes: list[_Shape]
    imagePath: str | None = None
    imageData: str | None = None
    imageHeight: int | None = None
    imageWidth: int | None = None


def _is_labelme(content: object) -> bool:
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


def _read_labelme(
    root: Path, index: _ImageIndex, documents: Mapping[str, Any], remarks: Remarks
) -> Annotations:
    images: dict[str, AnnotatedImage] = {}
    by_stem = {_stem(path): path for path in index.paths}
    names: set[str] = set()
    for file, content in documents.items():
        document = _parse(_LabelMe, content, root / file)
        named = document.imagePath or f"{posixpath.basename(_stem(file))}.jpg"
        folder, split = posixpath.dirname(file), _folder_split(file)
        path = index.at(named, folder)
        if path is None and (path := by_stem.get(_stem(file))):
            kind = "images found by the name of the LabelMe file, not by the one in it"
            remarks[kind].append(f"{path} for {named}")
        path = path or index.find(named, folder, split=split, origin=f"{root / file}")
        is_embedded = path is None and bool(document.imageData)
        if document.imageData and path is None:
            path = f"{EMBEDDED}/{_stem(file)}.png"
            remarks[f"images that lay in LabelMe files alone, written to {EMBEDDED}/"].append(path)
        if path is None:
            kind = "images that annotations name and that are not there, left out"
            remarks[kind].append(f"{named} in {file}")
            continue
        if path in images:
            raise PerpixelError(
                f"{root / path}: both {images[path].origin} and {file} annotate it; move one of "
                f"the two elsewhere"
            )
        size = document.imageHeight or None, document.imageWidth or None
        image = AnnotatedImage(path, split or _folder_split(path), file, size, [], is_embedded)
        images[path] = image
        for number, shape in enumerate(document.shapes):
            name = None
            if shape.label != _IGNORED_LABEL:
                name = _class_name(shape.label, f"{root / file}: shapes[{number}].label")
                names.add(name)
            origin = f"{file}: shape {number} ({shape.label})"
            region = _labelme_region(shape, origin, remarks)
            if region is not None:
                image.annotations.append(Annotation(name, region, origin))
    without = [path for path in index.paths if path not in images]
    if without:
        remarks["images without a LabelMe file, left out"] += without
    listed: tuple[str, ...] = ()
    if (root / "labels.txt").is_file():  # the list that LabelMe's --labels reads
        listed = read_list(root / "labels.txt")
    order = dict.fromkeys(_class_name(n, "labels.txt") for n in listed if n != _IGNORED_LABEL)
    if order and (extra := sorted(names - order.keys())):
        remarks["labels that labels.txt does not list, as classes after its own"] += extra
    class_names = (*order, *sorted(names - order.keys()))
    return Annotations("LabelMe", tuple(images.values()), class_names, in_file_order=True)


def _labelme_region(shape: _Shape, origin: str, remarks: Remarks) -> Region | None:
    points = np.array(shape.points, np.float64).reshape(-1, 2)
    kind = shape.shape_type or "polygon"
    if not np.isfinite(points).all():
        remarks["outlines with NaN or infinite coordinates, not drawn"].append(origin)
        return None
    match kind, len(points):
        case "rectangle", 2:
            (x0, y0), (x1, y1) = points.tolist()
            outline = [x0, y0, x1, y0, x1, y1, x0, y1]
        case "rectangle", 4:  # X-AnyLabeling's
            outline = points.ravel().tolist()
        case "circle", 2:  # the center and a point of the circle
            radius = np.hypot(*(points[1] - points[0]))
            angles = np.linspace(0, 2 * np.pi, 360, endpoint=False)
            circle = points[0] + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
            outline = circle.ravel().tolist()
        case "mask", 2:
            return _labelme_mask(shape, points, origin, remarks)
        case _ if kind in _POLYGONS:
            outline = points.ravel().tolist()
        case _:
            remarks[
                f"shapes of the type {kind!r} with {len(points)} points, which have no known "
                f"area, not drawn"
            ].append(origin)
            return None
    return _polygons([outline], origin, remarks)


def _labelme_mask(
    shape: _Shape, points: np.ndarray[Any, Any], origin: str, remarks: Remarks
) -> Region | None:
    """A mask that lies in the JSON as a PNG; the first point is its top left pixel."""
    try:
        with Image.open(BytesIO(base64.b64decode(shape.mask or "")), formats=["PNG"]) as file:
            mask = np.asarray(file.convert("L")) > 0
        left, top = (int(value) for value in np.round(points.min(0)).tolist())
    except Exception:  # a corrupt file makes Pillow raise almost anything
        remarks["masks in JSON files that cannot be decoded, not drawn"].append(origin)
        return None
    return Bitmap(top, left, mask)


def embedded_image(path: Path) -> Array:
    """Decodes the image in a LabelMe file, uint8 RGB [height, width, 3].

    Raises CorruptFileError when it cannot be decoded.
    """
    try:
        content = base64.b64decode(_load_json(path)["imageData"])
    except ValueError:
        content = b""
    return decode_image(np.frombuffer(content, np.uint8), origin=f"{path}: imageData")


# --- YOLO ----------------------------------------------------------------------------------------

_NAME_FILES = ("classes.txt", "obj.names")  # Label Studio's and CVAT's


def _label_file(image: str) -> str:
    """labels/train/a.txt for images/train/a.jpg; without a folder "images" it lies beside it."""
    *folders, name = image.split("/")
    for place in reversed(range(len(folders))):
        if folders[place] == "images":
            folders[place] = "labels"
            break
    return "/".join([*folders, f"{_stem(name)}.txt"])


def _is_label_file(root: Path, file: str) -> bool:
    """Whether the file's first line is a class and at least four numbers."""
    try:
        with (root / file).open("rb") as text:
            words = text.readline(10_000).split()
        return len([float(word) for word in words]) >= 5
    except (OSError, ValueError):
        return False


def _read_yolo(
    root: Path, index: _ImageIndex, files: Sequence[str], remarks: Remarks
) -> Annotations:
    description, origin = _read_yaml(root, files)
    existing = set(files)
    label_folders = {
        posixpath.dirname(_label_file(path))
        for path in index.paths
        if _label_file(path) in existing
    }
    if description.keys() & {"train", "val"}:
        split_of = _splits_of_yaml(root, index, description, origin, remarks)
    else:
        split_of = {
            path: _folder_split(path)
            for path in index.paths
            if posixpath.dirname(_label_file(path)) in label_folders
        }
    names = _yolo_names(root, files, description, origin)
    labeled = Counter(split_of[path] for path in split_of if _label_file(path) in existing)
    images = []
    for path, split in split_of.items():
        label = _label_file(path)
        if not labeled[split]:
            remarks["images of splits that have no label file at all, left out"].append(path)
            continue
        image = AnnotatedImage(path, split, label)
        images.append(image)
        if label in existing:
            image.annotations.extend(_read_lines(root / label, label, names, remarks))
        else:
            remarks["images without a label file, all background as in YOLO"].append(path)
    read = {image.origin for image in images} | set(_NAME_FILES)
    for file in files:
        folder, name = posixpath.split(file)
        if name.endswith(".txt") and folder in label_folders and not {file, name} & read:
            remarks["label files without an image, left out"].append(file)
    class_names = list(dict.fromkeys(names.values()))
    _note_equal_names(names.values(), remarks)
    if not names:
        shown = {item.class_name or "" for image in images for item in image.annotations}
        class_names = sorted(shown, key=lambda name: (len(name), name))
        remarks["classes that no data.yaml or classes.txt names"] += class_names
    return Annotations("YOLO", tuple(images), tuple(class_names))


def _read_yaml(root: Path, files: Sequence[str]) -> tuple[dict[str, Any], str]:
    """The data.yaml, or another YAML file that has names, and its path; both empty without one."""
    found: dict[str, dict[str, Any]] = {}
    for file in files:
        if file.lower().endswith((".yaml", ".yml")):
            try:
                # All values as text: in YAML, a class called "no" would be a False.
                content = yaml.load((root / file).read_bytes(), Loader=yaml.BaseLoader)
            except (yaml.YAMLError, ValueError, RecursionError) as error:
                text = " ".join(str(error).split())
                raise PerpixelError(f"{root / file}: not a YAML file: {text}") from None
            if isinstance(content, dict) and "names" in content:
                found[file] = content
    best = [file for file in found if posixpath.basename(file) == "data.yaml"] or list(found)
    if len(best) > 1:
        raise PerpixelError(
            f"{root}: several YAML files name classes: {first_few(best)}; keep one of them here"
        )
    return (found[best[0]], best[0]) if best else ({}, "")


def _splits_of_yaml(
    root: Path,
    index: _ImageIndex,
    description: Mapping[str, Any],
    origin: str,
    remarks: Remarks,
) -> dict[str, str]:
    """The split of every image that data.yaml names: by folder, list file, or several of them."""
    base = posixpath.dirname(origin)
    given = description.get("path")
    bases = [posixpath.join(base, given), base] if isinstance(given, str) else [base]
    split_of: dict[str, str] = {}
    for split in ("train", "val", "test"):
        entries = description.get(split) or []
        for entry in entries if isinstance(entries, list) else [entries]:
            paths = _images_of_entry(root, index, str(entry), bases)
            if paths is None and split == "test":  # often named, and not delivered
                remarks[f"splits that {origin} names and that are not there, left out"].append(
                    f"test = {entry}"
                )
            elif paths is None:
                raise PerpixelError(
                    f"{root / origin}: {split}: {str(entry)!r} is neither a folder of images nor a "
                    f"list of them below {root}; correct it there"
                )
            for path in paths or []:
                if split_of.setdefault(path, split) != split:
                    raise PerpixelError(
                        f"{root / origin}: {path} is in both {split_of[path]} and {split}; correct "
                        f"it there"
                    )
    return split_of


def _images_of_entry(
    root: Path, index: _ImageIndex, entry: str, bases: Sequence[str]
) -> list[str] | None:
    """The images of a value of train, val or test; None when it leads nowhere."""
    entry = entry.replace("\\", "/")
    # Roboflow writes ../train/images for what is beside data.yaml; Ultralytics takes it like that.
    # A path of another machine is looked up by its end.
    entries = [entry, entry.removeprefix("../")]
    is_absolute = entry.startswith("/") or entry[1:2] == ":"
    tails = [entry.split("/", n)[n] for n in range(1, entry.count("/") + 1)] if is_absolute else []
    places = [posixpath.join(base, name) for name in entries for base in bases] + tails
    for path in map(posixpath.normpath, filter(None, places)):
        if path.startswith(("..", "/")):
            continue
        prefix = "" if path == "." else f"{path}/"
        if paths := [image for image in index.paths if image.startswith(prefix)]:
            return paths
        if path.endswith(".txt") and (root / path).is_file():
            listed = []
            for line in read_list(root / path):
                image = index.find(
                    line, posixpath.dirname(path), split=_split_of(path), origin=f"{root / path}"
                )
                if image is None:
                    raise PerpixelError(f"{root / path}: {line!r} is no image below {root}")
                listed.append(image)
            return listed
    return None


def _yolo_names(
    root: Path, files: Sequence[str], description: Mapping[str, Any], origin: str
) -> dict[int, str]:
    """Class names by number; empty when no file has them."""
    names = description.get("names")
    if not origin:
        found = [file for file in files if posixpath.basename(file) in _NAME_FILES]
        if len(found) > 1:
            raise PerpixelError(f"{root}: several files name classes: {first_few(found)}; keep one")
        if not found:
            return {}
        origin, names = found[0], list(read_list(root / found[0]))
    items = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(items, dict) or not all(re.fullmatch(r"\d{1,6}", str(n)) for n in items):
        raise PerpixelError(f"{root / origin}: names: should be a list, or numbers with names")
    numbered = sorted((int(number), name) for number, name in items.items())
    return {number: _class_name(name, f"{root / origin}") for number, name in numbered}


def _read_lines(
    path: Path, file: str, names: Mapping[int, str], remarks: Remarks
) -> Iterator[Annotation]:
    """The outlines in a label file: a class's number, then x and y as fractions of the image."""
    for number, line in enumerate(read_list(path), start=1):
        origin = f"{file}: line {number}"
        try:
            class_number, *numbers = (float(word) for word in line.split())
        except ValueError:
            remarks["lines that hold something else than numbers, not drawn"].append(origin)
            continue
        is_known = class_number in names if names else 0 <= class_number < 1000
        if not is_known or not class_number.is_integer():
            kind = "lines with a class that has no name, not drawn"
            remarks[kind].append(f"{origin}: {class_number:g}")
        elif len(numbers) == 4:
            remarks["boxes (four numbers), which are no outlines, not drawn"].append(origin)
        elif region := _polygons([numbers], origin, remarks, is_normalized=True):
            name = names[int(class_number)] if names else f"class_{int(class_number)}"
            yield Annotation(name, region, origin)


# --- A mask per class and image ------------------------------------------------------------------

_BRUSH = re.compile(r"task-(\d+)-annotation-(\d+)-by-[^-]*-[^-]+-(.+)-\d+\.png")

_MASK_WORD = re.compile(
    r"(?<![a-z])(masks?|labels?|annotations?|gt|ground_?truths?|seg|segmentations?)(?![a-z])",
    re.IGNORECASE,
)

_LOSSY = (".jpg", ".jpeg")

_LAYOUTS = (
    "masks/CLASS/IMAGE.png, IMAGE/CLASS.png, IMAGE_CLASS.png, or Label Studio's "
    "task-1-annotation-2-by-1-tag-CLASS-0.png"
)


def _read_class_masks(
    root: Path, index: _ImageIndex, documents: Mapping[str, Any], remarks: Remarks
) -> Annotations:
    brush = [path for path in index.paths if _BRUSH.fullmatch(posixpath.basename(path))]
    if brush:
        pairs = _match_brush(root, index, brush, documents, remarks)
    else:
        pairs = _match_class_masks(root, index, remarks)
    if not pairs:
        raise PerpixelError(
            f"{root}: found no annotations: no COCO, LabelMe or YOLO files, and no mask for each "
            f"class, which are named {_LAYOUTS}; `perpixel data init` describes masks that hold "
            f"all the classes{_json_text(documents)}"
        )
    names = {name for _, _, name in pairs}
    # "mask_1" is another mask of "mask", if that exists; numbered names alone may be classes.
    merged = {name: re.sub(r"[-_. ]*\d+$", "", name) for name in names}
    merged = {name: short if short in names else name for name, short in merged.items()}
    numbered = Counter(re.sub(r"\d+$", "", name) for name in merged.values() if name[-1:].isdigit())
    if objects := [f"{short}*" for short, count in numbered.items() if count > 1 and short]:
        remarks["classes whose names differ in a number; are these objects of one?"] += objects
    images: dict[str, AnnotatedImage] = {}
    class_names: set[str] = set()
    for path, mask, name in sorted(pairs):
        image = images.setdefault(path, AnnotatedImage(path, _folder_split(path), mask))
        class_name = _class_name(merged[name], f"{root / mask}")
        class_names.add(class_name)
        region = ClassMask(root / mask, is_alpha=bool(brush))
        image.annotations.append(Annotation(class_name, region, mask))
    others = set(index.paths) - {mask for _, mask, _ in pairs} - images.keys()
    if without := sorted(path for path in others if not _in_mask_folder(path)):
        remarks["images without a mask, left out"] += without
    if len(images) > 2 and len(class_names) == len(pairs) > 2 * len(images):
        raise PerpixelError(
            f"{root}: every mask has its own name ({first_few(sorted(class_names))}): these are no "
            f"classes. Masks of objects have to carry the class in their names: {_LAYOUTS}"
        )
    return Annotations("a mask per class", tuple(images.values()), tuple(sorted(class_names)))


def _match_brush(
    root: Path,
    index: _ImageIndex,
    masks: Sequence[str],
    documents: Mapping[str, Any],
    remarks: Remarks,
) -> list[tuple[str, str, str]]:
    """Image, mask and class for the files of Label Studio's brush export."""
    tasks = dict(_label_studio_tasks(documents))
    by_stem = {posixpath.basename(_stem(path)): path for path in index.paths}
    annotations: dict[str, set[str]] = defaultdict(set)
    pairs = []
    for mask in masks:
        match = _BRUSH.fullmatch(posixpath.basename(mask))
        assert match is not None
        task, annotation, name = match.groups()
        annotations[task].add(annotation)
        path = by_stem.get(f"task-{task}")
        for named in tasks.get(task, []):
            path = path or index.find(named, "", split="", origin=f"Label Studio's task {task}")
            # An upload is renamed: "61148fa2-a.jpg" was "a.jpg".
            original = re.sub(r"^[0-9a-f]{8}-", "", named)
            path = path or index.find(original, "", split="", origin=f"task {task}")
        if path is None:
            remarks["masks of Label Studio for which no image is there"].append(mask)
        else:
            pairs.append((path, mask, name))
    several = [task for task, found in annotations.items() if len(found) > 1]
    if several:
        task = several[0]
        raise PerpixelError(
            f"{root}: task {task} has {len(annotations[task])} annotations "
            f"({first_few(sorted(annotations[task]))}); keep the masks of one of them here"
        )
    if not pairs:
        raise PerpixelError(
            f"{root}: the names of Label Studio's masks ({masks[0]}, ...) do not say which image "
            f"they belong to. Export the project as JSON, too, and put that file and the images "
            f"here"
        )
    return pairs


def _label_studio_tasks(documents: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Task numbers and file names in Label Studio's JSON and JSON-MIN."""
    for content in documents.values():
        for item in content if isinstance(content, list) else []:
            if isinstance(item, dict) and "id" in item:
                data = item.get("data")
                values = [item.get("file_upload"), *item.values()]
                values += list(data.values()) if isinstance(data, dict) else []
                # As in "/data/upload/1/61148fa2-a.jpg" and "/data/local-files/?d=folder/a.jpg".
                texts = [unquote(value) for value in values if isinstance(value, str)]
                names = [re.split(r"[/\\=]", text)[-1] for text in texts]
                named = [name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]
                yield str(item["id"]), named


def _match_class_masks(
    root: Path, index: _ImageIndex, remarks: Remarks
) -> list[tuple[str, str, str]]:
    """Image, mask and class for masks whose names or folders have both."""
    masks = {path for path in index.paths if _in_mask_folder(path)}
    # Without a folder of masks they lie among the images, and have longer names.
    order = sorted(index.paths, key=lambda path: (path in masks, path.count("/"), len(path), path))
    images: dict[str, list[str]] = defaultdict(list)
    pairs: list[tuple[str, str, str]] = []
    for path in order:
        is_lossy = path.lower().endswith(_LOSSY)
        may_be_mask = path in masks if masks else not is_lossy
        match = _image_and_class(root, path, images) if may_be_mask else None
        if match is not None:
            pairs.append((match[0], path, match[1]))
        elif path in masks:
            remarks["masks that belong to no image, or name no class, left out"].append(path)
        else:
            images[posixpath.basename(_stem(path))].append(path)
    return pairs


def _in_mask_folder(path: str) -> bool:
    """Whether a folder's name has a word for masks; photos may lie there, too."""
    return bool(_MASK_WORD.search(posixpath.dirname(path))) and not path.lower().endswith(_LOSSY)


def _image_and_class(
    root: Path, mask: str, images: Mapping[str, Sequence[str]]
) -> tuple[str, str] | None:
    """The image and the class of a mask by its name and folders; None if it is no mask."""
    *folders, _ = mask.split("/")
    stem = posixpath.basename(_stem(mask))
    first = next((n for n, name in enumerate(folders) if _MASK_WORD.search(name)), len(folders))

    def last_name(names: Sequence[str]) -> str:
        known = (_MASK_WORD.fullmatch(name) or _SPLIT.fullmatch(name) for name in names)
        own = [name for name, is_known in zip(names, known, strict=True) if not is_known]
        return own[-1] if own else ""

    if stem in images and (name := last_name(folders[first + 1 :])):
        return _nearest(root, mask, images[stem]), name
    if (name := last_name(folders)) in images:
        return _nearest(root, mask, images[name]), stem
    for end in reversed([mark.start() for mark in re.finditer(r"[-_. ]", stem)]):
        name = stem[end:].strip("-_. ")
        if stem[:end] in images and name and not name.isdigit():
            return _nearest(root, mask, images[stem[:end]]), name
    return None


def _nearest(root: Path, mask: str, images: Sequence[str]) -> str:
    """The image of the mask's split that shares most folders with it.

    Raises PerpixelError when two are equally near.
    """

    def rank(path: str) -> tuple[bool, int]:
        pairs = zip(path.split("/")[:-1], mask.split("/")[:-1], strict=False)
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        return _folder_split(path) == _folder_split(mask), shared

    best = [path for path in images if rank(path) == max(map(rank, images))]
    if len(best) > 1:
        raise PerpixelError(
            f"{root / mask}: may belong to {best[0]} or to {best[1]}; move one of them elsewhere"
        )
    return best[0]
