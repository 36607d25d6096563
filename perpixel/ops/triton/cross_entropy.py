"""Upsampling and cross-entropy in one pass, and their gradient, as Triton kernels.

ops/fused_cross_entropy.py is the reference.

Nothing as large as the upsampled logits is ever written. In the backward pass every cell gathers
from the pixels that use it, in a fixed order and without atomic additions, so that two runs agree
bit for bit. Arithmetic is float32's, or float64's for float64 logits.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from perpixel.ops.bilinear import resize_weights
from perpixel.recipes.schema import IGNORE_INDEX

_PIXELS = 128  # of one row, to a program of the forward pass
_CELLS = 32  # of one row, to a program of the backward pass
_CLASSES = 16  # at a time


def forward(
    logits: Tensor, labels: Tensor, *, align_corners: bool, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """See fused_cross_entropy.forward_in_chunks; a label of no class has an infinite loss."""
    count, classes, height, width = logits.shape
    exact = torch.float64 if logits.dtype == torch.float64 else torch.float32
    losses = torch.empty(labels.shape, dtype=exact, device=logits.device)
    log_sums = torch.empty_like(losses)
    labels = labels.contiguous()
    rows = _axis(height, labels.shape[1], align_corners, logits.device)
    columns = _axis(width, labels.shape[2], align_corners, logits.device)
    grid = (triton.cdiv(labels.shape[2], _PIXELS), labels.shape[1], count)
    with torch.cuda.device_of(logits):  # a kernel starts on the current GPU, not the tensors'
        _forward[grid](
            logits, *logits.stride(), labels, losses, log_sums,
            rows.first, rows.share, columns.first, columns.share, height, width, labels.shape[2],
            SMOOTHING=smoothing,
            CLASSES=classes, IGNORED=IGNORE_INDEX, EXACT=_EXACT[exact], PIXELS=_PIXELS,
            BLOCK=_block(classes),
        )  # fmt: skip
    return losses, log_sums


def backward(
    gradient: Tensor,
    logits: Tensor,
    labels: Tensor,
    log_sums: Tensor,
    *,
    align_corners: bool,
    smoothing: float = 0.0,
) -> Tensor:
    """See fused_cross_entropy.backward_in_chunks."""
    count, classes, height, width = logits.shape
    logits_gradient = torch.empty_like(logits)
    labels, gradient = labels.contiguous(), gradient.contiguous()
    rows = _axis(height, labels.shape[1], align_corners, logits.device)
    columns = _axis(width, labels.shape[2], align_corners, logits.device)
    block = _block(classes)
    grid = (triton.cdiv(width, _CELLS) * triton.cdiv(classes, block), height, count)
    with torch.cuda.device_of(logits):  # a kernel starts on the current GPU, not the tensors'
        _backward[grid](
            logits, *logits.stride(), logits_gradient, *logits_gradient.stride(),
            gradient, labels, log_sums,
            rows.share, rows.starts, columns.share, columns.starts,
            height, width, labels.shape[1], labels.shape[2],
            SMOOTHING=smoothing,
            CLASSES=classes, IGNORED=IGNORE_INDEX, EXACT=_EXACT[log_sums.dtype], CELLS=_CELLS,
            BLOCK=block,
        )  # fmt: skip
    return logits_gradient


_EXACT = {torch.float32: tl.float32, torch.float64: tl.float64}


def _block(classes: int) -> int:
    return min(_CLASSES, 1 << (classes - 1).bit_length())


class _Axis(NamedTuple):
    """One axis: the first cell that every output mixes and the second cell's share, [large]. The
    outputs whose first cell is c are starts[c] .. starts[c + 1] - 1."""

    first: Tensor
    share: Tensor
    starts: Tensor


@lru_cache(maxsize=8)  # the tables are the same in every step of a run
def _axis(small: int, large: int, align_corners: bool, device: torch.device) -> _Axis:
    table = resize_weights(small, large, align_corners=align_corners)
    share = table.weights[:, 1:].sum(dim=1)  # 0 where there is one cell
    starts = torch.searchsorted(table.first, torch.arange(small + 1))
    first, starts = (index.to(device, torch.int32) for index in (table.first, starts))
    return _Axis(first, share.to(device), starts)


@triton.jit
def _forward(
    logits, per_image, per_class, per_row, per_column, labels, losses, log_sums,
    row_first, row_share, column_first, column_share, height, width, out_width,
    SMOOTHING: tl.constexpr,
    CLASSES: tl.constexpr, IGNORED: tl.constexpr, EXACT: tl.constexpr, PIXELS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Losses of a piece of an output row: loops over classes, with a running maximum and sum."""
    x = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    y = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)
    inside = x < out_width
    pixel = (image * tl.num_programs(1) + y) * out_width + x
    label = tl.load(labels + pixel, mask=inside, other=IGNORED).to(tl.int32)

    top = tl.load(row_first + y)
    bottom = tl.minimum(top + 1, height - 1)
    lower = tl.load(row_share + y).to(EXACT)
    left = tl.load(column_first + x, mask=inside, other=0)
    right = tl.minimum(left + 1, width - 1)
    further = tl.load(column_share + x, mask=inside, other=0).to(EXACT)[None, :]
    above = logits + image * per_image + top.to(tl.int64) * per_row
    below = logits + image * per_image + bottom.to(tl.int64) * per_row

    largest = tl.full((PIXELS,), float("-inf"), EXACT)
    total = tl.zeros((PIXELS,), EXACT)
    label_logit = tl.full((PIXELS,), float("-inf"), EXACT)
    mean = tl.zeros((PIXELS,), EXACT)
    for first in range(0, CLASSES, BLOCK):
        index = first + tl.arange(0, BLOCK)[:, None]
        known = (index < CLASSES) & inside[None, :]
        west = index.to(tl.int64) * per_class + left[None, :] * per_column
        east = index.to(tl.int64) * per_class + right[None, :] * per_column
        # First down, then across, as backward does: its rounding is to be the same.
        at_west = tl.load(above + west, mask=known, other=0).to(EXACT)
        at_west += lower * (tl.load(below + west, mask=known, other=0).to(EXACT) - at_west)
        at_east = tl.load(above + east, mask=known, other=0).to(EXACT)
        at_east += lower * (tl.load(below + east, mask=known, other=0).to(EXACT) - at_east)
        score = at_west + further * (at_east - at_west)
        if SMOOTHING > 0:
            mean += tl.sum(tl.where(index < CLASSES, score, 0.0), axis=0) / CLASSES
        score = tl.where(index < CLASSES, score, float("-inf"))
        risen = tl.maximum(largest, tl.max(score, axis=0))
        total = total * tl.exp(largest - risen) + tl.sum(tl.exp(score - risen[None, :]), axis=0)
        largest = risen
        labeled = tl.where(index == label[None, :], score, float("-inf"))
        label_logit = tl.maximum(label_logit, tl.max(labeled, axis=0))
    log_sum = largest + tl.log(total)
    if SMOOTHING > 0:
        label_logit = (1.0 - SMOOTHING) * label_logit + SMOOTHING * mean
    tl.store(log_sums + pixel, log_sum, mask=inside)
    tl.store(losses + pixel, tl.where(label == IGNORED, 0.0, log_sum - label_logit), mask=inside)


@triton.jit
def _backward(
    logits, per_image, per_class, per_row, per_column,
    logits_gradient, to_image, to_class, to_row, to_column, gradient, labels, log_sums,
    row_share, row_starts, column_share, column_starts, height, width, out_height, out_width,
    SMOOTHING: tl.constexpr,
    CLASSES: tl.constexpr, IGNORED: tl.constexpr, EXACT: tl.constexpr, CELLS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients of a piece of a row of cells, for a few classes: loops over their pixels.

    Output rows whose first cell is the one above mix it and this row; those whose first cell is
    this row mix it and the one below; so do columns. Three cells by three are all that is read.
    """
    pieces = tl.cdiv(width, CELLS)
    j = (tl.program_id(0) % pieces) * CELLS + tl.arange(0, CELLS)
    index = (tl.program_id(0) // pieces) * BLOCK + tl.arange(0, BLOCK)[:, None]
    i = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)
    inside = j < width
    known = (index < CLASSES) & inside[None, :]
    class_logits = logits + image * per_image + index.to(tl.int64) * per_class
    west = tl.maximum(j - 1, 0)[None, :] * per_column
    center = j[None, :] * per_column
    east = tl.minimum(j + 1, width - 1)[None, :] * per_column

    result = tl.zeros((BLOCK, CELLS), EXACT)
    for vertical in tl.static_range(2):
        top = i - 1 + vertical  # the first cell of these output rows
        line = class_logits + tl.maximum(top, 0).to(tl.int64) * per_row
        next_line = class_logits + tl.minimum(top + 1, height - 1).to(tl.int64) * per_row
        north_west = tl.load(line + west, mask=known, other=0).to(EXACT)
        north = tl.load(line + center, mask=known, other=0).to(EXACT)
        north_east = tl.load(line + east, mask=known, other=0).to(EXACT)
        south_west = tl.load(next_line + west, mask=known, other=0).to(EXACT)
        south = tl.load(next_line + center, mask=known, other=0).to(EXACT)
        south_east = tl.load(next_line + east, mask=known, other=0).to(EXACT)
        y = tl.load(row_starts + tl.maximum(top, 0))
        stop = tl.load(row_starts + top + 1)  # of the cell above the first: 0, no rows
        while y < stop:
            lower = tl.load(row_share + y).to(EXACT)
            row_weight = lower if vertical == 0 else 1 - lower
            at_west = north_west + lower * (south_west - north_west)
            at_here = north + lower * (south - north)
            at_east = north_east + lower * (south_east - north_east)
            line_start = (image * out_height + y) * out_width
            for horizontal in tl.static_range(2):
                column = j - 1 + horizontal
                first = tl.load(column_starts + tl.maximum(column, 0), mask=inside, other=0)
                last = tl.load(column_starts + column + 1, mask=inside, other=0)
                step = 0
                longest = tl.max(last - first, axis=0)
                while step < longest:
                    x = first + step
                    used = inside & (x < last)
                    further = tl.load(column_share + x, mask=used, other=0).to(EXACT)
                    weight = further if horizontal == 0 else 1 - further
                    left = at_west if horizontal == 0 else at_here
                    right = at_here if horizontal == 0 else at_east
                    score = left + further[None, :] * (right - left)
                    pixel = line_start + x
                    label = tl.load(labels + pixel, mask=used, other=IGNORED).to(tl.int32)
                    counted = used & (label != IGNORED)
                    log_sum = tl.load(log_sums + pixel, mask=counted, other=float("inf"))
                    pull = tl.load(gradient + pixel, mask=counted, other=0).to(EXACT)
                    share = tl.exp(score - log_sum[None, :])
                    share -= (index == label[None, :]).to(EXACT) * (1.0 - SMOOTHING)
                    share -= SMOOTHING / CLASSES
                    result += (row_weight * weight * pull)[None, :] * share
                    step += 1
            y += 1
    to = logits_gradient + image * to_image + i.to(tl.int64) * to_row
    to += index.to(tl.int64) * to_class + j[None, :] * to_column
    tl.store(to, result.to(logits_gradient.dtype.element_ty), mask=known)
