"""FCN heads: a few convolutions on one feature map, and a 1x1 classifier.

Departures from Long et al. (2015): no VGG, no skip connections, no learned upsampling; these are
the heads that today's toolkits call FCN. mmsegmentation has two convolutions and a third that
fuses in the backbone's features, sssegmentation two, torchvision and pytorch-auto-drive one.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from perpixel.models.layers import conv_norm_relu, dropout
from perpixel.recipes.models import FCN


class FCNHead(nn.Module):
    """Keys: `convs.K.{0,1}`, `fuse.{0,1}` where features are concatenated, `classifier`."""

    def __init__(self, inputs: int, num_classes: int, *, spec: FCN) -> None:
        super().__init__()
        widths = [inputs, *[spec.channels] * spec.num_convs]
        self.convs = nn.Sequential(
            *(
                conv_norm_relu(before, after, kernel=spec.kernel_size, dilation=spec.dilation)
                for before, after in pairwise(widths)
            )
        )
        self.fuse = None
        if spec.concat_input:
            self.fuse = conv_norm_relu(
                inputs + spec.channels, spec.channels, kernel=spec.kernel_size
            )
        self.dropout = dropout(spec.dropout, kind=spec.dropout_type)
        self.classifier = nn.Conv2d(widths[-1], num_classes, 1)

    def forward(self, features: Tensor) -> Tensor:
        """[N, inputs, h, w] to logits [N, num_classes, h, w]."""
        output = self.convs(features)
        if self.fuse is not None:
            output = self.fuse(torch.cat([features, output], dim=1))
        logits: Tensor = self.classifier(self.dropout(output))
        return logits
