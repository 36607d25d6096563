"""ResNet as a feature extractor, with the parameter names of torchvision.

Departures from He et al. (2015): a bottleneck's stride sits in its 3x3 convolution unless
`stride_in_1x1` (as in torchvision's and the toolkits' "pytorch" style); stages beyond the output
stride are dilated instead of strided, the first block of such a stage keeping the previous
dilation (mmsegmentation's contract_dilation); an optional deep stem of three 3x3 convolutions
(He et al., 2019, "Bag of Tricks", ResNet-C) under the names `stem.0` to `stem.7`.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn.functional import relu

from perpixel.models.layers import FrozenBatchNorm2d
from perpixel.recipes.models import ResNet as ResNetSpec

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
_STRIDES = {32: (1, 2, 2, 2), 16: (1, 2, 2, 1), 8: (1, 2, 1, 1)}

Norm = Callable[[int], nn.Module]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; only the first is dilated, as in mmsegmentation and sssegmentation."""

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        stride: int,
        dilation: int,
        stride_in_1x1: bool,  # noqa: ARG002  there is no 1x1 convolution in this block
        norm: Norm,
    ) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_channels, channels, stride=stride, dilation=dilation)
        self.bn1 = norm(channels)
        self.conv2 = _conv3x3(channels, channels)
        self.bn2 = norm(channels)
        self.downsample = _shortcut(in_channels, channels, stride=stride, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, h, w] to [N, channels, h/stride, w/stride]."""
        out = relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        out += self.downsample(x)
        return relu(out, inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions; the last one has four times the channels."""

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        stride: int,
        dilation: int,
        stride_in_1x1: bool,
        norm: Norm,
    ) -> None:
        super().__init__()
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, channels, 1, stride=first, bias=False)
        self.bn1 = norm(channels)
        self.conv2 = _conv3x3(channels, channels, stride=second, dilation=dilation)
        self.bn2 = norm(channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn3 = norm(4 * channels)
        self.downsample = _shortcut(in_channels, 4 * channels, stride=stride, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, h, w] to [N, 4 * channels, h/stride, w/stride]."""
        out = relu(self.bn1(self.conv1(x)), inplace=True)
        out = relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        out += self.downsample(x)
        return relu(out, inplace=True)


class ResNet(nn.Module):
    """The four stages of a ResNet; `out_channels` are those of their features."""

    def __init__(self, spec: ResNetSpec) -> None:
        super().__init__()
        norm: Norm = FrozenBatchNorm2d if spec.frozen_bn else nn.BatchNorm2d
        base = spec.base_channels
        self.deep_stem = spec.stem == "deep"
        if self.deep_stem:
            self.stem = _deep_stem(base, norm)
        else:
            self.conv1 = nn.Conv2d(3, base, 7, stride=2, padding=3, bias=False)
            self.bn1 = norm(base)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)

        block = BasicBlock if spec.depth in (18, 34) else Bottleneck
        make = partial(block, stride_in_1x1=spec.stride_in_1x1, norm=norm)
        in_channels, dilation, stages, out_channels = base, 1, [], []
        plan = zip(BLOCKS[spec.depth], _STRIDES[spec.output_stride], strict=True)
        for stage, (count, stride) in enumerate(plan):
            channels = base * 2**stage
            first = make(in_channels, channels, stride=stride, dilation=dilation)
            if stage > 0 and stride == 1:  # dilated where it would have been strided
                dilation *= 2
            in_channels = block.expansion * channels
            rest = (
                make(in_channels, channels, stride=1, dilation=dilation) for _ in range(count - 1)
            )
            stages.append(nn.Sequential(first, *rest))
            out_channels.append(in_channels)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.out_channels = tuple(out_channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalized images [N, 3, H, W] to the four stages' features, finest first."""
        if self.deep_stem:
            x = self.stem(images)
        else:
            x = relu(self.bn1(self.conv1(images)), inplace=True)
        x = self.maxpool(x)
        features = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            features.append(x)
        return features


def _conv3x3(
    in_channels: int, out_channels: int, *, stride: int = 1, dilation: int = 1
) -> nn.Conv2d:
    return nn.Conv2d(
        in_channels,
        out_channels,
        3,
        stride=stride,
        padding=dilation,
        dilation=dilation,
        bias=False,
    )


def _shortcut(in_channels: int, out_channels: int, *, stride: int, norm: Norm) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), norm(out_channels)
    )


def _deep_stem(channels: int, norm: Norm) -> nn.Sequential:
    half = channels // 2
    return nn.Sequential(
        *(_conv3x3(3, half, stride=2), norm(half), nn.ReLU(inplace=True)),
        *(_conv3x3(half, half), norm(half), nn.ReLU(inplace=True)),
        *(_conv3x3(half, channels), norm(channels), nn.ReLU(inplace=True)),
    )
