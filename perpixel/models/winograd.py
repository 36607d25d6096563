"""3x3 convolutions made for a CPU: in float32 with a quarter of the multiplications.

F(4x4, 3x3) of Lavin and Gray (2016, section 4): a tile of 4x4 outputs comes from 36 products per
pair of channels in place of 144. Tiles, weights and products are transformed by small matrices; in
between stand 36 matrix products, which a CPU runs at its full rate. Of a dilated convolution every
d-th row and column is one without dilation. The result differs from the direct one by about 1e-5 of
the greatest value. In bfloat16 they are torch's own (but see `pixels_collide`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_TILES, _INPUTS, _OUTPUTS = 512, 256, 512
"""Tiles and channels that are in memory transformed at a time (measured)."""
_PADDING = 32
"""Channels of zeros after which neighboring pixels no longer share the sets of a first cache."""


def _matrix(rows: list[list[int]]) -> Tensor:
    """On the CPU, whatever torch's default device is when this is imported."""
    return torch.tensor(rows, dtype=torch.float64, device="cpu")


# Interpolation through 0, 1, -1, 2, -2 and infinity.
_TILE = _matrix(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_WEIGHT = _matrix([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]).div(24)
_OUTPUT = _matrix(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
)
# Both axes in one: [36, 36], [36, 9], [16, 36].
_TILE2, _WEIGHT2, _OUTPUT2 = (torch.kron(matrix, matrix) for matrix in (_TILE, _WEIGHT, _OUTPUT))


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution that keeps the size at stride 1; its keys and numbers are nn.Conv2d's."""

    def __init__(
        self, inputs: int, outputs: int, *, stride: int = 1, dilation: int = 1, bias: bool = False
    ) -> None:
        super().__init__(
            inputs, outputs, 3, stride=stride, padding=dilation, dilation=dilation, bias=bias
        )

    def forward(self, features: Tensor) -> Tensor:
        """[N, inputs, h, w] to [N, outputs, h, w] (at stride 1)."""
        if self.stride == (1, 1) and pays(features, self.weight, dilation=self.dilation[0]):
            found = winograd(features, self.weight, dilation=self.dilation[0])
            return found if self.bias is None else found.add_(self.bias[:, None, None])
        weight = self.weight
        if pixels_collide(features, weight):
            more = (0, 0, 0, 0, 0, _PADDING)  # of the channels
            features, weight = nn.functional.pad(features, more), nn.functional.pad(weight, more)
        output: Tensor = self._conv_forward(features, weight, self.bias)
        return output


def pays(features: Tensor, weight: Tensor, *, dilation: int) -> bool:
    """Whether the transforms cost less than they save (channels and tiles were measured).

    An image's numbers are not to depend on how many are beside it: neither does this. What is
    being compiled or exported keeps its convolutions, and what does not fit is torch's to refuse.
    """
    if (
        _is_recorded()  # first: a size that is asked for there is fixed
        or torch.is_autocast_enabled("cpu")
        or features.device.type != "cpu"
        or features.dtype != torch.float32
    ):
        return False
    fewer, more = sorted(weight.shape[:2])
    fits = features.dim() == 4 and len(features) > 0 and features.shape[1] == weight.shape[1]
    if not fits or fewer < 128 or more < 256:
        return False
    height, width = features.shape[2:]
    down, across = _rows_of_tiles(height, width, dilation=dilation)
    tiles = dilation**2 * down * across
    return tiles >= 64 and height * width >= 10 * tiles  # of 16 pixels in every tile


def pixels_collide(features: Tensor, weight: Tensor) -> bool:
    """Whether a channel of every pixel falls into the same set of a CPU's first cache.

    So it does where pixels lie 4096 bytes apart: 2048 channels of bfloat16, as before FCN's head.
    With a few channels of zeros more, a 3x3 convolution gives the same numbers in less time. A
    training gains nothing by it (its backward pass has more to do) and would keep both copies.
    """
    return (
        not torch.is_grad_enabled()
        and not _is_recorded()
        and features.device.type == "cpu"
        and features.dim() == 4
        and features.element_size() == 2
        and features.shape[1] == weight.shape[1]
        and features.shape[1] % 2048 == 0
    )


def _is_recorded() -> bool:
    """Whether torch compiles, exports or traces, and is to find plain convolutions."""
    return torch.compiler.is_compiling() or bool(
        torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    )


def winograd(features: Tensor, weight: Tensor, *, dilation: int) -> Tensor:
    """[N, C, h, w] with [O, C, 3, 3] to [N, O, h, w], with zeros around.

    Has gradients, but not theirs in turn, nor torch.func's.
    """
    output: Tensor = _Winograd.apply(features, weight, dilation)  # type: ignore[no-untyped-call]
    return output


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.dilation = dilation
        return _convolve(features, weight, dilation=dilation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        features, weight = ctx.saved_tensors
        (gradient,) = gradients
        to_features = to_weight = None
        with torch.autocast("cpu", enabled=False):  # as it was in forward
            if ctx.needs_input_grad[0]:
                turned = weight.flip(2, 3).transpose(0, 1)
                to_features = _convolve(gradient, turned, dilation=ctx.dilation)
            if ctx.needs_input_grad[1]:
                to_weight = _weight_gradient(features, gradient, dilation=ctx.dilation)
        return to_features, to_weight, None


def _convolve(features: Tensor, weight: Tensor, *, dilation: int) -> Tensor:
    n, channels, height, width = features.shape
    result = torch.empty(
        (n, len(weight), height, width),
        dtype=features.dtype,
        device=features.device,
        memory_format=torch.channels_last,
    )
    for strip, outputs in product(_strips(features, dilation), _parts(len(weight), _OUTPUTS)):
        products = features.new_empty((36, strip.tiles, outputs.stop - outputs.start))
        for part in _parts(channels, _INPUTS):
            tiles = _times(_TILE2, strip.cut(features[:, part], size=6))
            kernels = _times(_WEIGHT2, weight[outputs, part].permute(2, 3, 0, 1).flatten(0, 1))
            products.baddbmm_(tiles, kernels.mT, beta=1 if part.start else 0)
        strip.paste(_times(_OUTPUT2, products), result[:, outputs])
    return result


def _weight_gradient(features: Tensor, gradient: Tensor, *, dilation: int) -> Tensor:
    """[N, C, h, w] and the result's gradient [N, O, h, w] to that of the weight, [O, C, 3, 3]."""
    channels, outputs = features.shape[1], gradient.shape[1]
    result = features.new_zeros((outputs, 3, 3, channels))  # as the weight lies in memory
    for strip in _strips(features, dilation):
        products = _times(_OUTPUT2.mT, strip.cut(gradient, size=4))
        for part in _parts(channels, _INPUTS):
            tiles = _times(_TILE2, strip.cut(features[:, part], size=6))
            kernels = torch.bmm(products.mT, tiles)
            found = _times(_WEIGHT2.mT, kernels).view(3, 3, outputs, -1)
            result[..., part] += found.permute(2, 0, 1, 3)
    return result.permute(0, 3, 1, 2)


@dataclass(frozen=True)
class _Strip:
    """Rows of tiles of the `n` images from `first` on: from row `top`, `down` times `across`."""

    first: int
    n: int
    dilation: int
    top: int
    down: int
    across: int

    @property
    def tiles(self) -> int:
        return self.n * self.dilation**2 * self.down * self.across

    def cut(self, features: Tensor, *, size: int) -> Tensor:
        """[N, C, h, w] to [size * size, tiles, C], the tiles 4 apart; zeros outside."""
        d, (_, channels, height, width) = self.dilation, features.shape
        halo = (size - 4) // 2 * d
        rows, columns = 4 * self.down * d + 2 * halo, 4 * self.across * d + 2 * halo
        canvas = features.new_zeros((self.n, rows, columns, channels))
        above = self.top - halo
        top, end = max(above, 0), min(above + rows, height)
        shown = features[self.first : self.first + self.n, :, top:end].permute(0, 2, 3, 1)
        canvas[:, top - above : end - above, halo : halo + width] = shown
        image, row, column, channel = canvas.stride()
        tiles = canvas.as_strided(
            (size, size, self.n, d, d, self.down, self.across, channels),
            (row * d, column * d, image, row, column, 4 * row * d, 4 * column * d, channel),
        )
        return tiles.reshape(size * size, -1, channels)

    def paste(self, tiles: Tensor, result: Tensor) -> None:
        """Writes [16, tiles, O] into these rows of [N, O, h, w]."""
        d, (_, outputs, height, width) = self.dilation, result.shape
        tiles = tiles.view(4, 4, self.n, d, d, self.down, self.across, outputs)
        rows = tiles.permute(2, 5, 0, 3, 6, 1, 4, 7).reshape(
            self.n, self.down * 4 * d, self.across * 4 * d, outputs
        )
        end = min(self.top + self.down * 4 * d, height)
        part = result[self.first : self.first + self.n, :, self.top : end]
        part.permute(0, 2, 3, 1).copy_(rows[:, : end - self.top, :width])


def _strips(features: Tensor, dilation: int) -> Iterator[_Strip]:
    n, _, height, width = features.shape
    down, across = _rows_of_tiles(height, width, dilation=dilation)
    images = max(1, min(n, _TILES // (dilation**2 * across)))
    rows = max(1, _TILES // (images * dilation**2 * across))
    for first in range(0, n, images):
        for row in range(0, down, rows):
            shown, tall = min(images, n - first), min(rows, down - row)
            yield _Strip(first, shown, dilation, row * 4 * dilation, tall, across)


def _rows_of_tiles(height: int, width: int, *, dilation: int) -> tuple[int, int]:
    """How many rows of how many tiles cover each of the dilation^2 grids of a map."""
    return ceil(height / (4 * dilation)), ceil(width / (4 * dilation))


def _parts(channels: int, at_once: int) -> Iterator[slice]:
    for first in range(0, channels, at_once):
        yield slice(first, min(first + at_once, channels))


def _times(matrix: Tensor, stack: Tensor) -> Tensor:
    """[A, B] times [B, X, Y] over the first axis, [A, X, Y]."""
    product = matrix.to(stack.dtype) @ stack.reshape(len(stack), -1)
    return product.view(-1, *stack.shape[1:])
