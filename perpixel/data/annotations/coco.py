"""Reads COCO JSON: https://cocodataset.org/#format-data; `segmentation` is polygons or RLE.

A file's name or folder says its split: COCO's annotations/instances_train2017.json, Roboflow's
train/_annotations.coco.json; CVAT's annotations/instances_default.json says none. Crowds (iscrowd)
are drawn as their class, and categories of several files are joined by their names.
"""

from functools import partial

from pydantic import BaseModel, ConfigDict

from perpixel.data.annotations.base import AnnotatedFolder, Annotation
from perpixel.data.annotations.drawing import Draw, draw_polygons, draw_rle
from perpixel.data.pairing import split_of
from perpixel.errors import PerpixelError


class _Item(BaseModel):
    model_config = ConfigDict(coerce_numbers_to_str=True)
    id: str


class _Image(_Item):
    file_name: str
    height: int | None = None
    width: int | None = None


class _Category(_Item):
    name: str


class _Rle(BaseModel):
    size: tuple[int, int]
    counts: list[int] | str


class _Annotation(_Item):
    image_id: str
    category_id: str
    segmentation: list[list[float]] | _Rle | None = None


class _Document(BaseModel):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


def find(folder: AnnotatedFolder) -> list[str]:
    """Lists the COCO files; captions and lists of images have other keys."""
    return folder.documents_with("images", "annotations", "categories")


def read(folder: AnnotatedFolder) -> None:
    """Adds the images, annotations and class names of the COCO files to `folder`."""
    for file in find(folder):
        match folder.documents[file]["annotations"]:
            case [{"segments_info": _}, *_]:
                raise PerpixelError(
                    f"{folder.root / file}: panoptic annotations, whose PNGs hold segments, not "
                    f"classes; panopticapi's panoptic2semantic_segmentation.py makes masks of them"
                )
        document = folder.parse(_Document, file)
        names = {category.id: category.name for category in document.categories}
        folder.class_names += names.values()
        split, images = split_of(file), {}
        for item in document.images:
            path = folder.find_image(item.file_name, file, split=split)
            size = (item.height, item.width) if item.height and item.width else None
            images[item.id] = path and folder.add_image(path, file, split=split, size=size)
        if len(names) < len(document.categories) or len(images) < len(document.images):
            raise PerpixelError(f"{folder.root / file}: two images or categories have the same id")
        for annotation in document.annotations:
            origin = f"{file}: annotation {annotation.id}"
            name, image = names.get(annotation.category_id), images.get(annotation.image_id)
            if name is None or annotation.image_id not in images:
                folder.notes["annotations of no known image or class, not drawn"].append(origin)
            elif image:
                match annotation.segmentation:
                    case _Rle(size=size, counts=counts):
                        draw: Draw = partial(draw_rle, size, counts)
                    case outlines:  # None for a box alone
                        draw = partial(draw_polygons, outlines or [])
                image.annotations.append(Annotation(name, draw, origin))
