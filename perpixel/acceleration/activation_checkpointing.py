"""Activation checkpointing of a ResNet's stages: less memory in training for more time."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from perpixel.acceleration import winograd
from perpixel.errors import UsageError
from perpixel.models.resnet import ResNet
from perpixel.models.segmenter import Segmenter

_CONVOLUTIONS = (torch.ops.aten.convolution.default, winograd.OP)
_Norm = nn.BatchNorm2d | nn.SyncBatchNorm


def apply_activation_checkpointing(
    model: Segmenter, mode: Literal["norms", "stages"], *, compiled: bool = False
) -> None:
    """Recomputes activations inside the ResNet's stages in the backward pass, bit for bit.

    "norms" keeps the outputs of convolutions and recomputes what is cheap (norms, additions and
    ReLU); "stages" keeps only the stages' inputs. Key names, gradients and batch norm's statistics
    stay the same. Raises UsageError for another backbone. A model that torch.compile compiles takes
    "stages" only.
    """
    if not isinstance(model.backbone, ResNet):
        raise UsageError(
            f"train.activation_checkpointing={mode} needs a ResNet backbone: set it to off"
        )
    for name in ("layer1", "layer2", "layer3", "layer4"):
        stage = getattr(model.backbone, name)
        setattr(model.backbone, name, CheckpointedStage(stage, mode=mode, compiled=compiled))


class CheckpointedStage(nn.Sequential):
    """A stage, with its key names, whose activations are recomputed in the backward pass."""

    def __init__(
        self, stage: nn.Sequential, *, mode: Literal["norms", "stages"], compiled: bool
    ) -> None:
        super().__init__(*stage)
        self.mode, self.compiled = mode, compiled

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] to the stage's features."""
        if not self.training:
            return super().forward(x)  # type: ignore[no-any-return, no-untyped-call]
        options: dict[str, Any] = {"context_fn": self._contexts}
        if self.compiled:  # traced once: batch norm counts a batch once
            options = {}
        output: Tensor = checkpoint(super().forward, x, use_reentrant=False, **options)
        return output

    def _contexts(self) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        """Contexts of the forward pass and of the recomputation."""
        if self.mode == "stages":
            return nullcontext(), _frozen_statistics(self)
        forward, recompute = create_selective_checkpoint_contexts(  # type: ignore[no-untyped-call]
            _keep_convolutions
        )
        return forward, _both(_frozen_statistics(self), recompute)


def _keep_convolutions(_context: object, op: object, *_: object, **__: object) -> CheckpointPolicy:
    if op in _CONVOLUTIONS:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


@contextmanager
def _both(
    first: AbstractContextManager[Any], second: AbstractContextManager[Any]
) -> Iterator[None]:
    with first, second:
        yield


@contextmanager
def _frozen_statistics(stage: nn.Module) -> Iterator[None]:
    """Context in which batch norms do not update their statistics: they saw this batch before."""
    norms = [module for module in stage.modules() if isinstance(module, _Norm)]
    usual = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked = norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, usual, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
