"""Endless, seeded, resumable batches.

A run sees one endless stream of samples: epoch after epoch, each a permutation of the data set
that depends on (seed, epoch) alone. Step s takes stream positions s*B .. (s+1)*B-1, and a sample's
augmentation depends on (seed, epoch, position) alone. So no state needs saving, any step can be
the first, and the number of workers changes nothing.
"""

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from perpixel.data.augment import augment, resize
from perpixel.data.dataset import Dataset, read_pair
from perpixel.errors import PerpixelError
from perpixel.recipes.spec import Recipe


class Batch(NamedTuple):
    """Pictures uint8 RGB [N, height, width, 3], labels uint8 [N, height, width], and names."""

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """One sample of the stream: position in its epoch's order, and index in the data set."""

    epoch: int
    position: int
    index: int


def places(*, step: int, images_per_step: int, samples: int, seed: int) -> list[Place]:
    """The samples of one step of a run over a data set of so many `samples`."""
    first = step * images_per_step
    found = []
    for stream in range(first, first + images_per_step):
        epoch, position = divmod(stream, samples)
        found.append(Place(epoch, position, int(_order(seed, epoch, samples)[position])))
    return found


def batches(dataset: Dataset, recipe: Recipe, *, first_step: int, workers: int) -> Iterator[Batch]:
    """The batches of steps `first_step` .. train.steps-1.

    With `workers` 0 pictures are prepared in this process, else in so many others. Raises
    PerpixelError when a sample cannot be read.
    """
    if len(dataset) == 0:
        raise PerpixelError("the training split holds no pictures")
    loader = DataLoader(
        _Steps(dataset, recipe),
        batch_size=None,
        sampler=range(first_step, recipe.train.steps),
        num_workers=workers,
        worker_init_fn=_start_worker,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if workers else None,
    )
    for batch in loader:
        if isinstance(batch, PerpixelError):
            raise batch
        yield batch


class _Steps(TorchDataset[Batch | PerpixelError]):
    """Batch number s of a run; errors travel as values, so that workers add no traceback."""

    def __init__(self, dataset: Dataset, recipe: Recipe) -> None:
        self.dataset = dataset
        self.recipe = recipe

    def __getitem__(self, step: int) -> Batch | PerpixelError:
        train = self.recipe.train
        samples = places(
            step=step,
            images_per_step=train.images_per_step,
            samples=len(self.dataset),
            seed=train.seed,
        )
        try:
            images, labels = zip(*(self._sample(place) for place in samples), strict=True)
        except PerpixelError as error:
            return error
        names = tuple(self.dataset.name(place.index) for place in samples)
        return Batch(torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels)), names)

    def _sample(self, place: Place) -> tuple[np.ndarray, np.ndarray]:
        image, label = read_pair(self.dataset, place.index)
        if self.recipe.data.resize is not None:
            image, label = resize(image, label, self.recipe.data.resize)
        rng = np.random.default_rng((self.recipe.train.seed, place.epoch, place.position))
        return augment(
            image,
            label,
            rng,
            spec=self.recipe.augment,
            crop=self.recipe.train.crop,
            fed=self.recipe.input,
        )


@lru_cache(maxsize=2)  # a batch may span two epochs
def _order(seed: int, epoch: int, samples: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(samples)


def _start_worker(worker: int) -> None:  # noqa: ARG001  called by DataLoader with the number
    for number in (signal.SIGINT, signal.SIGTERM):  # the run decides when to stop; workers follow
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
