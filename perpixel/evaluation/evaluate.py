"""Score a model on a data set: each image once, over any number of ranks."""

import time
from collections.abc import Callable

import numpy as np
import torch

from perpixel.data.augment import resize
from perpixel.data.dataset import Dataset, read_pair
from perpixel.data.prefetch import read_ahead
from perpixel.errors import PerpixelError
from perpixel.evaluation.boundary import boundary_counts
from perpixel.evaluation.metrics import Matrix, Scores, areas, confusion, scores
from perpixel.inference.predictor import Predictor
from perpixel.inference.tta import group_by_size, predict_masks
from perpixel.io.images import Array
from perpixel.runtime import distributed
from perpixel.runtime.dtype import no_kernel_search


def evaluate(
    predictor: Predictor,
    dataset: Dataset,
    *,
    batch: int = 1,
    threads: int = 2,
    boundary: bool = False,
    progress: Callable[[int, int, Matrix], None] | None = None,
) -> Scores:
    """Scores the model on every image of `dataset`, as its recipe's `inference` says.

    Every rank scores every world-th image; one int64 confusion matrix is summed over all of them,
    and every rank returns the same scores. Up to `batch` images in a row that have the same size
    go through the model together, which changes results by rounding alone; `threads` read ahead.
    `boundary` asks for boundary IoU, too. `progress` is called after each image with (images
    done, images in all, the matrix so far), of this rank alone.
    """
    if len(dataset) == 0:
        raise PerpixelError("the evaluation split holds no images")
    recipe, device = predictor.recipe, predictor.device
    predictor.model.eval()  # without dropout, whatever a caller did
    start = time.perf_counter()
    classes = len(dataset.classes)
    matrix = np.zeros((classes, classes), np.int64)
    images = np.zeros((len(dataset), 3, classes), np.int64)
    borders = np.zeros((2, classes), np.int64)

    def read(index: int) -> tuple[int, Array, Array]:
        image, label = read_pair(dataset, index)
        if recipe.data.resize is not None:
            image, label = resize(image, label, recipe.data.resize)
        return index, image, label

    with distributed.process_group(device) as dist_info, no_kernel_search():
        indices = range(dist_info.rank, len(dataset), dist_info.world_size)
        for group in group_by_size(read_ahead(read, indices, threads=threads), batch):
            masks = predict_masks(predictor, [image for _, image, _ in group])
            for (index, _, label), mask in zip(group, masks, strict=True):
                counts = confusion(label, mask, num_classes=classes)
                matrix += counts
                images[index] = areas(counts)
                if boundary:
                    borders += boundary_counts(label, mask, num_classes=classes)
                if progress is not None:
                    progress(indices.index(index) + 1, len(indices), matrix)
        matrix, images, borders = (
            distributed.all_reduce_sum(torch.from_numpy(part).to(device)).cpu().numpy()
            for part in (matrix, images, borders)
        )
    return scores(
        matrix,
        names=dataset.classes.names,
        images=[(dataset.sample_id(index), counts) for index, counts in enumerate(images)],
        boundaries=borders if boundary else None,
        seconds=time.perf_counter() - start,
    )
