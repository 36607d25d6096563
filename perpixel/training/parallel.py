"""What the ranks of a run do together: share out a step, sum gradients, agree."""

import math
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from perpixel.data.loader import Batch
from perpixel.distributed import Ranks, summed, table
from perpixel.errors import PerpixelError, UsageError
from perpixel.losses import mean_weight
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


class Part(NamedTuple):
    """A pass of a step: pictures, labels, and its factor in the step's loss.

    `number` counts the passes of all ranks. The factor is the part's share of all that the loss's
    mean counts, over the step's passes and the ranks, times the number of ranks, as gradients are
    averaged over them.
    """

    number: int
    images: Tensor
    labels: Tensor
    factor: Tensor
    last: bool


def parts(batch: Batch, recipe: Recipe, *, where: torch.device, own: Ranks) -> Iterator[Part]:
    """This rank's passes of a step, on the device."""
    passes = recipe.train.accumulate
    images = batch.images.to(where, non_blocking=True).chunk(passes)
    labels = batch.labels.to(where, non_blocking=True).chunk(passes)
    weights = torch.stack([mean_weight(part, recipe.loss) for part in labels])
    factors = weights / summed(weights.sum()).clamp(min=torch.finfo(weights.dtype).tiny)
    for index, one in enumerate(zip(images, labels, factors * own.world, strict=True)):
        yield Part(own.rank * passes + index, *one, last=index == passes - 1)


def gradients_stay(network: nn.Module, part: Part) -> AbstractContextManager[None]:
    """Inside, ranks do not exchange gradients; only after a step's last pass they do."""
    if isinstance(network, DistributedDataParallel) and not part.last:
        return network.no_sync()
    return nullcontext()


class Verdict(NamedTuple):
    """What all ranks know of a step: its loss, the gradient's norm, whether to stop after it, and
    how many pictures others stood in for."""

    loss: float
    gradient_norm: float
    stop: bool
    damaged: int

    @property
    def sound(self) -> bool:
        """Whether loss and gradient are numbers."""
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)


def agree(loss: Tensor, network: nn.Module, own: Ranks, *, stop: bool, damaged: int) -> Verdict:
    """The same verdict on every rank: of the sum of their losses, and if any is to stop.

    This is where the host waits for the device, once a step: a step whose gradient is no number
    must not reach the weights.
    """
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients) / own.world  # it is the same on every rank
    said = torch.stack([loss.float(), norm.float(), *loss.new_tensor([stop, damaged])])
    total, mean_norm, stops, replaced = summed(said).tolist()
    return Verdict(total / own.world, mean_norm, stops > 0, int(replaced))


def require_same(step: int) -> None:
    """Raises PerpixelError unless all ranks resume after the same `step`."""
    found = table([step]).flatten().tolist()
    if len(set(found)) > 1:
        raise PerpixelError(
            f"the ranks found different states to resume from, after the steps {found}: every "
            f"machine must see the same run folder"
        )


def dropout_seed(seed: int, step: int, part: int) -> int:
    """The seed of one pass's random numbers: a function of run, step, rank and pass."""
    return ((seed << 32) + step + part * 0x9E3779B97F4A7C15) % 2**64
