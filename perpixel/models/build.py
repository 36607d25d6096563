"""From a spec to a model: the one place that chooses."""

from typing import assert_never

import torch
from torch import nn

from perpixel.errors import UsageError
from perpixel.models.fcn import FCNHead
from perpixel.models.resnet import BasicBlock, Bottleneck, ResNet
from perpixel.models.segmenter import Segmenter
from perpixel.models.semantic_fpn import SemanticFPNHead
from perpixel.models.timm_backbone import TimmBackbone
from perpixel.recipes.models import FCN, Model, SemanticFPN, Timm
from perpixel.recipes.models import ResNet as ResNetSpec
from perpixel.runtime.memory import memory_for


def build(spec: Model, *, num_classes: int) -> Segmenter:
    """The model of `spec` for so many classes, with fresh random weights (see `initialize`)."""
    backbone: ResNet | TimmBackbone
    match spec.backbone:
        case ResNetSpec() as resnet:
            backbone = ResNet(resnet)
        case Timm() as timm:
            backbone = TimmBackbone(timm)
        case _:
            assert_never(spec.backbone)
    head: FCNHead | SemanticFPNHead
    match spec.head:
        case FCN() as fcn:
            head = FCNHead(backbone.widths[-1], num_classes, spec=fcn)
        case SemanticFPN() as semantic_fpn:
            if len(backbone.widths) < 4:
                raise UsageError(
                    f"Semantic FPN needs features at four strides; {spec.backbone} has "
                    f"{len(backbone.widths)}"
                )
            head = SemanticFPNHead(
                backbone.widths, num_classes, semantic_fpn, align_corners=spec.align_corners
            )
        case _:
            assert_never(spec.head)
    auxiliary = None
    if spec.aux_head is not None:
        own = FCN(**spec.aux_head.model_dump(exclude={"num_classes"}))
        auxiliary = FCNHead(backbone.widths[-2], spec.aux_head.num_classes or num_classes, spec=own)
    model = Segmenter(spec, backbone, head, auxiliary)
    init_weights(model)
    return model.float()  # whatever torch's default dtype is


def to_device(model: Segmenter, device: torch.device | str) -> Segmenter:
    """Moves the model to a device, its convolutions laid out channels-last (faster there).

    Raises OutOfMemoryError where the device has no room for it.
    """
    with memory_for(f"the model on {device}", fix="what else runs there may hold it"):
        return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def init_weights(model: Segmenter) -> None:
    """He et al. (2015) for convolutions, N(0, 0.01) for classifiers (mmsegmentation), 1/0 norms.

    The neck's convolutions, which no ReLU follows, have Xavier's uniform (mmsegmentation's FPN).
    timm's backbones have initialized themselves.
    """
    spec = model.spec.backbone
    zero = isinstance(spec, ResNetSpec) and spec.zero_init_residual and not spec.frozen_bn
    for name, module in model.named_modules():
        if isinstance(spec, Timm) and name.startswith("backbone."):
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
