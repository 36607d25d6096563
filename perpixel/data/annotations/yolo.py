"""Reads YOLO segmentation text: https://docs.ultralytics.com/datasets/segment.

A line is a class's number, then x and y of an outline as fractions of the image. data.yaml names
the classes and, by folder or list file, the images of each split; Roboflow writes ../train/images
for what lies beside it, and paths of other machines are found by their ends.
"""

import posixpath
from collections.abc import Iterator, Mapping
from functools import partial

from pydantic import BaseModel

from perpixel.data.annotations.base import AnnotatedFolder, Annotation, folder_split
from perpixel.data.annotations.drawing import draw_polygons
from perpixel.data.paths import first_few, read_list
from perpixel.errors import PerpixelError


class _DataYaml(BaseModel):
    names: list[str] | dict[int, str]
    path: str = ""
    train: str | list[str] = ""
    val: str | list[str] = ""
    test: str | list[str] = ""


def find(folder: AnnotatedFolder) -> list[str]:
    """Lists the label files of images."""
    return sorted({_label_file(image) for image in folder.image_files}.intersection(folder.files))


def _label_file(image: str) -> str:
    """labels/train/a.txt for images/train/a.jpg; without a folder "images" it lies beside it."""
    return "/labels/".join(f"/{posixpath.splitext(image)[0]}.txt".rsplit("/images/", 1))[1:]


def read(folder: AnnotatedFolder) -> None:
    """Adds the images, annotations and class names of the label files to `folder`.

    An image without a label file shows none of the classes if others in its folder have one.
    """
    yamls = folder.documents_with("names")
    if len(yamls) != 1:
        raise PerpixelError(
            f"{folder.root}: one data.yaml has to name YOLO's classes, as in names: [cat, dog]; "
            f"there are {len(yamls)} ({first_few(yamls)})"
        )
    data = folder.parse(_DataYaml, yamls[0])
    names = data.names if isinstance(data.names, dict) else dict(enumerate(data.names))
    folder.class_names += [names[number] for number in sorted(names)]
    files = set(find(folder))
    label_folders = {posixpath.dirname(file) for file in files}
    for path, split in _splits(folder, data, yamls[0]):
        label = _label_file(path)
        if posixpath.dirname(label) in label_folders:
            image = folder.add_image(path, label, split=split)
            image.annotations.extend(_read_lines(folder, label, names) if label in files else ())


def _splits(folder: AnnotatedFolder, data: _DataYaml, file: str) -> Iterator[tuple[str, str]]:
    """Yields the images that data.yaml names and their split; otherwise all, split by folder."""
    if not data.train and not data.val:
        yield from ((path, folder_split(path)) for path in folder.image_files)
    for split, entries in (("train", data.train), ("val", data.val), ("test", data.test)):
        for entry in filter(None, [entries] if isinstance(entries, str) else entries):
            paths = _images_of_entry(folder, file, f"{data.path}/{entry}", split)
            yield from ((path, split) for path in paths)
            if not paths and split != "test":  # which is often named, and not delivered
                text = f"{entry!r} is no folder or list of images below {folder.root}"
                raise PerpixelError(f"{folder.root / file}: {split}: {text}; correct it there")


def _images_of_entry(folder: AnnotatedFolder, origin: str, entry: str, split: str) -> list[str]:
    """The images in the folder or list that has the longest end of the path `entry`."""
    parts = [part for part in entry.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    for start in range(len(parts)):
        path = posixpath.join(posixpath.dirname(origin), *parts[start:])
        if images := [image for image in folder.image_files if image.startswith(f"{path}/")]:
            return images
        if path.endswith(".txt") and path in folder.files:
            lines = read_list(folder.root / path)
            return [i for line in lines if (i := folder.find_image(line, path, split=split))]
    return []


def _read_lines(
    folder: AnnotatedFolder, file: str, names: Mapping[int, str]
) -> Iterator[Annotation]:
    for line_number, line in enumerate(read_list(folder.root / file), start=1):
        origin = f"{file}: line {line_number}"
        try:
            number, *coordinates = (float(word) for word in line.split())
        except ValueError:
            number, coordinates = -1, []
        if number in names and all(abs(value) <= 2 for value in coordinates):
            draw = partial(draw_polygons, [coordinates], is_normalized=True)
            yield Annotation(names[int(number)], draw, origin)
        else:
            folder.notes["lines of no known class or in pixels, not drawn"].append(origin)
