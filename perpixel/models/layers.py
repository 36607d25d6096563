"""The pieces that every model here is made of."""

from typing import Literal

import torch
from torch import Tensor, nn

from perpixel.models.recomputing import norm_relu
from perpixel.models.winograd import Conv3x3


class ConvNormReLU(nn.Sequential):
    """Convolution, norm and ReLU, once or more often, one after another."""

    def forward(self, features: Tensor) -> Tensor:
        """[N, inputs, h, w] to [N, outputs, h/stride, w/stride]."""
        layers = list(self)
        for convolution, norm in zip(layers[::3], layers[1::3], strict=True):
            features = norm_relu(norm, convolution(features))
        return features


def conv_norm_relu(
    inputs: int,
    outputs: int,
    *,
    kernel: Literal[1, 3] = 3,
    stride: int = 1,
    dilation: int = 1,
    norm: Literal["batch", "group"] = "batch",
) -> ConvNormReLU:
    """Convolution without bias, normalization, ReLU; padded to keep the size at stride 1.

    `norm` is "batch" or "group" (32 groups). Keys: 0 convolution, 1 normalization.
    """
    return ConvNormReLU(
        Conv3x3(inputs, outputs, stride=stride, dilation=dilation)
        if kernel == 3
        else nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False),
        nn.GroupNorm(32, outputs) if norm == "group" else nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def dropout(share: float, *, kind: Literal["channel", "element"]) -> nn.Module:
    """Drops whole feature maps ("channel") or single values ("element")."""
    return nn.Dropout2d(share) if kind == "channel" else nn.Dropout(share)


class FrozenBatchNorm2d(nn.Module):
    """Batch norm whose scale, shift and statistics are constants (detectron2 layers/batch_norm)."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor
    eps = 1e-5

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
            self.register_buffer(name, torch.full((channels,), float(value)))

    def forward(self, features: Tensor) -> Tensor:
        """[N, C, h, w] to [N, C, h, w]."""
        statistics = self.running_mean, self.running_var
        return nn.functional.batch_norm(
            features, *statistics, self.weight, self.bias, training=False, eps=self.eps
        )
