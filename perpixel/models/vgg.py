"""VGG-16 and CaffeNet as trunks of the original FCN (Long et al., 2015, section 4.1).

Their classifiers are convolutions: fc6 of the size of the last feature map for 224x224, fc7 1x1.
The first convolution pads by 100, so that an image of one pixel still leaves fc6 a map to see; the
head crops what that adds (models/fcn_skip.py). Pooling rounds sizes up, as Caffe does. Sources:
voc-fcn8s/net.py and voc-fcn-alexnet/net.py of shelhamer/fcn.berkeleyvision.org.

Departure: random weights are He et al.'s (2015), as Caffe's files give none and would start at 0.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from perpixel.models.layers import dropout
from perpixel.recipes.models import VGG16 as VGG16Spec
from perpixel.recipes.models import CaffeNet as CaffeNetSpec

_PADDING = 100
_CONVS = (2, 2, 3, 3, 3)
_CHANNELS = (1, 2, 4, 8, 8)  # times the first stage's


class VGG16(nn.Module):
    """VGG-16 up to fc7. Keys: `stages.S.K` (conv{S+1}_{K+1} of Caffe), `fc6`, `fc7`.

    `out_channels` are those of what it returns, the images first.
    """

    def __init__(self, spec: VGG16Spec) -> None:
        super().__init__()
        widths = [3, *(spec.base_channels * factor for factor in _CHANNELS)]
        self.stages = nn.ModuleList()
        for (before, width), convs in zip(pairwise(widths), _CONVS, strict=True):
            channels = [before, *[width] * convs]
            self.stages.append(
                nn.ModuleList(nn.Conv2d(*pair, 3, padding=1) for pair in pairwise(channels))
            )
        first = self.stages[0].get_submodule("0")
        assert isinstance(first, nn.Conv2d)
        first.padding = _PADDING, _PADDING
        self.pool = nn.MaxPool2d(2, stride=2, ceil_mode=True)
        self.fc6 = nn.Conv2d(widths[-1], spec.fc_channels, 7)
        self.fc7 = nn.Conv2d(spec.fc_channels, spec.fc_channels, 1)
        self.dropout = dropout(spec.dropout, type=spec.dropout_type)
        self.out_channels = (3, widths[3], widths[4], spec.fc_channels)
        _init(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalized images [N, 3, H, W] to [images, pool3, pool4, fc7], each [N, C, h, w]."""
        x, pooled = images, []
        for convs in self.stages:
            for conv in convs.children():
                x = relu(conv(x), inplace=True)
            x = self.pool(x)
            pooled.append(x)
        x = self.dropout(relu(self.fc6(x), inplace=True))
        return [images, pooled[2], pooled[3], self.dropout(relu(self.fc7(x), inplace=True))]


class CaffeNet(nn.Module):
    """Caffe's AlexNet (Krizhevsky et al., 2012, its norms after pooling) up to fc7.

    Keys: `conv1` to `conv5`, `fc6`, `fc7`, as in Caffe. `out_channels` are those of what it
    returns, the images first.
    """

    def __init__(self, spec: CaffeNetSpec) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 96, 11, stride=4, padding=_PADDING)
        self.conv2 = nn.Conv2d(96, 256, 5, padding=2, groups=2)
        self.conv3 = nn.Conv2d(256, 384, 3, padding=1)
        self.conv4 = nn.Conv2d(384, 384, 3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(384, 256, 3, padding=1, groups=2)
        self.pool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.norm = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)
        self.fc6 = nn.Conv2d(256, spec.fc_channels, 6)
        self.fc7 = nn.Conv2d(spec.fc_channels, spec.fc_channels, 1)
        self.dropout = dropout(spec.dropout, type=spec.dropout_type)
        self.out_channels = (3, spec.fc_channels)
        _init(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalized images [N, 3, H, W] to [images, fc7], each [N, C, h, w]."""
        x = images
        for conv in (self.conv1, self.conv2):
            x = self.norm(self.pool(relu(conv(x), inplace=True)))
        for conv in (self.conv3, self.conv4, self.conv5):
            x = relu(conv(x), inplace=True)
        x = self.dropout(relu(self.fc6(self.pool(x)), inplace=True))
        return [images, self.dropout(relu(self.fc7(x), inplace=True))]


@torch.no_grad()
def _init(trunk: nn.Module) -> None:
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            assert module.bias is not None
            nn.init.zeros_(module.bias)
