"""Endless, seeded, resumable batches.

A run reads one endless stream of samples: epoch after epoch, each a permutation of the data set
that depends on (seed, epoch) alone. Step s takes stream positions s*B .. (s+1)*B-1, and a sample's
augmentation depends on (seed, epoch, position) alone. So no state needs saving, any step can be
the first, and the number of workers changes nothing. Ranks divide every step's samples among them:
any number of ranks sees the same samples.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from perpixel.data.augment import augment, resize, resize_mask, sample_crop, whole_mask
from perpixel.data.dataset import Dataset, read_dataset_image, read_pair
from perpixel.data.window import source_rows
from perpixel.errors import CorruptFileError, PerpixelError
from perpixel.recipes.base import Size
from perpixel.recipes.schema import IGNORE_INDEX, Augment, Recipe

_MAX_ATTEMPTS = 4


class Batch(NamedTuple):
    """Images uint8 RGB [N, height, width, 3], labels uint8 [N, height, width], and names.

    `corrupt` holds the error messages of corrupt samples, which the next of their epoch replace.
    Whole images are padded to the largest, and `sizes`, int64 [N, 2], are their own. Where features
    of the images are known, `features`, each [N, C, h, w], take the place of images, which are [0].
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]
    corrupt: tuple[str, ...]
    sizes: Tensor | None = None
    features: list[Tensor] | None = None


def batches(
    dataset: Dataset,
    recipe: Recipe,
    *,
    first_step: int,
    workers: int,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
    read_features: Callable[[int], list[Tensor]] | None = None,
) -> Iterator[Batch]:
    """Yields one rank's part of the batches of steps `first_step` .. train.steps-1.

    With `workers` 0, samples are prepared in this process, else in that many worker processes. A
    corrupt sample is replaced by the next of its epoch. `read_features` gives the features of the
    image of an index, [C, h, w] each, in the place of images; it needs `augment.enabled` off.
    Raises PerpixelError when a sample fails for another reason, or several in a row are corrupt.
    """
    if len(dataset) == 0:
        raise PerpixelError("the training split holds no images")
    if workers:
        _require_importable_script()
    loader = DataLoader(
        _Steps(dataset, recipe, rank, world_size, read_features),
        batch_size=None,
        sampler=range(first_step, recipe.train.steps),
        num_workers=workers,
        worker_init_fn=_initialize_worker,
        pin_memory=pin_memory,
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
            f"a worker process that prepares images died, perhaps because memory ran out: lower "
            f"--workers ({error})"
        ) from None


@dataclass(frozen=True)
class _Steps(TorchDataset[Batch | PerpixelError]):
    """Maps a step to its batch; returns errors as values, so that workers add no traceback."""

    dataset: Dataset
    recipe: Recipe
    rank: int
    world_size: int
    read_features: Callable[[int], list[Tensor]] | None

    def __getitem__(self, step: int) -> Batch | PerpixelError:
        train = self.recipe.train
        stream = range(step * train.batch_size, (step + 1) * train.batch_size)
        positions = _rank_positions(
            stream, self.rank, self.world_size, micro_batches=train.grad_accum_steps
        )
        corrupt: list[str] = []
        try:
            samples = [self._read_sample(position, step, corrupt) for position in positions]
        except PerpixelError as error:
            return error
        inputs, labels, names = zip(*samples, strict=True)
        if self.read_features is not None:
            features = [torch.stack(level) for level in zip(*inputs, strict=True)]
            labels = torch.from_numpy(np.stack(labels))
            return Batch(torch.empty(0), labels, names, tuple(corrupt), features=features)
        images, sizes = inputs, None
        if _phase_augment(self.recipe, step).crop_size is None:
            sizes = torch.tensor([label.shape for label in labels])
            largest = max(map(len, labels)), max(label.shape[1] for label in labels)
            images = tuple(_pad_to(image, largest, 0) for image in images)
            labels = tuple(_pad_to(label, largest, IGNORE_INDEX) for label in labels)
        return Batch(
            torch.from_numpy(np.stack(images)),
            torch.from_numpy(np.stack(labels)),
            names,
            tuple(corrupt),
            sizes,
        )

    def _read_sample(
        self, stream_position: int, step: int, corrupt: list[str]
    ) -> tuple[np.ndarray | list[Tensor], np.ndarray, str]:
        """Reads a sample of the stream, or the next of its epoch that is not corrupt."""
        epoch, position = divmod(stream_position, len(self.dataset))
        seed = self.recipe.train.seed
        order = _epoch_permutation(seed, epoch, len(self.dataset))
        for attempt in range(_MAX_ATTEMPTS):
            index = int(order[(position + attempt) % len(order)])
            rng = np.random.default_rng((seed, epoch, position))
            try:
                name = self.dataset.sample_id(index)
                if self.read_features is not None:
                    return self.read_features(index), self._read_whole_mask(index), name
                spec = _phase_augment(self.recipe, step)
                return *read_augmented(self.dataset, index, self.recipe, rng, spec=spec), name
            except CorruptFileError as error:
                corrupt.append(str(error))
        raise PerpixelError(
            f"{_MAX_ATTEMPTS} images in a row cannot be decoded: " + "; ".join(corrupt)
        )

    def _read_whole_mask(self, index: int) -> np.ndarray:
        label, size = self.dataset.label(index), self.recipe.data.resize
        label = label if size is None else resize_mask(label, size)
        return whole_mask(label, spec=self.recipe.augment)


def read_augmented(
    dataset: Dataset, index: int, recipe: Recipe, rng: np.random.Generator, *, spec: Augment
) -> tuple[np.ndarray, np.ndarray]:
    """Reads a training image and its mask, and augments both by `spec`; raises PerpixelError."""
    if recipe.data.resize is None:
        label = dataset.label(index)
        window = sample_crop(label, rng, spec=spec)
        rows = source_rows(window, (label.shape[0], label.shape[1]))
        image = read_dataset_image(dataset, index, label=label, rows=rows)
    else:
        image, label = resize(*read_pair(dataset, index), recipe.data.resize)
        window = sample_crop(label, rng, spec=spec)
    return augment(image, label, rng, window=window, spec=spec, input_spec=recipe.input)


def _rank_positions(stream: range, rank: int, world_size: int, *, micro_batches: int) -> list[int]:
    """The positions of a step's stream for one rank, micro-batch after micro-batch.

    A micro-batch of all ranks together is a contiguous part of the step, and a rank's part of it
    is contiguous, too: so it holds the same samples for any number of ranks. The batch size is
    divisible by world_size * micro_batches.
    """
    size = len(stream) // (world_size * micro_batches)
    firsts = range(rank * size, len(stream), world_size * size)
    return [position for first in firsts for position in stream[first : first + size]]


def _phase_augment(recipe: Recipe, step: int) -> Augment:
    """Returns the augmentation of a step; that of the final phase differs."""
    train = recipe.train
    if step < train.steps - train.final_phase_steps:
        return recipe.augment
    plain = {"scale_range": (1.0, 1.0), "photometric": None, "crop_size": recipe.last_crop_size}
    return recipe.augment.model_copy(update=plain)


def _pad_to(pixels: np.ndarray, size: Size, value: int) -> np.ndarray:
    """Pads image or label with `value` at the bottom and right, for their way to the device."""
    down, right = size[0] - pixels.shape[0], size[1] - pixels.shape[1]
    widths = [(0, down), (0, right), *[(0, 0)] * (pixels.ndim - 2)]
    return np.pad(pixels, widths, constant_values=value)


@lru_cache(maxsize=2)  # a batch may span two epochs
def _epoch_permutation(seed: int, epoch: int, samples: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(samples)


def _require_importable_script() -> None:
    """Raises PerpixelError where worker processes would die as they start.

    Unless forked, a worker imports the running script first. A script that starts workers when it
    is imported kills them so, and DataLoader would wait for them forever.
    """
    if multiprocessing.get_start_method() == "fork":
        return
    process = multiprocessing.Process(target=int)
    process.start()
    process.join()
    if process.exitcode != 0:
        raise PerpixelError(
            f"a worker process died as it started (exit code {process.exitcode}): worker processes "
            f"import the running script, which must be a file with its work below "
            f'`if __name__ == "__main__":`'
        )


def _initialize_worker(worker: int) -> None:  # noqa: ARG001  called by DataLoader with the number
    # Signals to the whole process group must not end workers: the run decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_on_sigterm_from, args=(os.getppid(),), daemon=True).start()
    else:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _exit_on_sigterm_from(run_pid: int) -> None:
    """Exits on SIGTERM from the run's process, which sends it to workers that outlive the run."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != run_pid:
        pass
    os._exit(0)
