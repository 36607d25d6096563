"""Score a network on a data set, one picture at a time."""

import time
from collections.abc import Callable

import numpy as np
import torch

from perpixel.data.augment import resize
from perpixel.data.dataset import Dataset, read_pair
from perpixel.errors import PerpixelError
from perpixel.evaluation.confusion import Matrix, Scores, confusion, scores
from perpixel.inference.windows import class_map
from perpixel.models.segmenter import Segmenter
from perpixel.recipes.spec import Recipe

Progress = Callable[[int, int, Matrix], None]


def evaluate(
    network: Segmenter,
    recipe: Recipe,
    dataset: Dataset,
    *,
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
) -> Scores:
    """Scores of the network on every picture of `dataset`, as the recipe's `inference` sees them.

    One int64 confusion matrix is summed over all pictures. `progress` is called after each with
    (pictures done, pictures in all, the matrix so far). The network is left in the mode
    (training or not) it came in.
    """
    if len(dataset) == 0:
        raise PerpixelError("the evaluation split holds no pictures")
    start, was_training = time.perf_counter(), network.training
    network.eval()
    classes = len(dataset.classes)
    matrix = np.zeros((classes, classes), np.int64)
    try:
        for index in range(len(dataset)):
            image, label = read_pair(dataset, index)
            if recipe.data.resize is not None:
                image, label = resize(image, label, recipe.data.resize)
            prediction = class_map(network, image, recipe, dtype=dtype)
            matrix += confusion(label, prediction, classes=classes)
            if progress is not None:
                progress(index + 1, len(dataset), matrix)
    finally:
        network.train(was_training)
    seconds = time.perf_counter() - start
    return scores(matrix, names=dataset.classes.names, images=len(dataset), seconds=seconds)
