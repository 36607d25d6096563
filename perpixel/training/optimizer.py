"""The optimizer of a recipe, and its learning rate as a pure function of the step."""

import math
import re

import torch

from perpixel.errors import UsageError
from perpixel.models.segmenter import Segmenter
from perpixel.models.timm_backbone import timm_layer_depths
from perpixel.recipes.models import Timm
from perpixel.recipes.schema import Optimizer, Schedule


def make_optimizer(model: Segmenter, spec: Optimizer) -> torch.optim.Optimizer:
    """SGD or AdamW over the parameters that are not frozen, in groups of rate and weight decay.

    One fused pass over the weights; its rounding differs from that of one operation after another.
    Each group's "lr_scale" multiplies the schedule's rate: `backbone_lr_mult` for the backbone, a
    power of `layer_decay` for its layers, `bias_lr_mult` for biases. Parameters of one dimension,
    norms' and biases, are decayed unless `decay_norm_and_bias` is off; those that `no_decay` names
    are not. Raises UsageError for a text in `no_decay` that no parameter has in its name, and for a
    backbone of timm without known layers.
    """
    for text in spec.no_decay:
        if not any(text in name for name, _ in model.named_parameters()):
            raise UsageError(f"optimizer.no_decay: no parameter has {text!r} in its name")
    depths = {} if spec.layer_decay == 1 else _layer_depths(model)
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = spec.backbone_lr_mult if name.startswith("backbone.") else 1.0
        scale *= spec.layer_decay ** depths.get(name, 0)
        scale *= spec.bias_lr_mult if name.endswith(".bias") else 1.0
        decayed = spec.decay_norm_and_bias or parameter.ndim > 1
        decayed = decayed and not any(text in name for text in spec.no_decay)
        key = scale, spec.weight_decay if decayed else 0.0
        groups.setdefault(key, []).append(parameter)
    named = [
        {"params": parameters, "lr_scale": scale, "weight_decay": decay}
        for (scale, decay), parameters in groups.items()
    ]
    if spec.name == "adamw":
        return torch.optim.AdamW(named, lr=spec.lr, betas=spec.betas, fused=True)
    return torch.optim.SGD(named, lr=spec.lr, momentum=spec.momentum, fused=True)


def _layer_depths(model: Segmenter) -> dict[str, int]:
    """How many layers from the top each parameter of the backbone is; the last layer's have 1."""
    backbone = model.spec.backbone
    names = [name.removeprefix("backbone.") for name, _ in model.backbone.named_parameters()]
    if isinstance(backbone, Timm):
        depths = timm_layer_depths(backbone, names)
    else:  # a ResNet, as Recipe checks; its stem is below the first of four stages
        stages = {name: re.match(r"layer(\d)", name) for name in names}
        depths = {name: 5 - int(stage[1]) if stage else 5 for name, stage in stages.items()}
    return {f"backbone.{name}": depth for name, depth in depths.items()}


def learning_rate(step: int, *, steps: int, lr: float, schedule: Schedule) -> float:
    """Returns the learning rate of step 0..steps-1 of a schedule that falls from `lr`."""
    done = step / (max(steps - 1, 1) if schedule.min_lr_at_last_step else steps)
    floor = schedule.min_lr
    left: float = (1 - done) ** schedule.power
    if schedule.policy == "cosine":
        left = (1 + math.cos(math.pi * done)) / 2
    warmup_steps = schedule.warmup * steps
    warm = min((step + 1) / (warmup_steps + 1), 1.0)
    if schedule.warmup_from is not None:
        left_to_warm = max(1 - step / warmup_steps, 0.0) if warmup_steps else 0.0
        warm = 1 - left_to_warm * (1 - schedule.warmup_from)
    return warm * ((lr - floor) * left + floor)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of every parameter group to `lr` times its "lr_scale"."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
