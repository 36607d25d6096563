"""Keeps 1x1 convolutions with a stride away from a fault of oneDNN's on CPUs.

In torch 2.14 its gradient of their weights writes beyond its memory for channels-last inputs of few
channels (8 and fewer; 16 were right): a training of FastViT, whose stem has such a convolution of
the image, ends with a segmentation fault. Every second pixel without a stride is the same.
"""

from torch import Tensor, nn

_FEW_CHANNELS = 15


def avoid_strides(model: nn.Module) -> None:
    """Makes the model's 1x1 convolutions of few channels leave out pixels, then convolve.

    Parameters and their names stay as they are, and so do the numbers. Subclasses, which may
    compute something else, are left alone.
    """
    for module in model.modules():
        if (
            type(module) is nn.Conv2d
            and module.kernel_size == (1, 1)
            and module.padding == (0, 0)
            and module.in_channels <= _FEW_CHANNELS
            and max(module.stride) > 1
        ):
            module.__class__ = _StridedConv2d


class _StridedConv2d(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        down, right = self.stride
        return nn.functional.conv2d(
            x[..., ::down, ::right], self.weight, self.bias, groups=self.groups
        )
