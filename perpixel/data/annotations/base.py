"""What the readers of all formats share: a folder's files, and its images with annotations."""

import json
import posixpath
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from perpixel.data.annotations.drawing import Draw
from perpixel.data.datasets.folder import files_below
from perpixel.data.pairing import split_of
from perpixel.data.paths import composed
from perpixel.errors import PerpixelError
from perpixel.io.images import IMAGE_SUFFIXES, Size

IGNORED = "__ignore__"  # the class of pixels without a label in LabelMe's examples

_Parsed = TypeVar("_Parsed", bound=BaseModel)


@dataclass(frozen=True)
class Annotation:
    """A class and where it is; `origin` names the annotation in messages."""

    class_name: str
    draw: Draw
    origin: str


@dataclass(frozen=True)
class AnnotatedImage:
    """An image, and its annotations in the order of the annotation file `origin`."""

    path: str
    origin: str
    split: str
    """"train", "val", "test", or "" where no name says it."""
    size: Size | None
    """Height and width as the annotation file says."""
    annotations: list[Annotation] = field(default_factory=list)


class AnnotatedFolder:
    """The files below `root`, as paths relative to it, and what a reader finds in them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = files_below(root)
        self.image_files = [file for file in self.files if file.lower().endswith(IMAGE_SUFFIXES)]
        self.images: dict[str, AnnotatedImage] = {}  # by path without suffix, as for their masks
        self.class_names: list[str] = []  # in the order of the format, some of them repeated
        self.is_ordered = False  # whether later annotations cover earlier ones, or small ones large
        # What was not drawn: a kind, such as "annotations ..., not drawn", and its cases.
        self.notes: defaultdict[str, list[str]] = defaultdict(list)
        self.documents = {
            file: self._load(file)
            for file in self.files
            if file.lower().endswith((".json", ".yaml", ".yml"))
        }
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for path in self.image_files:
            self._by_name[composed(posixpath.basename(path))].append(path)

    def _load(self, file: str) -> Any:
        content = (self.root / file).read_bytes()
        try:
            if not file.lower().endswith(".json"):  # values as text: YAML's "no" would be a False
                return yaml.load(content, Loader=yaml.BaseLoader)
            document = json.loads(content)
        except (ValueError, RecursionError, yaml.YAMLError) as error:
            text = " ".join(str(error).split())
            raise PerpixelError(f"{self.root / file}: cannot be read ({text})") from None
        if isinstance(document, dict):
            document.pop("imageData", None)  # LabelMe's copies of images would fill the memory
        return document

    def documents_with(self, *keys: str) -> list[str]:
        """Lists the JSON and YAML files that have these keys."""
        items = self.documents.items()
        return [file for file, item in items if isinstance(item, dict) and item.keys() >= {*keys}]

    def parse(self, model: type[_Parsed], file: str) -> _Parsed:
        """Validates a document; the error names the file and the first wrong value's place."""
        try:
            return model.model_validate(self.documents[file])
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, problem["loc"]))
            raise PerpixelError(f"{self.root / file}: {place}: {problem['msg']}") from None

    def find_image(self, name: str, origin: str, *, split: str) -> str | None:
        """The image that the file `origin` calls `name`, from its folder or anywhere, if any."""
        name = composed(name.replace("\\", "/"))
        paths = self._by_name[posixpath.basename(name)]
        beside = posixpath.normpath(posixpath.join(posixpath.dirname(origin), name))
        path = beside if beside in paths else self.choose(paths, origin, split=split)
        if path is None:
            self.notes["annotated images that are not there"].append(f"{name} in {origin}")
        return path

    def choose(self, paths: Sequence[str], origin: str, *, split: str) -> str | None:
        """Of `paths` the one in folders of `split`, or of none; an error if there are several."""
        paths = [path for path in paths if not split or folder_split(path) in ("", split)]
        paths = [path for path in paths if folder_split(path) == split] or paths
        if len(paths) > 1:
            examples = f"{paths[0]} or to {paths[1]}; move one of them elsewhere"
            raise PerpixelError(f"{self.root / origin}: may belong to {examples}")
        return paths[0] if paths else None

    def add_image(
        self, path: str, origin: str, *, split: str, size: Size | None = None
    ) -> AnnotatedImage:
        """Adds an image; raises PerpixelError for a second one that would have the same mask."""
        image = AnnotatedImage(path, origin, split or folder_split(path), size)
        other = self.images.setdefault(posixpath.splitext(path)[0], image)
        if other is not image:
            raise PerpixelError(
                f"{self.root}: {other.path} ({other.split} in {other.origin}) and {path} "
                f"({image.split} in {origin}) would have the same mask; leave one of them out"
            )
        return image


def folder_split(path: str) -> str:
    """The split that a file's folders name; an image called train_7.jpg may show a train."""
    return split_of(posixpath.dirname(path))
