"""A frozen backbone's features of the training images on disk, so that a probe trains on them.

The folder's name is a hash of all that decides the features of a given input: weights, settings of
backbone and input, precision, versions. A file's is the hash of one input, the image as it was
decoded, resized and padded. So whatever changes, its features are others, several runs share what
they have in common, and nothing is ever out of date. Features are kept as the backbone gives them,
float32 or the run's precision: a run with the cache differs from one without by the rounding of
another batch size, as the backbone sees one image at a time here.
"""

import hashlib
import json
import os
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.filesize import decimal
from torch import Tensor

from perpixel.checkpoints.format import content_sha256, read_tensors, write_tensors
from perpixel.data.dataset import Dataset
from perpixel.data.loader import read_augmented
from perpixel.data.prefetch import cores, read_ahead
from perpixel.errors import CorruptFileError, Interrupted, PerpixelError, plural
from perpixel.io.atomic import reraise_oserror
from perpixel.io.download import cache_folder
from perpixel.io.images import Array
from perpixel.models.normalize import normalize
from perpixel.recipes.models import FCN, Model
from perpixel.recipes.schema import Recipe
from perpixel.runtime.distributed import DistInfo, all_gather_text, barrier
from perpixel.runtime.dtype import autocast, uses_tf32
from perpixel.runtime.environment import environment_info
from perpixel.training.run_logger import RunLogger
from perpixel.training.step import TrainState


class _Entry(NamedTuple):
    """An image in the cache: the hash of its input, or the error where it cannot be decoded."""

    hash: str = ""
    is_cached: bool = False
    error: str = ""


@dataclass(frozen=True)
class CachedFeatures:
    """The features of a data set's images, by index."""

    folder: Path
    entries: tuple[_Entry, ...]

    def __call__(self, index: int) -> list[Tensor]:
        """Reads an image's features, [C, h, w] each, finest first.

        Raises CorruptFileError for an image that could not be decoded, and PerpixelError where its
        features cannot be read.
        """
        entry = self.entries[index]
        if entry.error:
            raise CorruptFileError(entry.error)
        try:
            return _read(_path(self.folder, entry.hash))
        except CorruptFileError as error:
            raise PerpixelError(f"{error}; resume the run, which computes it again") from None


def cache_features(
    state: TrainState,
    dataset: Dataset,
    recipe: Recipe,
    *,
    dist_info: DistInfo,
    logger: RunLogger,
    preempted: threading.Event,
) -> CachedFeatures:
    """Computes the features of all images that are not in the cache, and returns all.

    Every image is read, as its content decides which features are its own. Ranks share the work.
    Raises PerpixelError where the disk is too small, and Interrupted once `preempted` is set; what
    was computed is kept.
    """
    folder = _folder(state, recipe)
    with reraise_oserror(folder):
        folder.mkdir(parents=True, exist_ok=True)
    entries = _find_entries(folder, dataset, recipe, dist_info, logger, preempted)
    # Of equal images one.
    missing = {entry.hash: index for index, entry in enumerate(entries) if not entry.is_cached}
    logger.info(
        f"features of {plural(len(entries), 'image')} in {folder}; "
        f"{plural(len(missing), 'image')} to compute"
    )
    todo = list(missing.values())[dist_info.rank :: dist_info.world_size]
    inputs = read_ahead(lambda index: _read_input(dataset, index, recipe), todo, threads=cores())
    for done, (index, image) in enumerate(zip(todo, inputs, strict=True), start=1):
        _stop_if(preempted)
        features = _compute(state, image, recipe)
        if done == 1:
            _require_space(folder, features, count=len(missing))
        _write(_path(folder, entries[index].hash), features)
        logger.show_features(done, len(todo))
    barrier()
    if not all(_path(folder, name).exists() for name in missing):
        raise PerpixelError(
            f"{folder}: lacks features that another rank computed: PERPIXEL_CACHE must be one "
            f"folder that every machine sees"
        )
    return CachedFeatures(folder, entries)


def _find_entries(
    folder: Path,
    dataset: Dataset,
    recipe: Recipe,
    dist_info: DistInfo,
    logger: RunLogger,
    preempted: threading.Event,
) -> tuple[_Entry, ...]:
    """Reads every image of the data set and looks for its features; ranks share the work."""

    def find(index: int) -> _Entry:
        try:
            name = _hash(_read_input(dataset, index, recipe))
        except CorruptFileError as error:
            return _Entry(error=str(error), is_cached=True)
        try:
            _read(_path(folder, name))
        except PerpixelError:  # absent, or corrupt
            return _Entry(name)
        return _Entry(name, is_cached=True)

    world_size = dist_info.world_size
    own = range(dist_info.rank, len(dataset), world_size)
    found = []
    for entry in read_ahead(find, own, threads=cores()):
        _stop_if(preempted)
        found.append(entry)
        logger.show_features(len(found), len(own))
    entries = [_Entry()] * len(dataset)
    for rank, text in enumerate(all_gather_text(json.dumps(found))):
        entries[rank::world_size] = [_Entry(*entry) for entry in json.loads(text)]
    return tuple(entries)


def _folder(state: TrainState, recipe: Recipe) -> Path:
    """The folder of all features that these weights and settings give, by a hash of them."""
    weights = {
        name: tensor.cpu()
        for name, tensor in state.model.backbone.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    environment = environment_info()
    settings = {
        "backbone": recipe.model.backbone.model_dump_json(),
        "input": recipe.input.model_dump_json(),
        "levels": str(_levels(recipe.model)),
        "precision": f"{state.dtype} {uses_tf32(state.model.device)}",
        **{package: str(environment[package]) for package in ("perpixel", "torch", "timm")},
    }
    return cache_folder() / "features" / content_sha256(settings, weights)[:16]


def _levels(model: Model) -> slice:
    """The features that the heads use, of all that the backbone gives."""
    if not isinstance(model.head, FCN) or model.head.inputs == "all":
        return slice(None)
    return slice(-1 if model.aux_head is None else -2, None)


def _read_input(dataset: Dataset, index: int, recipe: Recipe) -> Array:
    """An image as the model gets it; with `augment.enabled` off nothing of it is random."""
    rng = np.random.default_rng(0)
    image, _ = read_augmented(dataset, index, recipe, rng, spec=recipe.augment)
    return np.ascontiguousarray(image)


def _hash(image: Array) -> str:
    return hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).hexdigest()


@torch.no_grad()
def _compute(state: TrainState, image: Array, recipe: Recipe) -> list[Tensor]:
    images = torch.from_numpy(image)[None].to(state.model.device)
    with autocast(images.device, state.dtype):
        features = state.model.backbone(normalize(images, recipe.input))
    return [feature[0] for feature in features[_levels(recipe.model)]]


def _require_space(folder: Path, features: list[Tensor], *, count: int) -> None:
    """Raises PerpixelError unless the features of `count` images fit on the disk."""
    needed = count * sum(feature.numel() * feature.element_size() for feature in features)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise PerpixelError(
            f"{folder}: the features of {plural(count, 'image')} take about {decimal(needed)}, and "
            f"{decimal(free)} are free there: name a folder on another disk in PERPIXEL_CACHE, or "
            f"set train.cache_features=false"
        )


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.safetensors"


def _read(path: Path) -> list[Tensor]:
    _, tensors = read_tensors(path)
    return [tensors[name] for name in sorted(tensors)]


def _write(path: Path, features: list[Tensor]) -> None:
    """Writes under a name of this process's own first: another run may compute the same ones."""
    own = path.with_name(f"{path.stem}-{os.getpid()}.part")
    write_tensors(own, {str(level): feature for level, feature in enumerate(features)}, {})
    with reraise_oserror(path):
        own.replace(path)


def _stop_if(preempted: threading.Event) -> None:
    if preempted.is_set():
        raise Interrupted(
            "stopped before the first step; the features computed so far are kept: start the run "
            "again with the same command"
        )
