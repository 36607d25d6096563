"""Images of a data set with their labels, predictions and errors, as data URIs."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from perpixel.data.dataset import Dataset, read_pair, require_classes
from perpixel.data.registry import require_bands
from perpixel.errors import PerpixelError
from perpixel.evaluation.visualization import errors
from perpixel.inference.predictor import Predictor
from perpixel.io.images import Array, Palette, encode_mask, overlay, readable_palette

_MAX_SIDE = 640


@dataclass(frozen=True)
class Sample:
    """An image of the data set; `views` are (title, data URI)."""

    name: str
    views: list[tuple[str, str]]


def take_samples(
    names: Sequence[str], dataset: Dataset, predictors: Mapping[str, Predictor]
) -> list[Sample]:
    """Predicts the images of these names with every model, by its name.

    Raises PerpixelError for a name that the data set does not have.
    """
    for predictor in predictors.values():
        require_classes(dataset, predictor.class_names)
        require_bands(predictor.recipe, dataset)
    index_of = {dataset.sample_id(index): index for index in range(len(dataset))}
    unknown = [name for name in names if name not in index_of]
    if unknown:
        raise PerpixelError(
            f"images.csv names {unknown[0]!r}, which this split of the data set does not have: "
            f"name what was evaluated with --dataset and --split"
        )
    palette = readable_palette(dataset.classes.palette)
    samples = []
    for name in names:
        image, label = read_pair(dataset, index_of[name])
        views = [
            ("Image", _uri(image)),
            ("Truth on the image", _uri(overlay(image, label, palette))),
            ("Truth", _mask_uri(label, palette)),
        ]
        for model, predictor in predictors.items():
            mask = predictor.predict(image).mask
            of_model = f" of {model}" if len(predictors) > 1 else ""
            views += [
                (f"Prediction{of_model} on the image", _uri(overlay(image, mask, palette))),
                (f"Prediction{of_model}", _mask_uri(mask, palette)),
                (f"Errors{of_model}", _uri(errors(image, label, mask))),
            ]
        samples.append(Sample(name, views))
    return samples


def _mask_uri(mask: Array, palette: Palette) -> str:
    small = _thumbnail(mask, Image.Resampling.NEAREST)
    return _data_uri("png", encode_mask(np.asarray(small), palette))


def _uri(image: Array) -> str:
    content = io.BytesIO()
    _thumbnail(image, Image.Resampling.BOX).save(content, "JPEG")
    return _data_uri("jpeg", content.getvalue())


def _thumbnail(image: Array, resampling: Image.Resampling) -> Image.Image:
    file = Image.fromarray(image)
    file.thumbnail((_MAX_SIDE, _MAX_SIDE), resampling)
    return file


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
