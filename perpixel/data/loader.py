"""Endless, seeded, resumable batches.

A run sees one endless stream of samples: epoch after epoch, each a permutation of the data set
that depends on (seed, epoch) alone. Step s takes stream positions s*B .. (s+1)*B-1, and a sample's
augmentation depends on (seed, epoch, position) alone. So no state needs saving, any step can be
the first, and the number of workers changes nothing. Ranks share out every step's samples, so that
their number changes nothing either.
"""

import multiprocessing
import os
import signal
import sys
import threading
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

from perpixel.data.augment import augment, resize, sample_crop
from perpixel.data.dataset import Dataset, read_dataset_image, read_pair
from perpixel.data.window import source_rows
from perpixel.errors import CorruptFileError, PerpixelError
from perpixel.io.images import Size
from perpixel.recipes.schema import Augment, Recipe

_TRIES = 4


class Batch(NamedTuple):
    """Images uint8 RGB [N, height, width, 3], labels uint8 [N, height, width], and names.

    `corrupt` says what is wrong with those that others stand in for.
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]
    corrupt: tuple[str, ...]


def batches(
    dataset: Dataset,
    recipe: Recipe,
    *,
    first_step: int,
    workers: int,
    rank_info: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """One rank's share of the batches of steps `first_step` .. train.steps-1.

    `rank_info` is (rank, number of ranks).

    With `workers` 0 images are prepared in this process, else in so many others. A sample whose
    files are corrupt is replaced by the next of its epoch. Raises PerpixelError when a sample
    cannot be used for another reason, or none of a few can be decoded.
    """
    if len(dataset) == 0:
        raise PerpixelError("the training split holds no images")
    if workers:
        _require_startable()
    loader = DataLoader(
        _Steps(dataset, recipe, rank_info),
        batch_size=None,
        sampler=range(first_step, recipe.train.steps),
        num_workers=workers,
        worker_init_fn=_start_worker,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if workers else None,
    )
    try:
        for batch in loader:
            if isinstance(batch, PerpixelError):
                raise batch
            yield batch
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise PerpixelError(
            f"a process that prepares images has died, perhaps for want of memory: take fewer "
            f"--workers ({error})"
        ) from None


@dataclass(frozen=True)
class _Steps(TorchDataset[Batch | PerpixelError]):
    """Batch number s of a run; errors travel as values, so that workers add no traceback."""

    dataset: Dataset
    recipe: Recipe
    rank_info: tuple[int, int]

    def __getitem__(self, step: int) -> Batch | PerpixelError:
        train = self.recipe.train
        first = step * train.batch_size
        stream = range(first, first + train.batch_size)
        corrupt: list[str] = []
        own = _share(stream, self.rank_info, passes=train.grad_accum_steps)
        try:
            drawn = [self._sample(number, step, corrupt) for number in own]
        except PerpixelError as error:
            return error
        images, labels, names = zip(*drawn, strict=True)
        pixels, classes = torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels))
        return Batch(pixels, classes, names, tuple(corrupt))

    def _sample(
        self, number: int, step: int, corrupt: list[str]
    ) -> tuple[np.ndarray, np.ndarray, str]:
        """A sample of the stream, or the next of its epoch that can be decoded, and its name."""
        epoch, position = divmod(number, len(self.dataset))
        seed = self.recipe.train.seed
        order = _order(seed, epoch, len(self.dataset))
        for further in range(_TRIES):
            index = int(order[(position + further) % len(order)])
            rng = np.random.default_rng((seed, epoch, position))
            try:
                return *self._augmented(index, step, rng), self.dataset.sample_id(index)
            except CorruptFileError as error:
                corrupt.append(str(error))
        raise PerpixelError(f"{_TRIES} images in a row cannot be decoded: " + "; ".join(corrupt))

    def _augmented(
        self, index: int, step: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        dataset, recipe = self.dataset, self.recipe
        spec, crop = _view(recipe, step)
        if recipe.data.resize is None:
            label = dataset.label(index)
            window = sample_crop(label, rng, spec=spec, crop=crop)
            rows = source_rows(window, (label.shape[0], label.shape[1]))
            image = read_dataset_image(dataset, index, label=label, rows=rows)
        else:
            image, label = resize(*read_pair(dataset, index), recipe.data.resize)
            window = sample_crop(label, rng, spec=spec, crop=crop)
        return augment(image, label, rng, window=window, spec=spec, crop=crop, fed=recipe.input)


def _share(stream: range, rank_info: tuple[int, int], *, passes: int) -> list[int]:
    """What one rank, `rank_info` = (rank, number of ranks), sees of a step, pass after pass.

    A pass's samples follow one another in the step, and so do a rank's in a pass: all ranks
    together see the same in a pass, however many they are. The step's divide evenly.
    """
    rank, world = rank_info
    size = len(stream) // (world * passes)
    firsts = range(rank * size, len(stream), world * size)
    return [number for first in firsts for number in stream[first : first + size]]


def _view(recipe: Recipe, step: int) -> tuple[Augment, Size]:
    """How a step's images are augmented, and their crops' size."""
    train = recipe.train
    if step < train.steps - train.final_phase_steps:
        return recipe.augment, recipe.augment.crop_size
    plain = {"scale_range": (1.0, 1.0), "photometric": None}
    return recipe.augment.model_copy(update=plain), recipe.last_crop_size


@lru_cache(maxsize=2)  # a batch may span two epochs
def _order(seed: int, epoch: int, samples: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(samples)


def _require_startable() -> None:
    """Raises PerpixelError where processes die as they start.

    Those that are not forked import the running script first. A script that starts processes when
    it is imported kills them so, and its own process would wait for ever.
    """
    if multiprocessing.get_start_method() == "fork":
        return
    process = multiprocessing.Process(target=int)
    process.start()
    process.join()
    if process.exitcode != 0:
        raise PerpixelError(
            f"a process that was to read images has died as it started (exit code "
            f"{process.exitcode}): a script that starts any has its work below "
            f'`if __name__ == "__main__":`, and is a file, as every process imports it'
        )


def _start_worker(worker: int) -> None:  # noqa: ARG001  called by DataLoader with the number
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run decides when to stop; workers follow
    if sys.platform == "linux":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_leave_when_told, args=(os.getppid(),), daemon=True).start()
    else:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _leave_when_told(run: int) -> None:
    """Heeds SIGTERM from the run's process alone, which waits at its end for those it tells."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != run:
        pass
    os._exit(0)
