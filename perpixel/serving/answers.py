"""Encodes a prediction as an HTTP response: a PNG mask, JSON or run lengths."""

import base64
import re
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from perpixel.inference.predictor import Result
from perpixel.io.images import encode_mask, hex_color

Format = Literal["png", "json", "rle"]

MEDIA_TYPES: dict[Format, str] = {
    "png": "image/png",
    "json": "application/json",
    "rle": "application/vnd.perpixel.rle+json",
}


class RunLengths(BaseModel):
    """COCO's uncompressed run lengths: the pixels column by column, runs outside and inside the
    class in alternation, the first outside. `size` is [height, width].
    """

    size: tuple[int, int]
    counts: list[int]


class Area(BaseModel):
    """One class of the model, and how much of the image it covers.

    `color` is "#rrggbb"; `share` is the fraction of the image's pixels, 0..1. `rle` is the class's
    region, for classes in the image if run lengths were requested.
    """

    index: int
    name: str
    color: str
    pixels: int
    share: float
    rle: RunLengths | None = None


class Segmentation(BaseModel):
    """The classes of an image. `mask` is the PNG of class indices that `predict` writes, in base64;
    absent if run lengths were requested.
    """

    width: int
    height: int
    classes: list[Area]
    mask: str | None = None


def encode(result: Result, format: Format) -> bytes:
    """Returns the body of a response in `format`."""
    if format == "png":
        return encode_mask(result.mask, result.palette)
    height, width = result.mask.shape
    counts = np.bincount(result.mask.ravel(), minlength=len(result.class_names)).tolist()
    areas = [
        Area(
            index=index,
            name=name,
            color=hex_color(color),
            pixels=counts[index],
            share=counts[index] / result.mask.size,
        )
        for index, (name, color) in enumerate(zip(result.class_names, result.palette, strict=True))
    ]
    segmentation = Segmentation(width=width, height=height, classes=areas)
    if format == "json":
        mask = encode_mask(result.mask, result.palette)
        segmentation.mask = base64.b64encode(mask).decode()
    else:
        for area in filter(lambda area: area.pixels, areas):
            area.rle = run_lengths(result.mask == area.index)
    return segmentation.model_dump_json(exclude_none=True).encode()


def run_lengths(inside: npt.NDArray[np.bool_]) -> RunLengths:
    """Returns the run lengths of a region, bool [height, width]."""
    pixels = np.concatenate([[False], inside.ravel(order="F")])
    changes = np.flatnonzero(pixels[1:] != pixels[:-1])
    counts = np.diff(changes, prepend=0, append=inside.size)
    height, width = inside.shape
    return RunLengths(size=(height, width), counts=counts.tolist())


def choose_format(accept: str) -> Format | None:
    """Returns the format with the highest quality in an Accept header, PNG before JSON; None if the
    header accepts none.

    RFC 9110, 12.5.1: of the media ranges that cover a format, the most specific one counts.
    """
    qualities = {}
    for media_range in accept.lower().split(","):
        name, _, parameters = media_range.partition(";")
        quality = re.search(r"(?:^|;)\s*q=([01](?:\.\d{0,3})?)\s*(?:;|$)", parameters)
        qualities[name.strip()] = min(float(quality[1]), 1.0) if quality else 1.0

    def quality_of(format: Format) -> float:
        media = MEDIA_TYPES[format]
        ranges = (media, media.partition("/")[0] + "/*", "*/*")
        return next((qualities[name] for name in ranges if name in qualities), 0.0)

    best = max(MEDIA_TYPES, key=quality_of)
    return best if quality_of(best) > 0 else None
