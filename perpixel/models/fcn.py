"""FCN heads: a few convolutions on one feature map, and a 1x1 classifier.

Departures from Long et al. (2015): no VGG, no skip connections, no learned upsampling; these are
the heads that today's toolkits call FCN. mmsegmentation has two convolutions and a third that
fuses in the backbone's features, sssegmentation two, torchvision and pytorch-auto-drive one.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from perpixel.models.layers import conv_norm_relu, dropout
from perpixel.recipes.models import FCN


class FCNHead(nn.Module):
    """An FCN head on the backbone's features at `level` (-1 the last), or on all.

    Keys: `norm` with `input_norm`, `convs.K.{0,1}`, `fuse.{0,1}` where features are concatenated,
    `classifier`.
    """

    def __init__(
        self, in_channels: Sequence[int], num_classes: int, spec: FCN, *, level: int = -1
    ) -> None:
        super().__init__()
        self.level = None if spec.inputs == "all" else level
        first = sum(in_channels) if self.level is None else in_channels[self.level]
        channels = [first, *[spec.channels] * spec.num_convs]
        self.norm = nn.BatchNorm2d(channels[0]) if spec.input_norm else None
        self.convs = nn.Sequential(
            *(
                conv_norm_relu(*pair, kernel_size=spec.kernel_size, dilation=spec.dilation)
                for pair in pairwise(channels)
            )
        )
        self.fuse = None
        if spec.concat_input:
            self.fuse = conv_norm_relu(
                channels[0] + channels[-1], channels[-1], kernel_size=spec.kernel_size
            )
        self.dropout = dropout(spec.dropout, type=spec.dropout_type)
        self.classifier = nn.Conv2d(channels[-1], num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """The backbone's features [N, C, h, w], finest first, to logits [N, num_classes, h, w]."""
        x = _concatenate(features) if self.level is None else features[self.level]
        if self.norm is not None:
            x = self.norm(x)
        output = self.convs(x)
        if self.fuse is not None:
            output = self.fuse(torch.cat([x, output], dim=1))
        logits: Tensor = self.classifier(self.dropout(output))
        return logits


def _concatenate(features: Sequence[Tensor]) -> Tensor:
    """Resizes features to the finest one's size and concatenates them.

    It is mmsegmentation's input_transform "resize_concat" (decode_heads/decode_head.py).
    """
    finest, *others = features
    size = list(finest.shape[2:])
    resized = [interpolate(x, size=size, mode="bilinear", align_corners=False) for x in others]
    return torch.cat([finest, *resized], dim=1)
