"""A moving average of a training's weights (Polyak and Juditsky, 1992, in its exponential form)."""

from copy import deepcopy

import torch

from perpixel.models.segmenter import Segmenter


def make_ema(model: Segmenter, ema: float) -> Segmenter:
    """Returns the model to evaluate and save: a copy of `model`, or without averaging itself."""
    return deepcopy(model).requires_grad_(False) if ema else model


@torch.no_grad()
def update_ema(ema_model: Segmenter, model: Segmenter, *, step: int, ema: float) -> None:
    """Moves `ema_model` towards the model's weights and statistics after step 0, 1, ...

    b old + (1 - b) new, with b = `ema` or (1 + step) / (10 + step), whichever is less, so that
    the first weights are soon forgotten. Batch norm's statistics are averaged with the weights they
    were measured with; its count of batches is copied.
    """
    if ema_model is model:
        return
    share = 1 - min(ema, (1 + step) / (10 + step))
    pairs = list(zip(ema_model.state_dict().values(), model.state_dict().values(), strict=True))
    real = [pair for pair in pairs if pair[0].is_floating_point()]
    torch._foreach_lerp_([old for old, _ in real], [new for _, new in real], share)
    counts = [pair for pair in pairs if not pair[0].is_floating_point()]
    if counts:  # frozen batch norms have none
        torch._foreach_copy_([old for old, _ in counts], [new for _, new in counts])
