"""Cross-entropy of upsampled logits, without ever holding the upsampled logits.

At 150 classes, four images of 512x512 have 630 MB of upsampled logits, and a loss and its gradient
hold three such tensors. Here a chunk of output rows is upsampled at a time, small enough for a
processor's cache, and upsampled again in the backward pass. Upsampling is separable, so that each
direction is two small matrix products, and every cell of the gradient sums its own pixels in a
fixed order. On CUDA `perpixel.ops.triton.cross_entropy` works in registers; this is its reference.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from perpixel.ops.bilinear import matrix, resize_weights
from perpixel.recipes.base import Size
from perpixel.recipes.schema import IGNORE_INDEX

# Values in a chunk, for each thread of a CPU: 4 MB of float32, near the size of a core's caches.
# More threads take larger chunks, so that they meet less often. On CUDA: few launches.
_VALUES = {"cpu": 1 << 20, "cuda": 1 << 25}
_THREADS = 8  # at most, to bound a chunk's memory


def pixel_cross_entropy(
    logits: Tensor, labels: Tensor, *, align_corners: bool, smoothing: float = 0.0
) -> Tensor:
    """-log p of every pixel's label, p of bilinearly upsampled logits; 0 where there is no label.

    With `smoothing` e it is (1 - e) times that and e times the mean of -log p over all classes
    (label smoothing; Szegedy et al., 2016, section 7).
    logits: [N, classes, h, w]; labels: [N, H, W] integers, 0..classes-1 or 255. Returns [N, H, W],
    float32 or the logits' float64, to be differentiated once with respect to the logits.
    """
    apply = _PixelCrossEntropy.apply
    losses: Tensor = apply(logits, labels, align_corners, smoothing)
    return losses


class _PixelCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, align_corners: bool, smoothing: float
    ) -> Tensor:
        if logits.is_cuda:
            from perpixel.ops.triton.cross_entropy import forward
        else:
            forward = forward_in_chunks
        ctx.how = {"align_corners": align_corners, "smoothing": smoothing}
        losses, log_sums = forward(logits, labels, **ctx.how)
        ctx.save_for_backward(logits, labels, log_sums)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        if gradient.is_cuda:
            from perpixel.ops.triton.cross_entropy import backward
        else:
            backward = backward_in_chunks
        return backward(gradient, *ctx.saved_tensors, **ctx.how), None, None, None


def forward_in_chunks(
    logits: Tensor, labels: Tensor, *, align_corners: bool, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The pixels' losses and the logarithms of their sums of exponentials, both [N, H, W]."""
    with torch.autocast(logits.device.type, enabled=False):
        low = _rows_of(logits)
        losses = low.new_empty(labels.shape)
        log_sums = torch.empty_like(losses)
        for index, chunk in _row_chunks(low, labels, align_corners=align_corners):
            full = chunk.upsample(low[index])
            label = labels[index, chunk.rows].long()
            known = label != IGNORE_INDEX
            label_logit = full.gather(1, label.where(known, 0)[:, None])[:, 0]
            if smoothing:
                label_logit.lerp_(full.mean(dim=1), smoothing)
            largest = full.amax(dim=1)
            total = full.sub_(largest[:, None]).exp_().sum(dim=1).log_().add_(largest)
            log_sums[index, chunk.rows] = total
            losses[index, chunk.rows] = (total - label_logit).where(known, 0)
    return losses, log_sums


def backward_in_chunks(
    gradient: Tensor,
    logits: Tensor,
    labels: Tensor,
    log_sums: Tensor,
    *,
    align_corners: bool,
    smoothing: float = 0.0,
) -> Tensor:
    """The gradient of the logits, [N, classes, h, w], from that of the pixels' losses, [N, H, W].

    A pixel's loss has the gradient p - 1 at its label and p elsewhere, p = exp(logit - log sum);
    smoothed by e, p - (1 - e) - e / classes and p - e / classes.
    """
    with torch.autocast(logits.device.type, enabled=False):
        low = _rows_of(logits)
        gradients = torch.zeros_like(low)
        for index, chunk in _row_chunks(low, labels, align_corners=align_corners):
            label = labels[index, chunk.rows].long()
            known = label != IGNORE_INDEX
            weight = gradient[index, chunk.rows].where(known, 0)[:, None]
            full = chunk.upsample(low[index])
            full.sub_(log_sums[index, chunk.rows, None]).exp_()
            if smoothing:
                full.sub_(smoothing / full.shape[1])
            full.mul_(weight)
            full.scatter_add_(1, label.where(known, 0)[:, None], (smoothing - 1) * weight)
            gradients[index, chunk.cells] += chunk.gather(full)
    return gradients.permute(0, 2, 1, 3).to(logits.dtype)


class _RowChunk(NamedTuple):
    """Output rows, the rows of cells that they mix, and by how much: [R, k] and [W, w]."""

    rows: slice
    cells: slice
    down: Tensor
    across: Tensor

    def upsample(self, low: Tensor) -> Tensor:
        """[h, classes, w] to the chunk's [R, classes, W]."""
        used = low[self.cells]
        wide = used.flatten(0, 1) @ self.across.T
        tall = self.down @ wide.view(len(used), -1)
        return tall.view(len(self.down), low.shape[1], -1)

    def gather(self, full: Tensor) -> Tensor:
        """Sums the chunk's gradients [R, classes, W] into their cells, [k, classes, w]."""
        tall = self.down.T @ full.flatten(1)
        wide = tall.view(-1, full.shape[2]) @ self.across
        return wide.view(-1, full.shape[1], self.across.shape[1])


def _rows_of(logits: Tensor) -> Tensor:
    """Returns [N, classes, h, w] as contiguous [N, h, classes, w], float32 or float64."""
    exact = logits if logits.dtype == torch.float64 else logits.float()
    return exact.permute(0, 2, 1, 3).contiguous()


def _row_chunks(
    low: Tensor, labels: Tensor, *, align_corners: bool
) -> Iterator[tuple[int, _RowChunk]]:
    """The row chunks of every image."""
    _, height, classes, width = low.shape
    values = _VALUES[low.device.type]
    if low.device.type == "cpu":
        values *= min(torch.get_num_threads(), _THREADS)
    step = max(1, values // (classes * labels.shape[2]))
    small, large = (height, width), (labels.shape[1], labels.shape[2])
    chunks = _cut(small, large, align_corners, step=step, dtype=low.dtype, device=low.device)
    for index in range(len(low)):
        for chunk in chunks:
            yield index, chunk


@lru_cache(maxsize=8)  # the tables are the same in every step of a run
def _cut(
    small: Size, large: Size, align: bool, *, step: int, dtype: torch.dtype, device: torch.device
) -> list[_RowChunk]:
    table, wide = (
        resize_weights(*sides, align_corners=align) for sides in zip(small, large, strict=True)
    )
    rows, columns = matrix(table), matrix(wide).to(device, dtype)
    chunks = []
    for top in range(0, len(rows), step):
        bottom = min(top + step, len(rows))
        cells = slice(int(table.first[top]), int(table.first[bottom - 1]) + table.weights.shape[1])
        chunk_rows = rows[top:bottom, cells].to(device, dtype)
        chunks.append(_RowChunk(slice(top, bottom), cells, chunk_rows, columns))
    return chunks
