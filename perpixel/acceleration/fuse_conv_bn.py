"""Fuses batch norms into the convolutions before them, for prediction."""

from copy import deepcopy
from itertools import pairwise

import torch
from torch import nn

from perpixel.models.layers import FrozenBatchNorm2d
from perpixel.models.segmenter import Segmenter
from perpixel.recipes.models import CustomBackbone, CustomHead, Timm

_Norm = nn.BatchNorm2d | nn.SyncBatchNorm | FrozenBatchNorm2d


@torch.no_grad()
def fuse_conv_bn(model: Segmenter) -> Segmenter:
    """Returns a copy in evaluation mode, equal to float32's rounding, without batch norms.

    A convolution and the batch norm after it, gamma (W x - mean) / s + beta with s^2 = var + eps,
    are one convolution of weights W gamma / s and bias beta - mean gamma / s. The copy has other
    key names and is not to be trained; the model itself stays as it is. timm's
    backbones and custom parts are left alone: their norms may follow anything.
    """
    copy = deepcopy(model).eval()
    custom_head = isinstance(copy.spec.head, CustomHead)
    custom_backbone = isinstance(copy.spec.backbone, Timm | CustomBackbone)
    for name, part in copy.named_children():
        if not (name == "head" and custom_head) and not (name == "backbone" and custom_backbone):
            _fuse_below(part)
    return copy


def _fuse_below(part: nn.Module) -> None:
    """Fuses every norm of `part`; our modules register a norm right after its convolution.

    One after a transposed convolution, in a ViT's pyramid, stays as it is.
    """
    for module in list(part.modules()):
        for (_, convolution), (name, norm) in pairwise(list(module.named_children())):
            if isinstance(norm, _Norm) and not isinstance(convolution, nn.ConvTranspose2d):
                assert isinstance(convolution, nn.Conv2d), f"{name} follows no convolution"
                _fuse(convolution, norm)
                setattr(module, name, nn.Identity())


def _fuse(convolution: nn.Conv2d, norm: _Norm) -> None:
    mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    scale = norm.weight.double() / (variance.double() + norm.eps).sqrt()
    shift = norm.bias.double() - mean.double() * scale
    if convolution.bias is not None:
        shift += convolution.bias.double() * scale
    weight = convolution.weight
    weight.copy_(weight.double() * scale[:, None, None, None])
    convolution.bias = nn.Parameter(shift.to(weight.dtype), requires_grad=False)
