"""Freezes a part of the backbone for a training."""

from torch import nn

from perpixel.errors import UsageError
from perpixel.models.resnet import ResNet
from perpixel.models.segmenter import Segmenter
from perpixel.models.timm_backbone import TimmBackbone


def freeze_backbone(model: Segmenter, part: str, *, norm_eval: bool = False) -> None:
    """Freezes the backbone's parts up to and including `part`, a value of `train.freeze`.

    Their parameters require no gradient, so that no activation of theirs is kept, and they are in
    evaluation mode: batch norm normalizes with its statistics and leaves them as they are. With
    `norm_eval` the whole backbone's batch norms do so. Call it after `model.train()`, which would
    undo the latter. Raises UsageError for a part that the backbone does not have.
    """
    for module in _parts(model.backbone, part):
        module.eval().requires_grad_(False)
    for module in model.backbone.modules() if norm_eval else ():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def _parts(backbone: nn.Module, part: str) -> list[nn.Module]:
    if part == "off":
        return []
    if part == "backbone":
        return [backbone]
    if isinstance(backbone, TimmBackbone):  # Recipe checks that the part is its stem
        stem = getattr(backbone.body, "stem", None)
        if not isinstance(stem, nn.Module):
            raise UsageError("train.freeze=stem: this backbone of timm has no part `stem`")
        return [stem]
    assert isinstance(backbone, ResNet)
    stem = [backbone.stem] if backbone.deep_stem else [backbone.conv1, backbone.bn1]
    count = 0 if part == "stem" else int(part.removeprefix("stage"))
    return [*stem, *(backbone.layer1, backbone.layer2, backbone.layer3)[:count]]
