"""FCN heads: a few convolutions on one feature map, and a 1x1 classifier.

Departures from Long et al. (2015): no VGG, no skip connections, no learned upsampling; these are
the heads that today's toolkits call FCN. mmsegmentation has two convolutions and a third that
fuses in the backbone's features, sssegmentation two, torchvision and pytorch-auto-drive one.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from perpixel.models.layers import conv_norm_relu, dropout
from perpixel.recipes.models import FCN


class FCNHead(nn.Module):
    """An FCN head on the backbone's features at `level` (-1 the last).

    Keys: `norm` with `input_norm`, `convs.K.{0,1}`, `fuse.{0,1}` where features are concatenated,
    `classifier`.
    """

    def __init__(
        self, in_channels: Sequence[int], num_classes: int, spec: FCN, *, level: int = -1
    ) -> None:
        super().__init__()
        self.level = level
        channels = [in_channels[level], *[spec.channels] * spec.num_convs]
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
        x = features[self.level]
        if self.norm is not None:
            x = self.norm(x)
        output = self.convs(x)
        if self.fuse is not None:
            output = self.fuse(torch.cat([x, output], dim=1))
        logits: Tensor = self.classifier(self.dropout(output))
        return logits
