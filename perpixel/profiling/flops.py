"""Counts parameters and multiply-adds of every layer on PyTorch's meta device.

Tensors there have shapes and no values, so that any size is counted at once and without memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import torch
from torch import Tensor, nn

from perpixel.errors import UsageError
from perpixel.models.build import build
from perpixel.models.fcn_skip import Deconvolution
from perpixel.models.layers import FrozenBatchNorm2d
from perpixel.recipes.base import Size
from perpixel.recipes.models import Model

CONVENTIONS = {
    "macs": "convolutions, deconvolutions and linear layers, their biases, and two per batch-norm "
    "element, as in pytorch-auto-drive, whose FLOPs are twice that",
    "macs_convolutions": "convolutions, deconvolutions and linear layers without biases",
}
"""What the two numbers of multiply-adds count; other operations count as zero."""

_COUNTED = (nn.Conv2d, Deconvolution, nn.Linear, nn.BatchNorm2d, FrozenBatchNorm2d)


@dataclass(frozen=True)
class Layer:
    """One layer: its name, class, output shape [N, C, h, w], parameters and multiply-adds."""

    name: str
    kind: str
    output: tuple[int, ...]
    params: int
    macs: int
    macs_convolutions: int


@dataclass(frozen=True)
class Count:
    """Counts of a model at one size. `params` excludes the auxiliary head, for training only."""

    params: int
    params_auxiliary: int
    layers: tuple[Layer, ...]

    @property
    def macs(self) -> int:
        """Multiply-adds of convolutions, linear layers, biases and batch norms."""
        return sum(layer.macs for layer in self.layers)

    @property
    def macs_convolutions(self) -> int:
        """Multiply-adds of convolutions and linear layers without biases."""
        return sum(layer.macs_convolutions for layer in self.layers)


def count(spec: Model, *, num_classes: int, size: Size, batch: int = 1) -> Count:
    """Counts a forward pass over `batch` images of `size`, to the logits at the head's stride.

    Raises UsageError for a size that the model cannot take.
    """
    with torch.device("meta"):
        model = build(spec, num_classes=num_classes).eval()
    layers: list[Layer] = []
    handles = [
        module.register_forward_hook(partial(_record_layer, name, layers))
        for name, module in model.named_modules()
        if not any(module.children()) or isinstance(module, _COUNTED)  # timm's norms have children
    ]
    try:
        with torch.inference_mode():
            model(torch.empty(batch, 3, *size, device="meta"))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"size {size[0]}x{size[1]} does not fit this model: {reason}") from None
    finally:
        for handle in handles:
            handle.remove()
    params = _num_parameters(model)
    params_auxiliary = 0 if model.auxiliary is None else _num_parameters(model.auxiliary)
    return Count(params - params_auxiliary, params_auxiliary, tuple(layers))


def _num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _record_layer(
    name: str, layers: list[Layer], module: nn.Module, inputs: Sequence[Tensor], output: Tensor
) -> None:
    """Forward hook that appends `module` to `layers` if it has parameters or multiply-adds."""
    macs_convolutions = others = 0
    match module:
        case nn.Conv2d():
            per_element = module.in_channels // module.groups * prod(module.kernel_size)
            macs_convolutions = output.numel() * per_element
            others = output.numel() if module.bias is not None else 0
        case Deconvolution():  # every input value times every weight of its channel
            macs_convolutions = inputs[0].numel() * module.weight[0].numel()
        case nn.Linear():
            macs_convolutions = output.numel() * module.in_features
            others = output.numel() if module.bias is not None else 0
        case nn.BatchNorm2d() | FrozenBatchNorm2d():
            others = 2 * inputs[0].numel()
    params = sum(parameter.numel() for parameter in module.parameters(recurse=False))
    if params or macs_convolutions or others:
        layers.append(
            Layer(
                name=name,
                kind=type(module).__name__,
                output=tuple(output.shape),
                params=params,
                macs=macs_convolutions + others,
                macs_convolutions=macs_convolutions,
            )
        )
