"""The one training step, which the training loop, `perpixel profile` and the benchmarks call."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from perpixel.distributed import Ranks, summed
from perpixel.losses import mean_weight, segmentation_loss
from perpixel.models.build import to_device
from perpixel.models.inputs import autocast, normalise
from perpixel.models.recomputing import activations_recomputed
from perpixel.models.segmenter import Logits, Segmenter
from perpixel.recipes.spec import Recipe
from perpixel.training.averaging import averaged, follow
from perpixel.training.economy import economise
from perpixel.training.optimizer import make_optimizer


@dataclass(frozen=True)
class TrainState:
    """What a step changes.

    `ema_model` is the moving average of `model`, or `model` itself. `scaler` scales float16's
    losses and does nothing in other precisions. `bn_backup` holds what the buffers (batch norm's
    statistics) were before the step at hand.
    """

    model: Segmenter
    ema_model: Segmenter
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    bn_buffers: list[Tensor]
    bn_backup: list[Tensor]


def make_train_state(
    model: Segmenter, recipe: Recipe, *, device: torch.device, dtype: torch.dtype
) -> TrainState:
    """Moves `model` to the device, in training mode, and makes all that its steps need.

    Raises UsageError for settings of `recipe.train` that cannot be combined.
    """
    model = to_device(model, device).train()
    ema_model = averaged(model, recipe.train.ema)
    model = economise(model, recipe.train)
    buffers = list(model.buffers())
    return TrainState(
        model,
        ema_model,
        make_optimizer(model, recipe.optimizer),
        torch.amp.GradScaler(device.type, enabled=dtype == torch.float16),
        buffers,
        [buffer.clone() for buffer in buffers],
    )


class StepStats(NamedTuple):
    """What all ranks know of a step: its loss and the norm of its gradient.

    `loss_scale` is the factor that float16's loss had, 1 in other precisions. `stop` says whether
    any rank was asked to stop, `damaged` how many images others stood in for.
    """

    loss: float
    gradient_norm: float
    loss_scale: float
    stop: bool
    damaged: int

    @property
    def is_finite(self) -> bool:
        """Whether loss and gradient are finite: only then the step changed the weights."""
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)

    @property
    def overflowed(self) -> bool:
        """Whether the gradient was not finite because of its scale, which is halved for the next
        step."""
        return not self.is_finite and math.isfinite(self.loss) and self.loss_scale > 1


def train_step(
    state: TrainState,
    ddp_model: nn.Module,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    *,
    step: int,
    dtype: torch.dtype,
    ranks: Ranks,
    stop: bool = False,
    damaged: int = 0,
) -> StepStats:
    """Trains on one batch: forward, loss, backward, optimizer, moving average.

    images: this rank's uint8 RGB [N, H, W, 3]; labels: uint8 [N, H, W]. `ddp_model` is
    `state.model` or wraps it. A step whose loss or gradient is not finite changes nothing but the
    loss scale of float16. `stop` and `damaged` are this rank's; all ranks return the same.
    """
    model, optimizer, scaler = state.model, state.optimizer, state.scaler
    _copy(state.bn_backup, state.bn_buffers)
    optimizer.zero_grad(set_to_none=True)
    loss = torch.zeros((), dtype=torch.float32, device=model.device)
    images, labels = (part.to(model.device, non_blocking=True) for part in (images, labels))
    for batch in micro_batches(images, labels, recipe, ranks):
        torch.manual_seed(dropout_seed(recipe.train.seed, step, batch.number))
        with _no_sync_unless_last(ddp_model, batch):
            output = forward(ddp_model, batch.images, recipe, dtype=dtype)
            batch_loss = batch.factor * loss_from_logits(output, batch.labels, recipe)
            torch.autograd.backward(scaler.scale(batch_loss))
        loss = loss + batch_loss.detach()
    scaler.unscale_(optimizer)
    stats = reduce_step_stats(
        loss, model, ranks, loss_scale=scaler.get_scale(), stop=stop, damaged=damaged
    )
    if stats.is_finite:
        scaler.step(optimizer)
        follow(state.ema_model, model, step=step, ema=recipe.train.ema)
    else:
        _copy(state.bn_buffers, state.bn_backup)
    scaler.update()
    return stats


def forward(model: nn.Module, images: Tensor, recipe: Recipe, *, dtype: torch.dtype) -> Logits:
    """Logits of both heads for images, uint8 RGB [N, H, W, 3], computed in `dtype`."""
    recomputed = activations_recomputed(recipe.train.recompute_activations)
    with autocast(images.device, dtype), recomputed:
        output: Logits = model(normalise(images, recipe.input), auxiliary=True)
    return output


def loss_from_logits(output: Logits, labels: Tensor, recipe: Recipe) -> Tensor:
    """The recipe's loss, float32, the auxiliary head's included; labels: uint8 [N, H, W]."""
    align = recipe.model.align_corners
    with autocast(labels.device, torch.float32):  # a caller's own autocast may be on
        loss = segmentation_loss(output.main, labels, recipe.loss, align_corners=align)
        if output.auxiliary is not None:
            loss = loss + recipe.loss.auxiliary_weight * segmentation_loss(
                output.auxiliary, labels, recipe.loss, align_corners=align
            )
    return loss


class MicroBatch(NamedTuple):
    """A part of a step's batch that goes through the model at once.

    `number` counts the micro-batches of all ranks. `factor` is this one's share of all that the
    loss's mean counts, over the step's micro-batches and the ranks, times the number of ranks, as
    gradients are averaged over them.
    """

    number: int
    images: Tensor
    labels: Tensor
    factor: Tensor
    last: bool


def micro_batches(
    images: Tensor, labels: Tensor, recipe: Recipe, ranks: Ranks
) -> Iterator[MicroBatch]:
    """This rank's micro-batches of a step."""
    count = recipe.train.accumulate
    parts = labels.chunk(count)
    weights = torch.stack([mean_weight(part, recipe.loss) for part in parts])
    factors = weights / summed(weights.sum()).clamp(min=torch.finfo(weights.dtype).tiny)
    factors = factors * ranks.world
    for index, part in enumerate(zip(images.chunk(count), parts, factors, strict=True)):
        yield MicroBatch(ranks.rank * count + index, *part, last=index == len(parts) - 1)


def _no_sync_unless_last(model: nn.Module, batch: MicroBatch) -> AbstractContextManager[None]:
    """Inside, ranks exchange gradients only in a step's last micro-batch."""
    if isinstance(model, DistributedDataParallel) and not batch.last:
        return model.no_sync()
    return nullcontext()


def reduce_step_stats(
    loss: Tensor, model: nn.Module, ranks: Ranks, *, loss_scale: float, stop: bool, damaged: int
) -> StepStats:
    """The same stats on every rank: of the sum of their losses, and whether any is to stop.

    This is where the host waits for the device, once a step: a gradient that is not finite must
    not reach the weights.
    """
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients) / ranks.world  # it is the same on every rank
    values = torch.stack([loss.float(), norm.float(), *loss.new_tensor([stop, damaged])])
    total, mean_norm, stops, replaced = summed(values).tolist()
    return StepStats(total / ranks.world, mean_norm, loss_scale, stops > 0, int(replaced))


def dropout_seed(seed: int, step: int, micro_batch: int) -> int:
    """The seed of a micro-batch's random numbers: a function of run, step, rank and micro-batch."""
    return ((seed << 32) + step + micro_batch * 0x9E3779B97F4A7C15) % 2**64


def _copy(to: list[Tensor], values: list[Tensor]) -> None:
    if to:  # group norms have no statistics
        torch._foreach_copy_(to, values)
