"""Reads LabelMe JSON, one file per image: wkentaro/labelme, labelme/_label_file.py.

The areas of shapes are those of labelme/_utils/_shape.py; lines and points have none. Classes
are in the order of the alphabet; as in LabelMe's examples, "__ignore__" has no label.
"""

import math
from functools import partial

from pydantic import BaseModel, ConfigDict

from perpixel.data.annotations.base import AnnotatedFolder, Annotation, folder_split
from perpixel.data.annotations.drawing import draw_polygons
from perpixel.errors import PerpixelError


class _Shape(BaseModel):
    model_config = ConfigDict(coerce_numbers_to_str=True)
    label: str
    points: list[tuple[float, float]]
    shape_type: str | None = None


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
            outline = _outline(shape, f"{folder.root}/{origin}")
            draw = partial(draw_polygons, [[value for point in outline for value in point]])
            image.annotations.append(Annotation(shape.label, draw, origin))
        folder.class_names = sorted({*folder.class_names, *(s.label for s in document.shapes)})


def _outline(shape: _Shape, origin: str) -> list[tuple[float, float]]:
    """The points around a shape; none for one without an area.

    Raises PerpixelError for other shapes with an area, which would become background.
    """
    match shape.shape_type or "polygon", shape.points:
        case "polygon", points:
            return points
        case "rectangle", [(x0, y0), (x1, y1)]:
            return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
        case "circle", [(x, y), (edge_x, edge_y)]:
            radius = math.hypot(edge_x - x, edge_y - y)
            angles = [math.radians(degrees) for degrees in range(360)]
            return [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles]
        case (("point" | "points" | "line" | "linestrip"), _):
            return []
    raise PerpixelError(
        f"{origin}: only polygons, rectangles of two points and circles can be drawn; convert this "
        f"shape to a polygon in the tool that made it"
    )
