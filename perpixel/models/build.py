"""Builds a model from its spec: the one place that chooses a class."""

from collections.abc import Sequence
from typing import assert_never

import torch
from torch import Tensor, nn

from perpixel.errors import UsageError
from perpixel.models.fcn import FCNHead
from perpixel.models.fcn_skip import FCNSkipHead
from perpixel.models.resnet import BasicBlock, Bottleneck, ResNet
from perpixel.models.segmenter import Segmenter
from perpixel.models.semantic_fpn import SemanticFPNHead
from perpixel.models.timm_backbone import TimmBackbone
from perpixel.models.vgg import VGG16, CaffeNet
from perpixel.recipes.models import (
    FCN,
    CustomBackbone,
    CustomHead,
    FCNSkip,
    Model,
    SemanticFPN,
    Timm,
)
from perpixel.recipes.models import VGG16 as VGG16Spec
from perpixel.recipes.models import CaffeNet as CaffeNetSpec
from perpixel.recipes.models import ResNet as ResNetSpec


def build(spec: Model, *, num_classes: int) -> Segmenter:
    """The model of `spec` for so many classes, with fresh random weights (see `init_weights`)."""
    backbone: nn.Module
    match spec.backbone:
        case ResNetSpec() as resnet:
            backbone = ResNet(resnet)
        case Timm() as timm:
            backbone = TimmBackbone(timm)
        case VGG16Spec() as vgg16:
            backbone = VGG16(vgg16)
        case CaffeNetSpec() as caffenet:
            backbone = CaffeNet(caffenet)
        case CustomBackbone() as custom_backbone:
            backbone = custom_backbone.build()
        case _:
            assert_never(spec.backbone)
    channels = getattr(backbone, "out_channels", None)
    if not isinstance(channels, Sequence):
        raise UsageError(f"the backbone {spec.backbone.type!r} has no out_channels")
    align = spec.align_corners
    head: nn.Module
    match spec.head:
        case FCN() as fcn:
            head = FCNHead(channels, num_classes, fcn)
        case SemanticFPN() as semantic_fpn:
            if len(channels) < 4:
                raise UsageError(
                    f"Semantic FPN needs features at four strides; {spec.backbone} has "
                    f"{len(channels)}"
                )
            strides = set(backbone.strides) if isinstance(backbone, TimmBackbone) else set()
            head = SemanticFPNHead(
                channels,
                num_classes,
                semantic_fpn,
                align_corners=align,
                one_stride=strides.pop() if len(strides) == 1 else None,
            )
        case FCNSkip() as skip:
            is_caffenet = isinstance(spec.backbone, CaffeNetSpec)
            head = FCNSkipHead(channels, num_classes, skip, caffenet=is_caffenet)
        case CustomHead() as custom_head:
            head = custom_head.build(channels, num_classes, align_corners=align)
        case _:
            assert_never(spec.head)
    auxiliary = None
    if spec.aux_head is not None:
        if len(channels) < 2:
            raise UsageError(
                "model.aux_head needs a backbone with features at two strides, and this one has "
                "them at one: set model.aux_head=none"
            )
        aux = FCN(**spec.aux_head.model_dump(exclude={"num_classes"}))
        auxiliary = FCNHead(channels, spec.aux_head.num_classes or num_classes, aux, level=-2)
    model = Segmenter(spec, backbone, head, auxiliary, num_classes=num_classes)
    init_weights(model)
    model = model.float()  # whatever torch's default dtype is
    if isinstance(spec.backbone, CustomBackbone) or isinstance(spec.head, CustomHead):
        _check_outputs(model, channels)
    return model


@torch.inference_mode()
def _check_outputs(model: Segmenter, channels: Sequence[int]) -> None:
    """Raises UsageError unless custom parts return what they should for an image of 128x128."""
    backbone, head = model.backbone, model.head
    try:
        features = backbone.eval()(torch.zeros(1, 3, 128, 128))
    except (RuntimeError, AssertionError, ValueError):
        return  # it takes other sizes only
    finally:
        backbone.train()
    found = _shapes(features)
    if not isinstance(features, list | tuple) or [shape[1] for shape in found] != [*channels]:
        raise UsageError(
            f"the backbone {model.spec.backbone.type!r} returns {type(features).__name__} {found} "
            f"for an image; it should return a list of features [N, C, h, w], with the channels of "
            f"its out_channels, {[*channels]}"
        )
    logits = head.eval()(features)
    head.train()
    if not isinstance(logits, Tensor) or [s[1] for s in _shapes(logits)] != [model.num_classes]:
        raise UsageError(
            f"the head {model.spec.head.type!r} returns {type(logits).__name__} {_shapes(logits)}; "
            f"it should return logits [N, {model.num_classes}, h, w], one channel for each class"
        )


def _shapes(outputs: object) -> list[list[int]]:
    """The shapes of an output's tensors; [0, 0] stands for what is no [N, C, h, w]."""
    tensors = outputs if isinstance(outputs, list | tuple) else [outputs]
    return [
        list(tensor.shape) if isinstance(tensor, Tensor) and tensor.dim() == 4 else [0, 0]
        for tensor in tensors
    ]


def init_weights(model: Segmenter) -> None:
    """He et al. (2015) for convolutions, N(0, 0.01) for classifiers (mmsegmentation), 1/0 norms.

    The neck's convolutions, which no ReLU follows, have Xavier's uniform (mmsegmentation's FPN).
    timm's backbones, the original FCN's, and what is custom, have initialized themselves.
    """
    spec = model.spec.backbone
    zero = isinstance(spec, ResNetSpec) and spec.zero_init_residual and not spec.frozen_bn
    skipped = [] if isinstance(spec, ResNetSpec) else ["backbone."]
    skipped += ["head."] if isinstance(model.spec.head, FCNSkip | CustomHead) else []
    for name, module in model.named_modules():
        if name.startswith(tuple(skipped)):
            continue
        match module:
            case nn.Conv2d():
                if name.endswith("classifier"):
                    nn.init.normal_(module.weight, std=0.01)
                elif module.bias is not None:
                    nn.init.xavier_uniform_(module.weight)
                else:
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            case BasicBlock(bn2=last) | Bottleneck(bn3=last) if zero:
                nn.init.zeros_(last.get_parameter("weight"))
