"""Masks from coarse logits, without ever holding classes x height x width.

Bilinear upsampling is a convex combination of neighboring points, and a convex combination keeps
the order of scores: where all the points that a pixel mixes agree on their best class, the pixel
has it too, whatever the weights. Only the pixels between points that disagree need arithmetic, and
of their classes only those that could win: a class whose best score there is below another's worst
cannot.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from perpixel.ops.bilinear import ResizeWeights

# Values in the working set of one step: 8 MB on a CPU, where larger steps are not faster.
_VALUES = {"cpu": 2**21, "cuda": 2**25}


class Upsampling(NamedTuple):
    """Logits [h, w, num_classes], and the tables that upsample them to [H, W]."""

    logits: Tensor
    rows: ResizeWeights
    columns: ResizeWeights


def row_chunk(
    logits: Tensor, rows: ResizeWeights, columns: ResizeWeights, *, top: int, bottom: int
) -> Tensor:
    """Rows top..bottom-1 of the upsampled logits: [..., h, w, num_classes] to float32
    [..., bottom - top, W, num_classes]."""
    firsts, weights = rows.first[top:bottom], rows.weights[top:bottom]
    tall = _mixed(logits, firsts, weights, dim=-3)
    return _mixed(tall, columns.first, columns.weights, dim=-2)


def row_chunks(
    size: tuple[int, int], *, num_classes: int, device: torch.device
) -> Iterator[tuple[int, int]]:
    """(top, bottom) of the row chunks in which a mask of `size` and so many classes is computed."""
    height, width = size
    step = max(1, _VALUES[device.type] // (width * num_classes))
    for top in range(0, height, step):
        yield top, min(top + step, height)


class _Cells(NamedTuple):
    """One axis in runs of outputs that mix the same inputs."""

    first: Tensor  # [cells] first input of the run
    start: Tensor  # [cells] first output of the run
    run: Tensor  # [large] run of every output
    weights: Tensor  # float32 [cells, longest run, T], 0 beyond a run's end
    inside: Tensor  # bool [cells, longest run]


def _cells(table: ResizeWeights) -> _Cells:
    first, run, counts = torch.unique_consecutive(
        table.first, return_inverse=True, return_counts=True
    )
    start = counts.cumsum(0) - counts
    steps = torch.arange(int(counts.max()))
    inside = steps < counts[:, None]
    outputs = (start[:, None] + steps).clamp(max=len(table.first) - 1)
    weights = table.weights[outputs].float() * inside[..., None]
    return _Cells(first, start, run, weights, inside)


def upsample_argmax(upsampling: Upsampling) -> Tensor:
    """The class of the largest upsampled logit, uint8 [H, W], on the logits' device.

    Equal to upsampling and then taking the argmax, but for ties within float32's rounding. On a CPU
    it works in cells: what lies between neighboring points, all pixels of which mix the same ones.
    """
    if upsampling.logits.is_cuda:
        from perpixel.ops.triton.upsample_argmax import upsample_argmax as on_cuda

        return on_cuda(upsampling.logits, upsampling.rows, upsampling.columns)
    logits = upsampling.logits
    rows, columns = _cells(upsampling.rows), _cells(upsampling.columns)
    # max, which also gives places, is several times faster than argmax here.
    best = logits.max(dim=2).indices.to(torch.uint8)
    tall, wide = upsampling.rows.weights.shape[1], upsampling.columns.weights.shape[1]
    points = [
        best[rows.first + down][:, columns.first + right]
        for down in range(tall)
        for right in range(wide)
    ]
    mixed = torch.zeros_like(points[0], dtype=torch.bool)
    for point in points[1:]:
        mixed |= point != points[0]
    mask = points[0][rows.run][:, columns.run]
    places = mixed.nonzero()
    pixels = rows.weights.shape[1] * columns.weights.shape[1]
    step = max(1, _VALUES["cpu"] // max(tall * wide * logits.shape[2], 4 * pixels))
    with torch.autocast("cpu", enabled=False):  # a caller's own may be on
        for part in torch.split(places, step):
            _fill(mask, logits, part, rows=rows, columns=columns)
    return mask


def _fill(mask: Tensor, logits: Tensor, places: Tensor, *, rows: _Cells, columns: _Cells) -> None:
    """Writes the pixels of some mixed cells, int64 [n, 2], into `mask`."""
    down = rows.first[places[:, 0], None] + torch.arange(rows.weights.shape[2])
    right = columns.first[places[:, 1], None] + torch.arange(columns.weights.shape[2])
    corners = logits[down[:, :, None], right[:, None, :]].float()  # [n, T, T, num_classes]
    flat = corners.flatten(1, 2)
    worst, best = flat.amin(dim=1), flat.amax(dim=1)
    candidates = (best >= worst.amax(dim=1, keepdim=True)).sum(dim=1)
    pixels = rows.weights.shape[1] * columns.weights.shape[1]
    left, largest = torch.zeros_like(candidates, dtype=torch.bool), 0
    while not bool(left.all()):  # few candidates first: most cells have two or three
        largest = min(max(4 * largest, 4), logits.shape[2])
        now = (~left & (candidates <= largest)).nonzero().flatten()
        left[now] = True
        if not len(now):
            continue
        # The lowest index wins ties.
        chosen = best[now].topk(largest, dim=1).indices.sort(dim=1).values
        step = max(1, _VALUES["cpu"] // (pixels * largest))
        for these, classes in zip(torch.split(now, step), torch.split(chosen, step), strict=True):
            _decide(mask, corners[these], places[these], classes, rows=rows, columns=columns)


def _decide(
    mask: Tensor,
    corners: Tensor,
    places: Tensor,
    chosen: Tensor,
    *,
    rows: _Cells,
    columns: _Cells,
) -> None:
    """Writes the best of each cell's `chosen` classes, [n, candidates], for all of its pixels."""
    values = corners.gather(3, chosen[:, None, None, :].expand(-1, *corners.shape[1:3], -1))
    across, up = columns.weights[places[:, 1]], rows.weights[places[:, 0]]
    tall, wide = up.shape[1], across.shape[1]
    scores = (up @ values.flatten(2)).view(len(up), tall, values.shape[2], -1).transpose(1, 2)
    scores = (across @ scores.flatten(2)).view(len(up), wide, tall, -1)
    won = chosen.gather(1, scores.max(dim=3).indices.flatten(1)).to(torch.uint8)
    inside = columns.inside[places[:, 1], :, None] & rows.inside[places[:, 0], None, :]
    start = rows.start[places[:, 0]] * mask.shape[1] + columns.start[places[:, 1]]
    steps = torch.arange(wide)[:, None] + mask.shape[1] * torch.arange(tall)
    inside = inside.flatten(1)
    mask.view(-1)[(start[:, None] + steps.flatten())[inside]] = won[inside]


def _mixed(values: Tensor, first: Tensor, weights: Tensor, *, dim: int) -> Tensor:
    """sum_k weights[i, k] * values[first[i] + k] along `dim`, in float32."""
    first = first.to(values.device)
    shape = [1] * values.ndim
    shape[dim] = len(first)
    factors = weights.to(values.device, torch.float32)
    total: Tensor | None = None
    for tap in range(weights.shape[1]):
        part = values.index_select(dim, first + tap).float()
        part *= factors[:, tap].view(shape)
        total = part if total is None else total.add_(part)
    assert total is not None
    return total
