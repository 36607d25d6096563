"""Memory for time: features that are computed again in the backward pass instead of being kept."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

_Norm = nn.BatchNorm2d | nn.SyncBatchNorm


def recomputed(stage: nn.Module, features: Tensor) -> Tensor:
    """stage(features), of which only `features` is kept; gradients and statistics stay the same."""
    held: dict[str, Any] = {"context_fn": lambda: (nullcontext(), _statistics_held(stage))}
    if torch.compiler.is_compiling():  # it traces a stage once, and counts a batch once
        held = {}
    output: Tensor = checkpoint(stage, features, use_reentrant=False, **held)
    return output


@contextmanager
def _statistics_held(stage: nn.Module) -> Iterator[None]:
    """Inside, batch norms do not count the batch that they saw before."""
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
