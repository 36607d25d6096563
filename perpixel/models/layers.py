"""The layers that several models are made of."""

from typing import Literal

import torch
from torch import Tensor, nn


def conv_norm_relu(
    in_channels: int,
    out_channels: int,
    *,
    kernel_size: Literal[1, 3] = 3,
    stride: int = 1,
    dilation: int = 1,
    norm: Literal["batch", "group"] = "batch",
) -> nn.Sequential:
    """Convolution without bias, normalization, ReLU; padded to keep the size at stride 1.

    `norm` is "batch" or "group" (32 groups). Keys: 0 convolution, 1 normalization.
    """
    return nn.Sequential(
        nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=dilation if kernel_size == 3 else 0,
            dilation=dilation if kernel_size == 3 else 1,
            bias=False,
        ),
        nn.GroupNorm(32, out_channels) if norm == "group" else nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def dropout(p: float, *, type: Literal["channel", "element"]) -> nn.Module:
    """Dropout of whole feature maps ("channel") or of single values ("element")."""
    return nn.Dropout2d(p) if type == "channel" else nn.Dropout(p)


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

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] to [N, C, h, w]."""
        statistics = self.running_mean, self.running_var
        return nn.functional.batch_norm(
            x, *statistics, self.weight, self.bias, training=False, eps=self.eps
        )
