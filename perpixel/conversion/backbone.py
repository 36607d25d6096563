"""ImageNet classification backbones, to start a training from."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from perpixel.conversion.finding import plain_name, plain_tensors

_CLASSIFIER = {"fc.weight", "fc.bias", "head.fc.weight", "head.fc.bias"}


def backbone_weights(state: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """A classification ResNet's weights as our "backbone.*", its classifier left out; else None.

    torchvision's and open-mmlab's (v1c) names are ours without that prefix, mmpretrain's have it,
    too. Raises PerpixelError for entries that are no tensors.
    """
    names = {plain_name(key) for key in state} - _CLASSIFIER
    prefix = "backbone." if all(name.startswith("backbone.") for name in names) else ""
    if f"{prefix}layer1.0.conv1.weight" not in names:
        return None
    return {
        f"backbone.{name.removeprefix('backbone.')}": tensor
        for name, tensor in plain_tensors(state).items()
        if name not in _CLASSIFIER
    }
