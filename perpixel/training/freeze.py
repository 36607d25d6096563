"""Freezes a part of the backbone for a training."""

from torch import nn

from perpixel.models.resnet import ResNet
from perpixel.models.segmenter import Segmenter


def freeze_backbone(model: Segmenter, part: str) -> None:
    """Freezes the backbone's parts up to and including `part`, a value of `train.freeze`.

    Their parameters require no gradient, so that no activation of theirs is kept, and they are in
    evaluation mode: batch norm normalizes with its statistics and leaves them as they are. Call it
    after `model.train()`, which would undo the latter.
    """
    for module in _parts(model.backbone, part):
        module.eval().requires_grad_(False)


def _parts(backbone: nn.Module, part: str) -> list[nn.Module]:
    if part == "off":
        return []
    if part == "backbone":
        return [backbone]
    assert isinstance(backbone, ResNet)  # Recipe checks it
    stem = [backbone.stem] if backbone.deep_stem else [backbone.conv1, backbone.bn1]
    count = 0 if part == "stem" else int(part.removeprefix("stage"))
    return [*stem, *(backbone.layer1, backbone.layer2, backbone.layer3)[:count]]
