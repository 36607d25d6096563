"""Memory for time: features that are computed again in the backward pass instead of being kept."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import batch_norm
from torch.utils.checkpoint import checkpoint

_Norm = nn.BatchNorm2d | nn.SyncBatchNorm
_AGAIN = "perpixel_again"
"""The attribute of an activation that tells how it is computed again; None where it is kept."""


def activations_recomputed(asked: bool = True) -> AbstractContextManager[object]:
    """A context for a pass, which if `asked` keeps norms' inputs but no activations after them.

    What in the backward pass needs one computes it again, bit for bit. (torch.compile chooses
    itself what to keep.)
    """
    return saved_tensors_hooks(_kept, _unkept) if asked else nullcontext()


def norm_relu(norm: nn.Module, features: Tensor, *, onto: Tensor | None = None) -> Tensor:
    """relu(norm(features) + onto), an activation that `activations_recomputed` does not keep.

    But for a norm over several ranks' images, as they would have to meet again, and where `onto`
    is none that is kept anyway: of a chain of residual blocks every second activation is there.
    """
    output: Tensor = norm(features)
    if onto is not None:
        output += onto  # in place: nothing else holds a norm's output
    if output.requires_grad and not torch.compiler.is_compiling():
        alone = type(norm) is nn.BatchNorm2d or not isinstance(norm, _Norm)
        there = onto is None or getattr(onto, _AGAIN, True) is None
        setattr(output, _AGAIN, _Again(norm, features, onto) if alone and there else None)
    return output.relu_()


class _Again:
    """An activation, which is there from its first use in the backward pass to its last."""

    def __init__(self, norm: nn.Module, features: Tensor, onto: Tensor | None) -> None:
        self._norm, self._features = norm, features.detach()
        self._onto = None if onto is None else onto.detach()
        self._found: Tensor | None = None
        self.uses = self._left = 0

    @torch.no_grad()
    def activation(self) -> Tensor:
        if self._found is None:
            norm, self._left = self._norm, self.uses
            if isinstance(norm, nn.BatchNorm2d) and norm.training:  # its statistics stay
                weights = norm.weight, norm.bias
                output = batch_norm(self._features, None, None, *weights, True, 0.0, norm.eps)
            else:
                output = norm(self._features)
            if self._onto is not None:
                output += self._onto
            self._found = output.relu_()
        found = self._found
        self._left -= 1
        if self._left == 0:
            self._found = None
        return found


def _kept(tensor: Tensor) -> Tensor | _Again:
    again: _Again | None = getattr(tensor, _AGAIN, None)
    if again is None:
        return tensor
    again.uses += 1
    return again


def _unkept(kept: Tensor | _Again) -> Tensor:
    return kept.activation() if isinstance(kept, _Again) else kept


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
