"""What an evaluation looks like: errors of a prediction, a sheet of images from worst to best."""

from collections.abc import Mapping

import numpy as np

from perpixel.data.augment import resize
from perpixel.data.dataset import Dataset, read_pair
from perpixel.evaluation.metrics import Scores
from perpixel.inference.predictor import Predictor
from perpixel.io import figures
from perpixel.io.images import Array, colorize
from perpixel.recipes.schema import IGNORE_INDEX

_WRONG = (225, 30, 45)
_UNLABELED = (40, 44, 52)


def worst_and_best(mious: Mapping[str, float | None], count: int) -> tuple[list[str], list[str]]:
    """Returns the names of the `count` images of lowest and of highest mIoU, without overlap."""
    ranking = sorted((miou, name) for name, miou in mious.items() if miou is not None)
    names = [name for _, name in ranking]
    worst = names[: min(count, (len(names) + 1) // 2)]
    return worst, names[len(worst) :][::-1][:count]


def errors(image: Array, label: Array, prediction: Array) -> Array:
    """Returns the image in pale gray, uint8 [H, W, 3]: errors red, unlabeled pixels dark."""
    gray = 120 + image.mean(axis=2, keepdims=True) / 2
    view = np.repeat(gray, 3, axis=2).astype(np.uint8)
    view[label != prediction] = _WRONG
    view[label == IGNORE_INDEX] = _UNLABELED
    return view


def prediction_sheet(predictor: Predictor, dataset: Dataset, scores: Scores) -> Array:
    """Draws the worst image, the best and three between: image, truth, prediction, errors.

    `scores` are those of `predictor` on `dataset`.
    """
    ranking = sorted(
        (image.miou, index)
        for index, image in enumerate(scores.per_image)
        if image.miou is not None
    )
    tiles: list[tuple[Array, str]] = []
    shown: set[int] = set()
    places = sorted(set(np.linspace(0, len(ranking) - 1, num=5).astype(int).tolist()))
    for place in places:
        miou, index = ranking[place]
        image, label = read_pair(dataset, index)
        if predictor.recipe.data.resize is not None:
            image, label = resize(image, label, predictor.recipe.data.resize)
        mask = predictor.predict(image).mask
        rank = {places[0]: "worst: ", places[-1]: "best: "}.get(place, "")
        views = {
            rank + dataset.sample_id(index): image,
            "truth": colorize(label, predictor.palette),
            f"prediction: mIoU {miou:.1f}": colorize(mask, predictor.palette),
            "errors red, unlabeled dark": errors(image, label, mask),
        }
        tiles += [(figures.fit(view), caption) for caption, view in views.items()]
        shown |= {*np.unique(label).tolist(), *np.unique(mask).tolist()}
    return figures.sheet(
        tiles,
        columns=4,
        classes=predictor.class_names,
        palette=predictor.palette,
        shown=shown,
    )
