"""Images of a data set with their labels, predictions and errors, as data URIs."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from perpixel.data.dataset import Dataset, read_pair, require_classes
from perpixel.data.registry import require_bands
from perpixel.errors import PerpixelError
from perpixel.evaluation.pictures import errors
from perpixel.inference.predictor import Predictor
from perpixel.io.images import Array, Palette, encode_mask, overlay, readable_palette

_MAX_SIDE = 640


@dataclass(frozen=True)
class View:
    """A model's prediction of an image, as data URIs."""

    overlay: str
    prediction: str
    errors: str


@dataclass(frozen=True)
class Sample:
    """An image of the data set, as data URIs, with a view of every model's prediction."""

    name: str
    image: str
    truth_overlay: str
    truth: str
    views: list[View]


def take_samples(
    names: Sequence[str], dataset: Dataset, predictors: Sequence[Predictor]
) -> list[Sample]:
    """Predicts the images of these names with every model.

    Raises PerpixelError for a name that the data set does not have.
    """
    for predictor in predictors:
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
        views = []
        for predictor in predictors:
            mask = predictor.predict(image).mask
            blended, wrong = overlay(image, mask, palette), errors(image, label, mask)
            views.append(View(_uri(blended), _mask_uri(mask, palette), _uri(wrong)))
        truth_overlay, truth = _uri(overlay(image, label, palette)), _mask_uri(label, palette)
        samples.append(Sample(name, _uri(image), truth_overlay, truth, views))
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
