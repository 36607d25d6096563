"""The head of the original FCN: FCN-32s, FCN-16s and FCN-8s (Long et al., 2015, section 4.2).

Scores of fc7 are upsampled by deconvolutions; FCN-16s adds scores of pool4 to them, FCN-8s those of
pool3, too. Every map is cropped from a fixed offset on, which follows from the padding of the first
convolution; so the logits have the image's own size, and nothing is upsampled outside the model.
Deconvolutions start as bilinear interpolation, each class by itself. Their weights are still those
between all classes, as in the published files, and are run as they are: bilinear upsampling with
zeros beyond the border, which a fused one would not give there. Score layers start at 0 (Caffe's
default). Sources: voc-fcn{32s,16s,8s,8s-atonce,-alexnet}/net.py of
shelhamer/fcn.berkeleyvision.org; that learned upsampling is the intermediate ones' is the paper's.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import conv_transpose2d

from perpixel.recipes.models import FCNSkip

_CROP_OF_SKIP = (5, 9)  # pool4, pool3
_CROP_OF_SCORES = {32: 19, 16: 27, 8: 31}
_CROP_OF_CAFFENET = 18


class FCNSkipHead(nn.Module):
    """Score layers, skips and deconvolutions on [images, (pool3, pool4,) fc7].

    Keys: `classifier` (Caffe's score_fr), `skips.0` (score_pool4), `skips.1` (score_pool3),
    `upsample2.0` (upscore2), `upsample2.1` (upscore_pool4) and, by its stride, `upsample32`,
    `upsample16` or `upsample8`, the last. A fixed deconvolution's weight is a buffer.
    """

    def __init__(
        self, in_channels: Sequence[int], num_classes: int, spec: FCNSkip, *, caffenet: bool
    ) -> None:
        super().__init__()
        self.stride, self.skip_scales = spec.stride, spec.skip_scales
        self.classifier = nn.Conv2d(in_channels[-1], num_classes, 1)
        count = {32: 0, 16: 1, 8: 2}[spec.stride]
        pooled = in_channels[-2:0:-1][:count]  # pool4, pool3
        self.skips = nn.ModuleList(nn.Conv2d(channels, num_classes, 1) for channels in pooled)
        self.upsample2 = nn.ModuleList(
            Deconvolution(num_classes, kernel_size=4, stride=2, learned=spec.learned_upsampling)
            for _ in pooled
        )
        kernel_size = 2 * spec.stride - caffenet
        last = Deconvolution(num_classes, kernel_size=kernel_size, stride=spec.stride)
        self.add_module(f"upsample{spec.stride}", last)
        self.crop = _CROP_OF_CAFFENET if caffenet else _CROP_OF_SCORES[spec.stride]
        for score in (self.classifier, *self.skips):
            for parameter in score.parameters():
                nn.init.zeros_(parameter)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """[images, (pool3, pool4,) fc7] to logits [N, num_classes, H, W] at the images' size."""
        images, *pooled, fc7 = features
        scores = self.classifier(fc7)
        layers = zip(
            self.upsample2, self.skips, pooled[::-1], self.skip_scales, _CROP_OF_SKIP, strict=False
        )
        for upsample, skip, feature, scale, offset in layers:
            scores = upsample(scores)
            scores = scores + _crop(skip(scale * feature), offset, scores)
        return _crop(self.get_submodule(f"upsample{self.stride}")(scores), self.crop, images)


class Deconvolution(nn.Module):
    """A transposed convolution without bias, of [C, C, k, k] weights that start as bilinear."""

    weight: Tensor

    def __init__(
        self, channels: int, *, kernel_size: int, stride: int, learned: bool = False
    ) -> None:
        super().__init__()
        self.stride = stride
        weight = torch.zeros(channels, channels, kernel_size, kernel_size)
        weight[range(channels), range(channels)] = bilinear_kernel(kernel_size)
        if learned:
            self.weight = nn.Parameter(weight)
        else:
            self.register_buffer("weight", weight)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] to [N, C, (h-1) * stride + k, (w-1) * stride + k]."""
        return conv_transpose2d(x, self.weight, stride=self.stride)


def bilinear_kernel(size: int) -> Tensor:
    """The [size, size] weights of bilinear upsampling by ceil(size / 2) (surgery.py, upsample)."""
    factor = (size + 1) // 2
    center = factor - 1 if size % 2 else factor - 0.5
    ramp = 1 - (torch.arange(size) - center).abs() / factor
    return ramp[:, None] * ramp


def _crop(x: Tensor, offset: int, reference: Tensor) -> Tensor:
    """The part of `x` from (offset, offset) on that has the height and width of `reference`."""
    height, width = reference.shape[-2:]
    return x[..., offset : offset + height, offset : offset + width]
