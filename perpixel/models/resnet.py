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

from perpixel.models.layers import ConvNormReLU, FrozenBatchNorm2d
from perpixel.models.recomputing import norm_relu, recomputed
from perpixel.models.winograd import Conv3x3
from perpixel.recipes.models import ResNet as ResNetSpec

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
WIDTHS = (64, 128, 256, 512)
"""The stages' channels, of which a bottleneck's outputs have four times as many."""
_STRIDES = {32: (1, 2, 2, 2), 16: (1, 2, 2, 1), 8: (1, 2, 1, 1)}

Norm = Callable[[int], nn.Module]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; only the first is dilated, as in every toolkit."""

    expansion = 1

    def __init__(
        self,
        inputs: int,
        width: int,
        *,
        stride: int,
        dilation: int,
        stride_in_1x1: bool,  # noqa: ARG002  there is no 1x1 convolution in this block
        norm: Norm,
    ) -> None:
        super().__init__()
        self.conv1 = Conv3x3(inputs, width, stride=stride, dilation=dilation)
        self.bn1 = norm(width)
        self.conv2 = Conv3x3(width, width)
        self.bn2 = norm(width)
        self.downsample = _projection(inputs, width, stride=stride, norm=norm)

    def forward(self, features: Tensor) -> Tensor:
        """[N, inputs, h, w] to [N, width, h/stride, w/stride]."""
        residual = norm_relu(self.bn1, self.conv1(features))
        return norm_relu(self.bn2, self.conv2(residual), onto=self.downsample(features))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions; the last one widens four-fold."""

    expansion = 4

    def __init__(
        self,
        inputs: int,
        width: int,
        *,
        stride: int,
        dilation: int,
        stride_in_1x1: bool,
        norm: Norm,
    ) -> None:
        super().__init__()
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = nn.Conv2d(inputs, width, 1, stride=first, bias=False)
        self.bn1 = norm(width)
        self.conv2 = Conv3x3(width, width, stride=second, dilation=dilation)
        self.bn2 = norm(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = norm(4 * width)
        self.downsample = _projection(inputs, 4 * width, stride=stride, norm=norm)

    def forward(self, features: Tensor) -> Tensor:
        """[N, inputs, h, w] to [N, 4 * width, h/stride, w/stride]."""
        residual = norm_relu(self.bn1, self.conv1(features))
        residual = norm_relu(self.bn2, self.conv2(residual))
        return norm_relu(self.bn3, self.conv3(residual), onto=self.downsample(features))


class ResNet(nn.Module):
    """The four stages of a ResNet; `widths` are their output channels.

    With `recompute_stages` the features inside the stages are not kept for the backward pass, which
    computes them again.
    """

    def __init__(self, spec: ResNetSpec) -> None:
        super().__init__()
        norm: Norm = FrozenBatchNorm2d if spec.frozen_bn else nn.BatchNorm2d
        if spec.stem == "deep":
            self.stem = _deep_stem(norm)
        else:
            self.conv1 = nn.Conv2d(3, WIDTHS[0], 7, stride=2, padding=3, bias=False)
            self.bn1 = norm(WIDTHS[0])
        self._deep = spec.stem == "deep"
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)

        block = BasicBlock if spec.depth in (18, 34) else Bottleneck
        make = partial(block, stride_in_1x1=spec.stride_in_1x1, norm=norm)
        self.widths = tuple(block.expansion * width for width in WIDTHS)
        inputs, dilation, stages = WIDTHS[0], 1, []
        plan = zip(BLOCKS[spec.depth], WIDTHS, _STRIDES[spec.output_stride], strict=True)
        for stage, (count, width, stride) in enumerate(plan):
            first = make(inputs, width, stride=stride, dilation=dilation)
            if stage > 0 and stride == 1:  # dilated where it would have been strided
                dilation *= 2
            inputs = block.expansion * width
            others = (make(inputs, width, stride=1, dilation=dilation) for _ in range(count - 1))
            stages.append(nn.Sequential(first, *others))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.recompute_stages = False

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalized images [N, 3, H, W] to the four stages' features, finest first."""
        features = self.stem(images) if self._deep else norm_relu(self.bn1, self.conv1(images))
        features = self.maxpool(features)
        outputs = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            again = self.training and self.recompute_stages
            features = recomputed(stage, features) if again else stage(features)
            outputs.append(features)
        return outputs


def _projection(inputs: int, outputs: int, *, stride: int, norm: Norm) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), norm(outputs))


def _deep_stem(norm: Norm) -> ConvNormReLU:
    layers: list[nn.Module] = []
    half = WIDTHS[0] // 2
    for inputs, outputs, stride in ((3, half, 2), (half, half, 1), (half, WIDTHS[0], 1)):
        layers += [Conv3x3(inputs, outputs, stride=stride), norm(outputs), nn.ReLU(inplace=True)]
    return ConvNormReLU(*layers)
