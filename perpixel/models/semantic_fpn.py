"""Semantic FPN (Kirillov et al., 2019, "Panoptic Feature Pyramid Models", section 3).

Departures from the paper: dropout before the classifier and batch norm in the scale heads
(mmsegmentation, sssegmentation; GroupNorm as in the paper and detectron2 by `norm`); the logits
stay at stride 4 and are upsampled outside the model. `align_corners` holds inside the head
too (mmsegmentation decode_heads/fpn_head.py, sssegmentation semanticfpn.py). The last doubling
of the levels, which is linear, is one of their sum where their sizes are equal and known.
"""

from collections.abc import Sequence
from functools import partial
from typing import cast

from torch import SymInt, Tensor, nn
from torch.nn.functional import interpolate

from perpixel.models.layers import conv_norm_relu
from perpixel.recipes.models import SemanticFPN

_CONVS = (1, 1, 2, 3)  # per level, strides 4, 8, 16, 32


class SemanticFPNHead(nn.Module):
    """Neck and head. Keys: `lateral.L`, `output.L`, `scales.L.K.{0,1}`, `classifier`.

    With `one_stride`, that of a plain ViT's features, they become a pyramid first (`pyramid.L`).
    `input_norm` adds `norms.L`.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        spec: SemanticFPN,
        *,
        align_corners: bool = False,
        one_stride: int | None = None,
    ) -> None:
        super().__init__()
        self.pyramid = None if one_stride is None else _pyramid(in_channels, one_stride)
        self.norms = None
        if spec.input_norm:
            self.norms = nn.ModuleList(nn.GroupNorm(1, channels) for channels in in_channels)
        self._align_corners = align_corners
        neck = spec.fpn_channels
        if spec.fpn_norm:
            self.lateral = nn.ModuleList(
                conv_norm_relu(channels, neck, kernel_size=1) for channels in in_channels
            )
            self.output = nn.ModuleList(conv_norm_relu(neck, neck) for _ in in_channels)
        else:
            self.lateral = nn.ModuleList(nn.Conv2d(channels, neck, 1) for channels in in_channels)
            self.output = nn.ModuleList(nn.Conv2d(neck, neck, 3, padding=1) for _ in in_channels)
        self.scales = nn.ModuleList(
            nn.ModuleList(
                conv_norm_relu(neck if index == 0 else spec.channels, spec.channels, norm=spec.norm)
                for index in range(count)
            )
            for count in _CONVS
        )
        self.dropout = nn.Dropout2d(spec.dropout)
        self.classifier = nn.Conv2d(spec.channels, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Features at strides 4, 8, 16, 32 to logits [N, num_classes, H/4, W/4]."""
        if self.pyramid is not None:
            features = [
                resize(feature) for resize, feature in zip(self.pyramid, features, strict=True)
            ]
        if self.norms is not None:
            features = [norm(feature) for norm, feature in zip(self.norms, features, strict=True)]
        levels = [lateral(feature) for lateral, feature in zip(self.lateral, features, strict=True)]
        for fine in range(len(levels) - 2, -1, -1):
            levels[fine] = levels[fine] + interpolate(
                levels[fine + 1], size=levels[fine].shape[-2:], mode="nearest"
            )
        upsample = partial(interpolate, mode="bilinear", align_corners=self._align_corners)
        stride_8: list[Tensor] = []
        for level, convs in enumerate(self.scales):
            feature = self.output[level](levels[level])
            for index, conv in enumerate(cast(nn.ModuleList, convs)):
                if index > 0:  # from its own stride to stride 4, one doubling per convolution
                    feature = upsample(feature, scale_factor=2.0)
                feature = conv(feature)
            if level == 0:
                merged, size = feature, feature.shape[-2:]
                known = not any(isinstance(side, SymInt) for side in size)
            elif known and stride_8 and stride_8[-1].shape == feature.shape:
                stride_8[-1] = stride_8[-1] + feature
            else:
                stride_8.append(feature)
        for feature in stride_8:
            feature = upsample(feature, scale_factor=2.0)
            if not known or feature.shape[-2:] != size:  # at odd sizes doubling overshoots
                feature = upsample(feature, size=list(size))
            merged = merged + feature
        logits: Tensor = self.classifier(self.dropout(merged))
        return logits


def _pyramid(channels: Sequence[int], stride: int) -> nn.ModuleList:
    """Resizes features of one stride to strides twice as large each, the first near 4.

    A 2x2 transposed convolution upsamples by 2, two with batch norm and GELU between them by 4; max
    pooling shrinks (BEiT's backbone/beit.py; mmsegmentation's Feature2Pyramid in
    necks/featurepyramid.py). From stride 16 or 14 the factors are 4, 2, 1, 1/2, from 8 they are 2,
    1, 1/2, 1/4.
    """
    doublings = (2, 1, 0, -1) if stride > 8 else (1, 0, -1, -2)
    return nn.ModuleList(map(_resize, channels, doublings))


def _resize(channels: int, doublings: int) -> nn.Module:
    if doublings < 0:
        return nn.MaxPool2d(2**-doublings, stride=2**-doublings)
    if doublings == 0:
        return nn.Identity()
    double = partial(nn.ConvTranspose2d, channels, channels, 2, stride=2)
    if doublings == 1:
        return double()
    return nn.Sequential(double(), nn.BatchNorm2d(channels), nn.GELU(), double())
