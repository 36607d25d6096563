"""Builds a model from its spec: the one place that chooses a class."""

from collections.abc import Sequence
from typing import assert_never

from torch import nn

from perpixel.errors import UsageError
from perpixel.models.fcn import FCNHead
from perpixel.models.resnet import BasicBlock, Bottleneck, ResNet
from perpixel.models.segmenter import Segmenter
from perpixel.models.semantic_fpn import SemanticFPNHead
from perpixel.models.timm_backbone import TimmBackbone
from perpixel.recipes.models import FCN, CustomBackbone, CustomHead, Model, SemanticFPN, Timm
from perpixel.recipes.models import ResNet as ResNetSpec


def build(spec: Model, *, num_classes: int) -> Segmenter:
    """The model of `spec` for so many classes, with fresh random weights (see `init_weights`)."""
    backbone: nn.Module
    match spec.backbone:
        case ResNetSpec() as resnet:
            backbone = ResNet(resnet)
        case Timm() as timm:
            backbone = TimmBackbone(timm)
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
            head = SemanticFPNHead(channels, num_classes, semantic_fpn, align_corners=align)
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
    return model.float()  # whatever torch's default dtype is


def init_weights(model: Segmenter) -> None:
    """He et al. (2015) for convolutions, N(0, 0.01) for classifiers (mmsegmentation), 1/0 norms.

    The neck's convolutions, which no ReLU follows, have Xavier's uniform (mmsegmentation's FPN).
    timm's backbones, and what is custom, have initialized themselves.
    """
    spec = model.spec.backbone
    zero = isinstance(spec, ResNetSpec) and spec.zero_init_residual and not spec.frozen_bn
    skipped = ["backbone."] if isinstance(spec, Timm | CustomBackbone) else []
    skipped += ["head."] if isinstance(model.spec.head, CustomHead) else []
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
