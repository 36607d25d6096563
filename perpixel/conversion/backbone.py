"""ImageNet classification backbones, to start a training from."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from perpixel.conversion.finding import plain_name, plain_tensors

_CLASSIFIER = {"fc.weight", "fc.bias", "head.fc.weight", "head.fc.bias"}


def is_backbone(state: Mapping[str, Any]) -> bool:
    """Whether these are the names of a classification ResNet: torchvision's or open-mmlab's v1c,
    or mmpretrain's, which are the same after "backbone.".
    """
    names = {plain_name(key) for key in state} - _CLASSIFIER
    prefix = "backbone." if all(name.startswith("backbone.") for name in names) else ""
    return f"{prefix}layer1.0.conv1.weight" in names


def backbone_weights(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """A classification ResNet's weights as our "backbone.*", its classifier left out.

    The names are the same apart from that prefix, which mmpretrain's have, too. Raises
    PerpixelError for entries that are no tensors.
    """
    return {
        f"backbone.{name.removeprefix('backbone.')}": tensor
        for name, tensor in plain_tensors(state).items()
        if name not in _CLASSIFIER
    }
