"""Images to look at: each with its truth, predictions and errors, as data URIs."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from perpixel.data.dataset import Dataset, read_pair, require_classes
from perpixel.errors import PerpixelError
from perpixel.inference.predictor import Predictor
from perpixel.io.images import Array, Palette, palette_table
from perpixel.recipes.schema import IGNORE_INDEX

_LONGEST_SIDE = 480
_WRONG = (225, 30, 45)
_UNLABELLED = (40, 44, 52)


@dataclass(frozen=True)
class Sample:
    """An image of the data set, as data URIs. `views` has (prediction, errors) of every model."""

    name: str
    image: str
    truth: str
    views: list[tuple[str, str]]


def worst_and_best(mious: Mapping[str, float | None], count: int) -> tuple[list[str], list[str]]:
    """Names of the `count` images of the lowest and of the highest mIoU, none in both."""
    known = sorted((value, name) for name, value in mious.items() if value is not None)
    names = [name for _, name in known]
    worst = names[: min(count, (len(names) + 1) // 2)]
    return worst, names[len(worst) :][::-1][:count]


def take_samples(
    names: Sequence[str], dataset: Dataset, predictors: Sequence[Predictor]
) -> list[Sample]:
    """The images called so, as every model sees them. Raises PerpixelError for an unknown one."""
    for predictor in predictors:
        require_classes(dataset, predictor.class_names)
    places = {dataset.sample_id(index): index for index in range(len(dataset))}
    unknown = [name for name in names if name not in places]
    if unknown:
        raise PerpixelError(
            f"images.csv names {unknown[0]!r}, which this split of the data set does not have: "
            f"name what was evaluated with --dataset and --split"
        )
    found = []
    for name in names:
        image, label = read_pair(dataset, places[name])
        views = []
        for predictor in predictors:
            seen = predictor.predict(image).mask
            views.append((_map(seen, predictor.palette), _image(errors(image, label, seen))))
        truth = _map(label, dataset.classes.palette)
        found.append(Sample(name, _image(image), truth, views))
    return found


def errors(image: Array, label: Array, prediction: Array) -> Array:
    """The image in pale gray, uint8 [H, W, 3]: red where it is wrong, dark without a label."""
    gray = 120 + image.mean(axis=2, keepdims=True) / 2
    shown = np.repeat(gray, 3, axis=2).astype(np.uint8)
    shown[label != prediction] = _WRONG
    shown[label == IGNORE_INDEX] = _UNLABELLED
    return shown


def _map(classes: Array, palette: Palette) -> str:
    file = Image.fromarray(classes)
    file.putpalette(palette_table(palette).tobytes())
    file = file.resize(_shown_size(file), Image.Resampling.NEAREST)
    return _data_uri(file, "PNG")


def _image(image: Array) -> str:
    file = Image.fromarray(image)
    return _data_uri(file.resize(_shown_size(file), Image.Resampling.BOX), "JPEG")


def _shown_size(file: Image.Image) -> tuple[int, int]:
    """(width, height), shrunk to the longest side, never upsampled."""
    factor = min(1.0, _LONGEST_SIDE / max(file.size))
    return max(round(file.width * factor), 1), max(round(file.height * factor), 1)


def _data_uri(file: Image.Image, kind: Literal["JPEG", "PNG"]) -> str:
    content = io.BytesIO()
    file.save(content, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"
