"""Parameters and multiply-adds, layer by layer, of a model that is never computed.

The model and its image live on PyTorch's meta device, where tensors have shapes and no values:
any size is counted in a moment and without memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import torch
from torch import Tensor, nn

from perpixel.errors import UsageError
from perpixel.models.build import build
from perpixel.models.layers import FrozenBatchNorm2d
from perpixel.recipes.base import Size
from perpixel.recipes.models import Model

CONVENTIONS = {
    "macs": "convolutions and linear layers, their biases, and two per batch-norm element, as "
    "pytorch-auto-drive's figures are, which are twice that",
    "macs_convolutions": "convolutions and linear layers alone",
}
"""What the two numbers of multiply-adds count; what is not named counts nothing in either."""


_COUNTED = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, FrozenBatchNorm2d)


@dataclass(frozen=True)
class Layer:
    """One layer's share: its name, kind and output [N, C, h, w], parameters and multiply-adds."""

    name: str
    kind: str
    output: tuple[int, ...]
    params: int
    macs: int
    macs_convolutions: int


@dataclass(frozen=True)
class Count:
    """A model at one size. `params` leaves out the auxiliary head, which only training has."""

    params: int
    params_auxiliary: int
    layers: tuple[Layer, ...]

    @property
    def macs(self) -> int:
        """Multiply-adds by the first of CONVENTIONS."""
        return sum(layer.macs for layer in self.layers)

    @property
    def macs_convolutions(self) -> int:
        """Multiply-adds by the second of CONVENTIONS."""
        return sum(layer.macs_convolutions for layer in self.layers)


def count(spec: Model, *, num_classes: int, size: Size, batch: int = 1) -> Count:
    """The cost of one pass over `batch` images of `size`, up to the logits at the head's stride.

    Raises UsageError for a size that the model cannot take.
    """
    with torch.device("meta"):
        model = build(spec, num_classes=num_classes).eval()
    layers: list[Layer] = []
    handles = [
        module.register_forward_hook(partial(_record, name, layers))
        for name, module in model.named_modules()
        if not any(module.children()) or isinstance(module, _COUNTED)  # timm's norms hold others
    ]
    try:
        with torch.inference_mode():
            model(torch.empty(batch, 3, *size, device="meta"))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"size {size[0]}x{size[1]} is not for this model: {reason}") from None
    finally:
        for handle in handles:
            handle.remove()
    every = sum(parameter.numel() for parameter in model.parameters())
    auxiliary = 0
    if model.auxiliary is not None:
        auxiliary = sum(parameter.numel() for parameter in model.auxiliary.parameters())
    return Count(every - auxiliary, auxiliary, tuple(layers))


def _record(
    name: str, layers: list[Layer], module: nn.Module, given: Sequence[Tensor], output: Tensor
) -> None:
    """Adds a module that has just run to `layers`, if it counts anything."""
    products, others = _multiply_adds(module, given[0], output)
    params = sum(parameter.numel() for parameter in module.parameters(recurse=False))
    if params or products or others:
        layers.append(
            Layer(
                name=name,
                kind=type(module).__name__,
                output=tuple(output.shape),
                params=params,
                macs=products + others,
                macs_convolutions=products,
            )
        )


def _multiply_adds(module: nn.Module, given: Tensor, output: Tensor) -> tuple[int, int]:
    """Those of products, and those that only the first convention knows."""
    match module:
        case nn.Conv2d():
            per_element = module.in_channels // module.groups * prod(module.kernel_size)
            return output.numel() * per_element, output.numel() if module.bias is not None else 0
        case nn.Linear():
            bias = output.numel() if module.bias is not None else 0
            return output.numel() * module.in_features, bias
        case nn.BatchNorm2d() | FrozenBatchNorm2d():
            return 0, 2 * given.numel()
        case _:
            return 0, 0
