"""Keeps dilated depthwise convolutions in float32 where a CPU trains in bfloat16.

oneDNN's jit_bf16:avx512_core_bf16 (torch 2.13 and 2.14) gives a wrong gradient of their weights,
or one from memory that nothing was written to, for channels-last inputs from about 40 pixels on: a
MobileNetV2 of output stride 8 then learns nothing, or stops at a gradient that is not finite.
float32 is right, and no slower, as these convolutions are bound by memory.
"""

from typing import Any, cast

from torch import Tensor, float32, nn

from perpixel.runtime.dtype import autocast


def use_float32(model: nn.Module) -> None:
    """Makes the model's dilated depthwise convolutions compute in float32, whatever autocast says.

    Parameters and their names stay as they are.
    """
    for module in model.modules():
        if (
            isinstance(module, nn.Conv2d)
            and not isinstance(module, _InFloat32)
            and module.groups == module.in_channels > 1
            and max(module.dilation) > 1
        ):
            module.__class__ = _in_float32(type(module))


class _InFloat32:
    weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        convolve = cast(Any, super()).forward
        if self.weight.dtype != float32:  # converted for a prediction later
            return cast(Tensor, convolve(x))
        with autocast(x.device, float32):
            return cast(Tensor, convolve(x.float())).to(x.dtype)


class _Float32Conv2d(_InFloat32, nn.Conv2d):
    weight: nn.Parameter


def _in_float32(convolution: type[nn.Conv2d]) -> Any:
    """Returns a subclass of a convolution's class; timm has one with TensorFlow's padding."""
    if convolution is nn.Conv2d:
        return _Float32Conv2d
    return type(f"Float32{convolution.__name__}", (_InFloat32, convolution), {})
