"""ImageNet classification backbones, to start a training from."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from perpixel.conversion.finding import plain_tensors

_CLASSIFIER = ("fc.weight", "fc.bias")


def is_backbone(state: Mapping[str, Any]) -> bool:
    """Whether these are the names of a classification ResNet (torchvision, open-mmlab v1c)."""
    return "layer1.0.conv1.weight" in {str(name).removeprefix("module.") for name in state}


def backbone_weights(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """A classification ResNet's weights as our "backbone.*", its classifier left out.

    The names are the same apart from that prefix. Counters of batches, which files of 2018 and
    before lack, start at zero. Raises PerpixelError for entries that are no tensors.
    """
    weights = {
        f"backbone.{name}": tensor
        for name, tensor in plain_tensors(state).items()
        if name not in _CLASSIFIER
    }
    for name in list(weights):
        module, _, parameter = name.rpartition(".")
        if parameter == "running_mean":
            counter = f"{module}.num_batches_tracked"
            weights.setdefault(counter, torch.zeros((), dtype=torch.int64))
    return weights
