"""Sliding windows in memory that does not grow with the image's height."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from perpixel.io.images import Array, Size
from perpixel.ops.bilinear import crop_output, resize_weights
from perpixel.ops.upsample_argmax import row_chunk

if TYPE_CHECKING:
    from perpixel.inference.predictor import Predictor

Rows = Callable[[int, int], Tensor]
"""(top, bottom) -> scores of these rows, float32 [bottom - top, W, classes]."""

Read = Callable[[int, int, int, int], Array]
"""(top, left, height, width) -> this part of an image, uint8 RGB [height, width, 3]."""


def window_starts(size: int, crop: int, stride: int) -> list[int]:
    """Returns the first pixels of the windows that cover `size` pixels along one axis.

    The last is moved inward to end at the border (mmsegmentation encoder_decoder.py,
    slide_inference; sssegmentation base.py has the same grid).
    """
    count = -(-max(size - crop, 0) // stride) + 1
    return [max(min(index * stride, size - crop), 0) for index in range(count)]


def slide(predictor: "Predictor", read: Read, size: Size) -> Rows:
    """Mean logits of overlapping windows over an image of `size`, weighted when blended.

    The rows that come back must be asked for from the top to the bottom. Windows go through the
    model, a few at a time, when the first of their rows is asked for, and their coarse logits are
    dropped after the last.
    """
    recipe, device, batch = predictor.recipe, predictor.device, predictor.window_batch
    spec = recipe.inference
    crop = recipe.window_size
    stride = spec.stride or (max(crop[0] * 2 // 3, 1), max(crop[1] * 2 // 3, 1))
    tall, wide = min(crop[0], size[0]), min(crop[1], size[1])
    tops, lefts = window_starts(size[0], tall, stride[0]), window_starts(size[1], wide, stride[1])
    below, right = -tall % recipe.input.size_divisor, -wide % recipe.input.size_divisor
    down, across = (
        (_hann(length) if spec.mode == "blend" else torch.ones(length)).to(device)
        for length in (tall, wide)
    )
    whole_down, whole_across = _sum(tops, down, size[0]), _sum(lefts, across, size[1])
    window_logits: dict[int, Tensor] = {}

    def row_logits(top: int) -> Tensor:
        """Coarse logits [windows, h, w, classes] of the windows that begin in row `top`."""
        logits = []
        for first in range(0, len(lefts), batch):
            part = [read(top, left, tall, wide) for left in lefts[first : first + batch]]
            logits.append(
                predictor.coarse_logits(pad(predictor.preprocess(part), (0, right, 0, below)))
            )
        return torch.cat(logits)

    def rows(top: int, bottom: int) -> Tensor:
        total = torch.zeros(bottom - top, size[1], len(predictor.class_names), device=device)
        for start in tops:
            if start + tall <= top:
                window_logits.pop(start, None)
                continue
            if start >= bottom:
                break
            if start not in window_logits:
                window_logits[start] = row_logits(start)
            logits = window_logits[start]
            tables = (
                crop_output(
                    resize_weights(low, full + more, align_corners=recipe.model.align_corners), full
                )
                for low, full, more in zip(
                    logits.shape[1:3], (tall, wide), (below, right), strict=True
                )
            )
            inner = max(top, start) - start, min(bottom, start + tall) - start
            values = row_chunk(logits, *tables, top=inner[0], bottom=inner[1])
            values *= down[slice(*inner), None, None] * across[:, None]
            place = slice(inner[0] + start - top, inner[1] + start - top)
            for left, window in zip(lefts, values, strict=True):
                total[place, left : left + wide] += window
        return total.div_((whole_down[top:bottom, None] * whole_across)[..., None])

    return rows


def _hann(length: int) -> Tensor:
    """Hann's window, above 0 everywhere: sin^2 of the pixels' centers."""
    return torch.sin(math.pi * (torch.arange(length) + 0.5) / length) ** 2


def _sum(starts: list[int], weights: Tensor, size: int) -> Tensor:
    """The weights of all windows, summed along one axis [size]."""
    total = torch.zeros(size, device=weights.device)
    for start in starts:
        total[start : start + len(weights)] += weights
    return total
