"""What the ranks of a run check and wrap before its first step."""

import math
import warnings

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from perpixel.distributed import table
from perpixel.errors import PerpixelError, UsageError
from perpixel.models.segmenter import Segmenter
from perpixel.recipes.spec import Recipe


def require_even_shares(recipe: Recipe, world: int) -> None:
    """Raises UsageError when a step's pictures cannot be shared out so, or are too few to train."""
    train, backbone = recipe.train, recipe.model.backbone
    parts = world * train.accumulate
    if train.images_per_step % parts:
        raise UsageError(
            f"train.images_per_step={train.images_per_step} cannot be shared evenly by {world} "
            f"ranks in train.accumulate={train.accumulate} passes: make it a multiple of {parts}, "
            f"or start another number of ranks"
        )
    for crop in {train.crop, train.last_crop}:
        height, width = (math.ceil(side / backbone.output_stride) for side in crop)
        if train.images_per_step // train.accumulate * height * width == 1:
            raise UsageError(
                f"train.images_per_step={train.images_per_step} in train.accumulate="
                f"{train.accumulate} passes of crops of {crop[0]}x{crop[1]} leave batch norm a "
                f"single value at stride {backbone.output_stride}: take more pictures a pass, or "
                f"a larger train.crop or train.finish.crop"
            )


def joined(network: Segmenter, world: int) -> nn.Module:
    """The network, which with several ranks averages their gradients as they come."""
    if world == 1:
        return network
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 has another name for the option
        return DistributedDataParallel(network, broadcast_buffers=False)  # they are equal already


def require_same(step: int) -> None:
    """Raises PerpixelError unless all ranks resume after the same `step`."""
    found = table([step]).flatten().tolist()
    if len(set(found)) > 1:
        raise PerpixelError(
            f"the ranks found different states to resume from, after the steps {found}: every "
            f"machine must see the same run folder"
        )
