"""Reads LabelMe JSON, one file per image: wkentaro/labelme, labelme/_label_file.py.

The areas of shapes are those of labelme/_utils/_shape.py; lines and points have none. Classes
are in the order of the alphabet; as in LabelMe's examples, "__ignore__" has no label.
"""

import base64
import math
from functools import partial
from io import BytesIO

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict

from perpixel.data.annotations.base import AnnotatedFolder, Annotation, folder_split
from perpixel.data.annotations.drawing import BoolMask, Draw, UndrawableError, draw_polygons
from perpixel.io.images import UNREADABLE, Size


class _Shape(BaseModel):
    model_config = ConfigDict(coerce_numbers_to_str=True)
    label: str
    points: list[tuple[float, float]]
    shape_type: str | None = None
    mask: str | None = None


class _Document(BaseModel):
    imagePath: str
    shapes: list[_Shape]
    imageHeight: int | None = None
    imageWidth: int | None = None


def find(folder: AnnotatedFolder) -> list[str]:
    """Lists the LabelMe files."""
    return folder.documents_with("shapes")


def read(folder: AnnotatedFolder) -> None:
    """Adds the images, annotations and class names of the LabelMe files to `folder`."""
    folder.is_ordered = True
    for file in find(folder):
        document = folder.parse(_Document, file)
        split = folder_split(file)
        path = folder.find_image(document.imagePath, file, split=split)
        if path is None:
            continue
        height, width = document.imageHeight, document.imageWidth
        size = (height, width) if height and width else None
        image = folder.add_image(path, file, split=split, size=size)
        for number, shape in enumerate(document.shapes):
            origin = f"{file}: shape {number}, {shape.label}, {shape.shape_type}"
            image.annotations.append(Annotation(shape.label, _draw(shape), origin))
        folder.class_names = sorted({*folder.class_names, *(s.label for s in document.shapes)})


def _draw(shape: _Shape) -> Draw:
    points: list[tuple[float, float]] = []
    match shape.shape_type or "polygon", shape.points:
        case "polygon", corners:
            points = corners
        case "rectangle", [(x0, y0), (x1, y1)]:
            points = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
        case "circle", [(x, y), (edge_x, edge_y)]:
            radius = math.hypot(edge_x - x, edge_y - y)
            angles = [math.radians(degrees) for degrees in range(360)]
            points = [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles]
        case "mask", [(left, top), _]:
            return partial(_draw_png, shape.mask or "", left, top)
    return partial(draw_polygons, [[value for point in points for value in point]])


def _draw_png(content: str, left: float, top: float, size: Size) -> BoolMask:
    """Draws a PNG in base64 that shows a part of the image, from the pixel (left, top) on."""
    mask = np.zeros(size, np.bool_)
    try:
        with Image.open(BytesIO(base64.b64decode(content)), formats=["PNG"]) as file:
            part = np.asarray(file.convert("L")) > 0
        window = mask[round(top) :, round(left) :][: part.shape[0], : part.shape[1]]
        window[:] = part  # a ValueError where it does not fit
    except UNREADABLE:
        raise UndrawableError("whose masks cannot be decoded or do not fit") from None
    return mask
