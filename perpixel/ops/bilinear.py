"""Bilinear upsampling as numbers: which points of the small grid a point of the large one mixes.

`torch.nn.functional.interpolate(mode="bilinear")` is, along each axis, a table of taps: output i is
sum_k weights[i, k] * input[first[i] + k]. Fused losses and masks read the tables, and tables
can be composed, so that two resizes after one another are one.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class ResizeWeights(NamedTuple):
    """One axis of a resize: output i is sum_k weights[i, k] * input[first[i] + k].

    `small` inputs; `first` int64 [large], `weights` float64 [large, T].

    Weights are at least 0 and every row sums to 1; first + T never exceeds `small`.
    """

    small: int
    first: Tensor
    weights: Tensor


def resize_weights(small: int, large: int, *, align_corners: bool) -> ResizeWeights:
    """The table that upsamples (or shrinks) `small` points to `large`.

    The coordinates are PyTorch's: (i + 0.5) * small / large - 0.5 cut off at 0, or with
    `align_corners` i * (small - 1) / (large - 1).
    """
    index = torch.arange(large, dtype=torch.float64)
    if align_corners:
        position = index * ((small - 1) / (large - 1) if large > 1 else 0.0)
    else:
        position = ((index + 0.5) * (small / large) - 0.5).clamp(min=0)
    # The last point mixes in nothing: it is held as the second of its pair, with all the weight.
    first = position.floor().long().clamp(max=max(small - 2, 0))
    if small == 1:
        return ResizeWeights(small, first, torch.ones(large, 1, dtype=torch.float64))
    second = (position - first).clamp(max=1)
    return ResizeWeights(small, first, torch.stack([1 - second, second], dim=1))


def crop_output(table: ResizeWeights, count: int) -> ResizeWeights:
    """The table without all but its first `count` outputs: the others are padding."""
    return ResizeWeights(table.small, table.first[:count], table.weights[:count])


def matrix(table: ResizeWeights) -> Tensor:
    """The table as a matrix, float64 [large, small]."""
    large, count = table.weights.shape
    full = torch.zeros(large, table.small, dtype=torch.float64)
    columns = table.first[:, None] + torch.arange(count)
    return full.scatter_add_(1, columns, table.weights)


def compose(inner: ResizeWeights, outer: ResizeWeights) -> ResizeWeights:
    """One table for `inner`'s resize followed by `outer`'s."""
    middle = outer.first[:, None] + torch.arange(outer.weights.shape[1])
    starts = inner.first[middle]  # [large, K]: where each mixed point begins in the small grid
    count = inner.weights.shape[1]
    lowest = starts.min(dim=1).values
    widest = int((starts.max(dim=1).values - lowest).max()) + count
    first = lowest.clamp(max=inner.small - widest)
    weights = torch.zeros(len(first), widest, dtype=torch.float64)
    for tap in range(count):
        weights.scatter_add_(
            1, starts - first[:, None] + tap, outer.weights * inner.weights[middle, tap]
        )
    return ResizeWeights(inner.small, first, weights)
