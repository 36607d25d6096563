"""Score a network on a data set: each picture once, over any number of ranks."""

import time
from collections.abc import Callable

import numpy as np
import torch

from perpixel import distributed
from perpixel.data.augment import resize
from perpixel.data.dataset import Dataset, read_pair
from perpixel.data.reading import read_ahead
from perpixel.errors import PerpixelError
from perpixel.evaluation.boundary import boundary_counts
from perpixel.evaluation.confusion import Matrix, Scores, areas, confusion, scores
from perpixel.images import Array
from perpixel.inference.class_maps import class_maps, same_sized
from perpixel.inference.engine import Engine


def evaluate(
    engine: Engine,
    dataset: Dataset,
    *,
    batch: int = 1,
    threads: int = 2,
    boundary: bool = False,
    progress: Callable[[int, int, Matrix], None] | None = None,
) -> Scores:
    """Scores of the network on every picture of `dataset`, as its recipe's `inference` sees them.

    Every rank scores every world-th picture; one int64 confusion matrix is summed over all of them,
    and every rank returns the same scores. Up to `batch` pictures in a row that have the same size
    go through the network together, which changes results by rounding alone; `threads` read ahead.
    `boundary` asks for boundary IoU, too. `progress` is called after each picture with (pictures
    done, pictures in all, the matrix so far), of this rank alone.
    """
    if len(dataset) == 0:
        raise PerpixelError("the evaluation split holds no pictures")
    recipe, device = engine.recipe, engine.device
    engine.network.eval()  # without dropout, whatever a caller did
    start = time.perf_counter()
    tries_kernels = torch.backends.cudnn.benchmark
    classes = len(dataset.classes)
    matrix = np.zeros((classes, classes), np.int64)
    pictures = np.zeros((len(dataset), 3, classes), np.int64)
    borders = np.zeros((2, classes), np.int64)

    def read(index: int) -> tuple[int, Array, Array]:
        image, label = read_pair(dataset, index)
        if recipe.data.resize is not None:
            image, label = resize(image, label, recipe.data.resize)
        return index, image, label

    with distributed.group(device) as ranks:
        own = range(ranks.rank, len(dataset), ranks.world)
        torch.backends.cudnn.benchmark = False  # it would try all kernels for every picture size
        try:
            for group in same_sized(read_ahead(read, own, threads=threads), batch):
                found = class_maps(engine, [image for _, image, _ in group])
                for (index, _, label), prediction in zip(group, found, strict=True):
                    counts = confusion(label, prediction, classes=classes)
                    matrix += counts
                    pictures[index] = areas(counts)
                    if boundary:
                        borders += boundary_counts(label, prediction, classes=classes)
                    if progress is not None:
                        progress(own.index(index) + 1, len(own), matrix)
        finally:
            torch.backends.cudnn.benchmark = tries_kernels
        matrix, pictures, borders = (
            distributed.summed(torch.from_numpy(part).to(device)).cpu().numpy()
            for part in (matrix, pictures, borders)
        )
    return scores(
        matrix,
        names=dataset.classes.names,
        pictures=[(dataset.name(index), own) for index, own in enumerate(pictures)],
        boundaries=borders if boundary else None,
        seconds=time.perf_counter() - start,
    )
