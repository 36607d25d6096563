"""The one function that makes a finished model fast on a device."""

from typing import Literal

import torch

from perpixel.acceleration.activation_checkpointing import apply_activation_checkpointing
from perpixel.acceleration.compile import compile_model
from perpixel.acceleration.dilated_depthwise import use_float32
from perpixel.acceleration.fuse_conv_bn import fuse_conv_bn
from perpixel.acceleration.strided_pointwise import avoid_strides
from perpixel.acceleration.winograd import use_winograd
from perpixel.models.segmenter import Segmenter
from perpixel.runtime.device import to_device


def accelerate(
    model: Segmenter,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    training: bool,
    activation_checkpointing: Literal["off", "norms", "stages"] = "off",
    compile: Literal["off", "default", "reduce-overhead"] = "off",
) -> Segmenter:
    """The model on a device, with the same numbers (to rounding) in less time or memory.

    For training it is the same model in training mode, with the same key names. For prediction it
    is a copy in evaluation mode with batch norms fused into the convolutions and weights of
    `dtype`. float32 convolutions on a CPU use Winograd's algorithm where that is faster. `compile`
    is torch.compile's mode, in prediction "default": it compiles at the first call with each image
    size. Activation checkpointing is for training; a compiled model takes "stages" only (`Train`
    checks it). Raises UsageError where it cannot be compiled or checkpointed, OutOfMemoryError.
    """
    if not training:
        model = fuse_conv_bn(model).to(dtype)
    model = to_device(model, device).train(training)
    if compile == "off" and model.device.type == "cpu" and dtype == torch.float32:
        use_winograd(model)
    if training and model.device.type == "cpu":
        avoid_strides(model)
    if training and model.device.type == "cpu" and dtype == torch.bfloat16:
        use_float32(model)
    if training and activation_checkpointing != "off":
        apply_activation_checkpointing(model, activation_checkpointing, compiled=compile != "off")
    if compile != "off" and training:
        # A graph for each crop size: otherwise the final phase's kernels would depend on whether
        # this process ran the first phase.
        compile_model(model, mode=compile, dynamic=False)
    elif compile != "off":
        compile_model(model, options={"freezing": True})  # weights as constants
    return model
