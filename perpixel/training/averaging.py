"""A moving average of a training's weights (Polyak and Juditsky, 1992, in its exponential form)."""

from copy import deepcopy

import torch

from perpixel.models.segmenter import Segmenter


def averaged(network: Segmenter, average: float) -> Segmenter:
    """What is evaluated and kept of `network`: itself, or with an `average` above 0 a copy."""
    return deepcopy(network).requires_grad_(False) if average else network


@torch.no_grad()
def follow(kept: Segmenter, network: Segmenter, *, step: int, average: float) -> None:
    """Moves `kept` towards the network's weights and statistics after step 0, 1, ...

    b old + (1 - b) new, with b = `average` or (1 + step) / (10 + step), whichever is less, so that
    the first weights are soon forgotten. Batch norm's statistics are averaged with the weights they
    were measured with; its count of batches is copied.
    """
    if kept is network:
        return
    share = 1 - min(average, (1 + step) / (10 + step))
    pairs = list(zip(kept.state_dict().values(), network.state_dict().values(), strict=True))
    real = [pair for pair in pairs if pair[0].is_floating_point()]
    torch._foreach_lerp_([old for old, _ in real], [new for _, new in real], share)
    for old, new in pairs:
        if not old.is_floating_point():
            old.copy_(new)
