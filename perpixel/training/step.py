"""The training step, as the training loop, `perpixel profile` and the benchmarks run it."""

import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from perpixel.acceleration.accelerate import accelerate
from perpixel.losses import loss_denominator, segmentation_loss
from perpixel.models.normalize import normalize
from perpixel.models.segmenter import SegmentationOutput, Segmenter
from perpixel.recipes.schema import Recipe
from perpixel.runtime.device import to_device
from perpixel.runtime.distributed import DistInfo, all_reduce_sum
from perpixel.runtime.dtype import autocast
from perpixel.training.ema import make_ema, update_ema
from perpixel.training.freeze import freeze_backbone
from perpixel.training.optimizer import make_optimizer

Inputs = Tensor | list[Tensor]
"""Images, uint8 RGB [N, H, W, 3], or a frozen backbone's features of them, [N, C, h, w] each."""


@dataclass(frozen=True)
class TrainState:
    """The state that a step changes.

    `ema_model` is the moving average of `model`, or `model` itself. `scaler` scales float16's
    losses and does nothing in other precisions. `bn_backup` holds what the buffers (batch norm's
    statistics) were before the step at hand.
    """

    model: Segmenter
    ema_model: Segmenter
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    dtype: torch.dtype
    bn_buffers: list[Tensor]
    bn_backup: list[Tensor]


def make_train_state(
    model: Segmenter, recipe: Recipe, *, device: torch.device, dtype: torch.dtype
) -> TrainState:
    """Moves `model` to the device, freezes a part, makes optimizer, moving average and loss scaler.

    Raises UsageError for settings of `recipe.train` that cannot be combined.
    """
    model = to_device(model, device)
    # Before accelerate: the moving average is a plain model.
    ema_model = make_ema(model, recipe.train.ema_decay)
    model = accelerate(
        model,
        device=device,
        dtype=dtype,
        training=True,
        activation_checkpointing=recipe.train.activation_checkpointing,
        compile=recipe.train.compile,
    )
    freeze_backbone(model, recipe.train.freeze, norm_eval=recipe.train.norm_eval)
    buffers = [buffer for buffer in model.buffers() if buffer.ndim < 2]  # others are constants
    return TrainState(
        model,
        ema_model,
        make_optimizer(model, recipe.optimizer),
        torch.amp.GradScaler(device.type, enabled=dtype == torch.float16),
        dtype,
        buffers,
        [buffer.clone() for buffer in buffers],
    )


class StepStats(NamedTuple):
    """Statistics of a step, equal on all ranks: its loss, the norm of its gradient and more.

    `interrupted` says whether any rank got a signal to stop, `finish` whether any is to end the
    run, `corrupt` how many images others replaced. `loss_scale` is the factor that float16's loss
    had, 1 in other precisions.
    """

    loss: float
    gradient_norm: float
    interrupted: bool
    finish: bool
    corrupt: int
    loss_scale: float = 1.0

    @property
    def is_finite(self) -> bool:
        """Whether loss and gradient are finite: only then the step changed the weights."""
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)

    @property
    def overflowed(self) -> bool:
        """Whether the gradient overflowed only for the loss scale, which is halved next."""
        return not self.is_finite and math.isfinite(self.loss) and self.loss_scale > 1


_ONE_PROCESS = DistInfo()


def train_step(
    state: TrainState,
    images: Inputs,
    labels: Tensor,
    recipe: Recipe,
    *,
    step: int,
    ddp_model: nn.Module | None = None,
    dist_info: DistInfo = _ONE_PROCESS,
    interrupted: bool = False,
    finish: bool = False,
    corrupt: int = 0,
    sizes: Tensor | None = None,
) -> StepStats:
    """Trains on one batch: forward, loss, backward, unscale, clip, optimizer, moving average.

    images: this rank's; labels: uint8 [N, H, W]; sizes: int64 [N, 2], where
    images are smaller and padded at the bottom and right, one in each micro-batch. `ddp_model`
    wraps `state.model`, if there are several ranks. The loss is a sum over the counted pixels of
    all ranks and micro-batches, divided once. A step whose loss or gradient is not finite changes
    nothing but float16's loss scale. `interrupted`, `finish` and `corrupt` are this rank's; all
    ranks return the same stats.
    """
    model, optimizer, scaler = state.model, state.optimizer, state.scaler
    _copy(state.bn_backup, state.bn_buffers)
    optimizer.zero_grad(set_to_none=True)
    loss = torch.zeros((), dtype=torch.float32, device=model.device)
    tensors = images if isinstance(images, list) else [images]
    *tensors, labels = (tensor.to(model.device, non_blocking=True) for tensor in (*tensors, labels))
    images = tensors if isinstance(images, list) else tensors[0]
    for batch in micro_batches(images, labels, recipe, dist_info, sizes=sizes):
        torch.manual_seed(dropout_seed(recipe.train.seed, step, batch.number))
        with _no_sync_unless_last(ddp_model, batch):
            output = forward(ddp_model or model, batch.images, recipe, dtype=state.dtype)
            batch_loss = batch.factor * loss_from_logits(output, batch.labels, recipe)
            torch.autograd.backward(scaler.scale(batch_loss))
        loss = loss + batch_loss.detach()
    scaler.unscale_(optimizer)
    stats = reduce_step_stats(
        loss, model, dist_info, interrupted=interrupted, finish=finish, corrupt=corrupt
    )
    stats = stats._replace(loss_scale=scaler.get_scale())
    if stats.is_finite:
        clip_gradients(model, stats.gradient_norm, recipe.optimizer.clip_grad_norm)
        scaler.step(optimizer)
        update_ema(state.ema_model, model, step=step, ema=recipe.train.ema_decay)
    else:
        _copy(state.bn_buffers, state.bn_backup)
    # Without a step, the loss scale is halved.
    scaler.update()
    return stats


def forward(
    model: nn.Module, images: Inputs, recipe: Recipe, *, dtype: torch.dtype
) -> SegmentationOutput:
    """Logits of both heads, computed in `dtype`."""
    inputs = images if isinstance(images, list) else normalize(images, recipe.input)
    with autocast(inputs[0].device, dtype):
        output: SegmentationOutput = model(inputs, return_aux=True)
    return output


def loss_from_logits(output: SegmentationOutput, labels: Tensor, recipe: Recipe) -> Tensor:
    """The recipe's loss, float32, the auxiliary head's included; labels: uint8 [N, H, W]."""
    align = recipe.model.align_corners
    with autocast(labels.device, torch.float32):  # a caller's own autocast may be on
        loss = segmentation_loss(output.logits, labels, recipe.loss, align_corners=align)
        if output.aux_logits is not None:
            loss = loss + recipe.loss.aux_weight * segmentation_loss(
                output.aux_logits, labels, recipe.loss, align_corners=align
            )
    return loss


class MicroBatch(NamedTuple):
    """A part of a step's batch, with one forward and backward pass.

    `number` counts the micro-batches of all ranks. `factor` is `loss_denominator` of this
    micro-batch, divided by that of all micro-batches of all ranks, times world_size, as DDP
    averages gradients over ranks.
    """

    number: int
    images: Inputs
    labels: Tensor
    factor: Tensor
    last: bool


def micro_batches(
    images: Inputs,
    labels: Tensor,
    recipe: Recipe,
    dist_info: DistInfo,
    *,
    sizes: Tensor | None = None,
) -> Iterator[MicroBatch]:
    """Splits this rank's batch into micro-batches; of `sizes`, into its images without padding."""
    count = recipe.train.grad_accum_steps
    parts = labels.chunk(count)
    if sizes is not None:
        parts = tuple(part[:, :h, :w] for part, (h, w) in zip(parts, sizes.tolist(), strict=True))
    weights = torch.stack([loss_denominator(part, recipe.loss) for part in parts])
    factors = weights / all_reduce_sum(weights.sum()).clamp(min=torch.finfo(weights.dtype).tiny)
    factors = factors * dist_info.world_size
    inputs: Iterable[Inputs]
    if isinstance(images, list):
        inputs = map(list, zip(*(level.chunk(count) for level in images), strict=True))
    else:
        sides = [part.shape[-2:] for part in parts]
        chunks = zip(images.chunk(count), sides, strict=True)
        inputs = (chunk[:, :height, :width] for chunk, (height, width) in chunks)
    for index, (image_part, part, factor) in enumerate(zip(inputs, parts, factors, strict=True)):
        number, last = dist_info.rank * count + index, index == len(parts) - 1
        yield MicroBatch(number, image_part, part, factor, last=last)


def _no_sync_unless_last(
    ddp_model: nn.Module | None, batch: MicroBatch
) -> AbstractContextManager[None]:
    """Context in which DDP exchanges gradients only in the last micro-batch."""
    if isinstance(ddp_model, DistributedDataParallel) and not batch.last:
        return ddp_model.no_sync()
    return nullcontext()


def reduce_step_stats(
    loss: Tensor,
    model: nn.Module,
    dist_info: DistInfo,
    *,
    interrupted: bool,
    finish: bool,
    corrupt: int,
) -> StepStats:
    """Sums the ranks' losses and flags into the same StepStats on every rank.

    This is where the host waits for the device, once a step: a gradient that is not finite must
    not reach the weights.
    """
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    # The gradient, and so its norm, is the same on every rank.
    norm = torch.nn.utils.get_total_norm(gradients) / dist_info.world_size
    values = torch.stack(
        [loss.float(), norm.float(), *loss.new_tensor([interrupted, finish, corrupt])]
    )
    total, mean_norm, interrupts, finishes, replaced = all_reduce_sum(values).tolist()
    return StepStats(
        total / dist_info.world_size, mean_norm, interrupts > 0, finishes > 0, int(replaced)
    )


def clip_gradients(model: nn.Module, norm: float, max_norm: float | None) -> None:
    """Scales the gradient down to `max_norm` where its L2 norm, `norm`, is larger."""
    if max_norm is not None and norm > max_norm:
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        torch._foreach_mul_(gradients, max_norm / norm)


def dropout_seed(seed: int, step: int, micro_batch: int) -> int:
    """The seed of a micro-batch's random numbers: a function of run, step, rank and micro-batch."""
    return ((seed << 32) + step + micro_batch * 0x9E3779B97F4A7C15) % 2**64


def _copy(to: list[Tensor], values: list[Tensor]) -> None:
    if to:  # group norms have no statistics
        torch._foreach_copy_(to, values)
