"""Checks of a run's ranks before its first step, and DistributedDataParallel."""

import math
import warnings

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from perpixel.errors import PerpixelError, UsageError
from perpixel.models.segmenter import Segmenter
from perpixel.recipes.models import VGG16, CaffeNet
from perpixel.recipes.schema import Recipe
from perpixel.runtime.distributed import all_gather_ints


def check_batch_divides(recipe: Recipe, world_size: int) -> None:
    """Raises UsageError unless the batch divides into micro-batches large enough to train."""
    train, backbone = recipe.train, recipe.model.backbone
    parts = world_size * train.grad_accum_steps
    if train.batch_size % parts:
        raise UsageError(
            f"train.batch_size={train.batch_size} cannot be shared evenly by {world_size} ranks in "
            f"train.grad_accum_steps={train.grad_accum_steps} micro-batches: make it a multiple of "
            f"{parts}, or start another number of ranks"
        )
    if recipe.augment.crop_size is None and train.batch_size != parts:
        raise UsageError(
            f"augment.crop_size=null trains on whole images, which go through the model one at a "
            f"time: set train.grad_accum_steps={train.batch_size // world_size}, or "
            f"train.batch_size={parts}"
        )
    if isinstance(backbone, VGG16 | CaffeNet):
        return  # without batch norm
    for crop in recipe.crop_sizes:
        height, width = (math.ceil(side / backbone.output_stride) for side in crop)
        if train.batch_size // train.grad_accum_steps * height * width == 1:
            raise UsageError(
                f"train.batch_size={train.batch_size} in train.grad_accum_steps="
                f"{train.grad_accum_steps} micro-batches of crops of {crop[0]}x{crop[1]} leave "
                f"batch norm a single value at stride {backbone.output_stride}: take more images a "
                f"micro-batch, or a larger augment.crop_size or train.final_phase.crop_size"
            )


def wrap_ddp(model: Segmenter, world_size: int) -> nn.Module:
    """Wraps the model in DistributedDataParallel if there are several ranks."""
    if world_size == 1:
        return model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 has another name for the option
        return DistributedDataParallel(model, broadcast_buffers=False)  # they are equal already


def check_ranks_agree(step: int, dtype: torch.dtype) -> None:
    """Raises PerpixelError unless all ranks resume after the same step, in the same precision."""
    dtypes = [torch.float32, torch.bfloat16, torch.float16]
    steps, precisions = all_gather_ints([step, dtypes.index(dtype)]).T.tolist()
    if len(set(steps)) > 1:
        raise PerpixelError(
            f"the ranks found different checkpoints to resume from, after the steps {steps}: every "
            f"machine must see the same run folder"
        )
    if len(set(precisions)) > 1:
        raise PerpixelError(
            "the ranks compute in different precisions, as their devices differ: set "
            "train.precision to float32, bfloat16 or float16"
        )
