"""The optimizer of a recipe, and its learning rate as a pure function of the step."""

import math

import torch

from perpixel.models.segmenter import Segmenter
from perpixel.recipes.schema import Optimizer, Schedule


def make_optimizer(model: Segmenter, spec: Optimizer) -> torch.optim.Optimizer:
    """SGD or AdamW over the parameters that are not frozen, in groups of rate and weight decay.

    One fused pass over the weights; its rounding differs from that of one operation after another.
    Each group's "lr_scale" multiplies the schedule's rate: `backbone_lr_mult` for the backbone,
    `bias_lr_mult` for biases.
    Parameters of one dimension, norms' and biases, are decayed unless `decay_norm_and_bias` is off.
    """
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = spec.backbone_lr_mult if name.startswith("backbone.") else 1.0
        scale *= spec.bias_lr_mult if name.endswith(".bias") else 1.0
        decayed = spec.decay_norm_and_bias or parameter.ndim > 1
        key = scale, spec.weight_decay if decayed else 0.0
        groups.setdefault(key, []).append(parameter)
    named = [
        {"params": parameters, "lr_scale": scale, "weight_decay": decay}
        for (scale, decay), parameters in groups.items()
    ]
    if spec.name == "adamw":
        return torch.optim.AdamW(named, lr=spec.lr, betas=spec.betas, fused=True)
    return torch.optim.SGD(named, lr=spec.lr, momentum=spec.momentum, fused=True)


def learning_rate(step: int, *, steps: int, lr: float, schedule: Schedule) -> float:
    """Returns the learning rate of step 0..steps-1 of a schedule that falls from `lr`."""
    done = step / (max(steps - 1, 1) if schedule.min_lr_at_last_step else steps)
    floor = schedule.min_lr
    left: float = (1 - done) ** schedule.power
    if schedule.policy == "cosine":
        left = (1 + math.cos(math.pi * done)) / 2
    warm = min((step + 1) / (schedule.warmup * steps + 1), 1.0)
    return warm * ((lr - floor) * left + floor)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of every parameter group to `lr` times its "lr_scale"."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
