"""The optimizer of a recipe."""

import torch

from perpixel.models.segmenter import Segmenter
from perpixel.recipes.spec import Optimizer


def make_optimizer(network: Segmenter, spec: Optimizer) -> torch.optim.SGD:
    """SGD over every parameter, norms and biases decayed too, in groups of (scaled) rate.

    One fused pass over the weights; its rounding differs from that of one operation after another.
    Each group's "lr_scale" multiplies the schedule's rate: `backbone_lr_scale` for the backbone.
    """
    backbone = list(network.backbone.parameters())
    known = {id(parameter) for parameter in backbone}
    rest = [parameter for parameter in network.parameters() if id(parameter) not in known]
    return torch.optim.SGD(
        [
            {"params": backbone, "lr_scale": spec.backbone_lr_scale},
            {"params": rest, "lr_scale": 1.0},
        ],
        lr=spec.lr,
        momentum=spec.momentum,
        weight_decay=spec.weight_decay,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Gives every group the rate `lr` times its own "lr_scale"."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
