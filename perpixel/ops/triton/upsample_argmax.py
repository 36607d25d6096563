"""Upsampling and argmax in one pass over the output; perpixel.ops.upsample_argmax is its
reference."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from perpixel.ops.bilinear import ResizeWeights

_BLOCK = 128


def upsample_argmax(logits: Tensor, rows: ResizeWeights, columns: ResizeWeights) -> Tensor:
    """The class of the largest upsampled logit, [h, w, classes] to uint8 [H, W]; lowest on ties.

    Each program has one row's piece of the output and runs through the classes, so that nothing
    larger than the mask is written.
    """
    device = logits.device
    height, width = len(rows.first), len(columns.first)
    mask = torch.empty(height, width, dtype=torch.uint8, device=device)
    with torch.cuda.device_of(logits):  # a kernel starts on the current GPU, not the tensors'
        _best_class[(height, triton.cdiv(width, _BLOCK))](
            logits,
            *logits.stride(),
            rows.first.to(device, torch.int32),
            rows.weights.to(device, torch.float32),
            columns.first.to(device, torch.int32),
            columns.weights.to(device, torch.float32),
            mask,
            width,
            CLASSES=logits.shape[2],
            ROW_TAPS=rows.weights.shape[1],
            COLUMN_TAPS=columns.weights.shape[1],
            BLOCK=_BLOCK,
        )
    return mask


@triton.jit
def _best_class(
    logits, down, right, deep, row_first, row_weights, column_first, column_weights, mask,
    width, CLASSES: tl.constexpr, ROW_TAPS: tl.constexpr, COLUMN_TAPS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    y = tl.program_id(0)
    x = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = x < width
    top = tl.load(row_first + y)
    left = tl.load(column_first + x, mask=inside, other=0)
    best = tl.full((BLOCK,), float("-inf"), tl.float32)
    chosen = tl.zeros((BLOCK,), tl.int32)
    for index in range(CLASSES):
        score = tl.zeros((BLOCK,), tl.float32)
        for i in tl.static_range(ROW_TAPS):
            weight = tl.load(row_weights + y * ROW_TAPS + i)
            line = logits + (top + i).to(tl.int64) * down + index * deep
            for j in tl.static_range(COLUMN_TAPS):
                share = tl.load(column_weights + x * COLUMN_TAPS + j, mask=inside, other=0.0)
                value = tl.load(line + (left + j) * right, mask=inside, other=0.0)
                score += weight * share * value.to(tl.float32)
        better = score > best
        best = tl.where(better, score, best)
        chosen = tl.where(better, index, chosen)
    tl.store(mask + y.to(tl.int64) * width + x, chosen.to(tl.uint8), mask=inside)
