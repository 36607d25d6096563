"""What a segmented image is sent back as: a PNG mask, JSON or run lengths."""

import base64
import re
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from perpixel.inference.predictor import Result
from perpixel.io.images import encode_mask

Format = Literal["png", "json", "rle"]

MEDIA: dict[Format, str] = {
    "png": "image/png",
    "json": "application/json",
    "rle": "application/vnd.perpixel.rle+json",
}


class RunLengths(BaseModel):
    """COCO's uncompressed run lengths: the pixels column by column, first a run outside the class,
    then one inside, and so on by turns. `size` is [height, width].
    """

    size: tuple[int, int]
    counts: list[int]


class Area(BaseModel):
    """One class of the model, and how much of the image it covers.

    `color` is "#rrggbb"; `share` is 0..1 of the image's pixels. `rle` says where a class is
    that the image shows, if run lengths were asked for.
    """

    index: int
    name: str
    color: str
    pixels: int
    share: float
    rle: RunLengths | None = None


class Segmentation(BaseModel):
    """An image's classes. `mask` is `predict`'s PNG of class indices in base64; run lengths take
    its place if they were asked for.
    """

    width: int
    height: int
    classes: list[Area]
    mask: str | None = None


def encode(result: Result, form: Format) -> bytes:
    """The body of an answer in the given format."""
    if form == "png":
        return encode_mask(result.mask, result.palette)
    height, width = result.mask.shape
    counts = np.bincount(result.mask.ravel(), minlength=len(result.class_names)).tolist()
    areas = [
        Area(
            index=index,
            name=name,
            color=color(rgb),
            pixels=counts[index],
            share=counts[index] / result.mask.size,
        )
        for index, (name, rgb) in enumerate(zip(result.class_names, result.palette, strict=True))
    ]
    found = Segmentation(width=width, height=height, classes=areas)
    if form == "json":
        mask = encode_mask(result.mask, result.palette)
        found.mask = base64.b64encode(mask).decode()
    else:
        for area in filter(lambda area: area.pixels, areas):
            area.rle = run_lengths(result.mask == area.index)
    return found.model_dump_json(exclude_none=True).encode()


def run_lengths(inside: npt.NDArray[np.bool_]) -> RunLengths:
    """The run lengths of a region, bool [height, width]."""
    columns = np.concatenate([[False], inside.ravel(order="F")])
    turns = np.flatnonzero(columns[1:] != columns[:-1])
    counts = np.diff(turns, prepend=0, append=inside.size)
    height, width = inside.shape
    return RunLengths(size=(height, width), counts=counts.tolist())


def choose(accept: str) -> Format | None:
    """The format that an Accept header likes best, PNG before JSON; None when it takes none.

    RFC 9110, 12.5.1: of the ranges that cover a format, the most exact one counts.
    """
    ranges = {}
    for part in accept.lower().split(","):
        name, _, parameters = part.partition(";")
        quality = re.search(r"(?:^|;)\s*q=([01](?:\.\d{0,3})?)\s*(?:;|$)", parameters)
        ranges[name.strip()] = min(float(quality[1]), 1.0) if quality else 1.0

    def liking(form: Format) -> float:
        media = MEDIA[form]
        covering = (media, media.partition("/")[0] + "/*", "*/*")
        return next((ranges[each] for each in covering if each in ranges), 0.0)

    best = max(MEDIA, key=liking)
    return best if liking(best) > 0 else None


def color(rgb: tuple[int, int, int]) -> str:
    """A color as "#rrggbb"."""
    return "#" + bytes(rgb).hex()
