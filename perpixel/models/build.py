"""From a spec to a network: the one place that chooses."""

from typing import assert_never

import torch
from torch import nn

from perpixel.errors import UsageError
from perpixel.memory import memory_for
from perpixel.models.fcn import FCNHead
from perpixel.models.resnet import BasicBlock, Bottleneck, ResNet
from perpixel.models.segmenter import Segmenter
from perpixel.models.semantic_fpn import SemanticFPNHead
from perpixel.models.timm_backbone import TimmBackbone
from perpixel.recipes.network import FCN, Model, SemanticFPN, Timm
from perpixel.recipes.network import ResNet as ResNetSpec


def build(spec: Model, *, classes: int) -> Segmenter:
    """The network of `spec` for so many classes, with fresh random weights (see `initialise`)."""
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
            head = FCNHead(backbone.widths[-1], classes, spec=fcn)
        case SemanticFPN() as semantic_fpn:
            if len(backbone.widths) < 4:
                raise UsageError(
                    f"Semantic FPN needs features at four strides; {spec.backbone} has "
                    f"{len(backbone.widths)}"
                )
            head = SemanticFPNHead(
                backbone.widths, classes, semantic_fpn, align_corners=spec.align_corners
            )
        case _:
            assert_never(spec.head)
    auxiliary = None
    if spec.auxiliary is not None:
        own = FCN(**spec.auxiliary.model_dump(exclude={"classes"}))
        auxiliary = FCNHead(backbone.widths[-2], spec.auxiliary.classes or classes, spec=own)
    network = Segmenter(spec, backbone, head, auxiliary)
    initialise(network)
    return network


def to_device(network: Segmenter, device: torch.device | str) -> Segmenter:
    """Moves the network to a device, its convolutions laid out channels-last (faster there).

    Raises OutOfMemory where the device has no room for it.
    """
    with memory_for(f"the network on {device}", mend="what else runs there may hold it"):
        return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def initialise(network: Segmenter) -> None:
    """He et al. (2015) for convolutions, N(0, 0.01) for classifiers (mmsegmentation), 1/0 norms.

    The neck's convolutions, which no ReLU follows, have Xavier's uniform (mmsegmentation's FPN).
    timm's backbones have initialised themselves.
    """
    spec = network.spec.backbone
    zero = isinstance(spec, ResNetSpec) and spec.zero_init_residual and not spec.frozen_norm
    for name, module in network.named_modules():
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
