"""3x3 convolutions on a CPU in float32, with a quarter of the multiplications.

F(4x4, 3x3) of Lavin and Gray (2016, section 4): a tile of 4x4 outputs comes from 36 products per
pair of channels in place of 144. Tiles, weights and products are transformed by small matrices; in
between stand 36 matrix products, which a CPU runs at its full rate. Of a dilated convolution every
d-th row and column is one without dilation. The result differs from the direct one by about 1e-5 of
the greatest value.
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


def _matrix(rows: list[list[int]]) -> Tensor:
    """A matrix on the CPU, even if torch has another default device at import."""
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


@torch.library.custom_op("perpixel::winograd", mutates_args=())
def winograd(features: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """[N, C, h, w] with [O, C, 3, 3] to [N, O, h, w], with zeros around; has first gradients."""
    return _convolve(features, weight, dilation=dilation)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:  # noqa: ARG001
    features, weight, ctx.dilation = inputs
    ctx.save_for_backward(features, weight)


@once_differentiable
def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    features, weight = ctx.saved_tensors
    to_features = to_weight = None
    with torch.autocast("cpu", enabled=False):  # as it was in forward
        if ctx.needs_input_grad[0]:
            turned = weight.flip(2, 3).transpose(0, 1)
            to_features = _convolve(gradient, turned, dilation=ctx.dilation)
        if ctx.needs_input_grad[1]:
            to_weight = _weight_gradient(features, gradient, dilation=ctx.dilation)
    return to_features, to_weight, None


winograd.register_autograd(_backward, setup_context=_setup_context)

OP = torch.ops.perpixel.winograd.default
"""The operation as torch.utils.checkpoint sees it."""


def use_winograd(model: nn.Module) -> None:
    """Replaces the 3x3 convolutions of `model` that have many channels; key names stay."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Conv2d and _suits(child):
                setattr(parent, name, WinogradConv2d(child))


def _suits(conv: nn.Conv2d) -> bool:
    """Whether it is a 3x3 convolution that keeps the size, and of enough channels (measured)."""
    fewer, more = sorted(conv.weight.shape[:2])
    return (
        conv.kernel_size == (3, 3)
        and conv.stride == (1, 1)
        and conv.dilation[0] == conv.dilation[1]
        and conv.padding == conv.dilation
        and conv.padding_mode == "zeros"
        and conv.groups == 1
        and fewer >= 128
        and more >= 256
    )


class WinogradConv2d(nn.Conv2d):
    """nn.Conv2d with the weights of `conv`, faster on large float32 maps on a CPU."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            3,
            padding=conv.dilation[0],
            dilation=conv.dilation[0],
            bias=conv.bias is not None,
            device="meta",
        )
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, h, w] to [N, out_channels, h, w]."""
        dilation = self.dilation[0]
        if torch.compiler.is_compiling() or not pays(x, self.weight, dilation=dilation):
            return super().forward(x)
        output: Tensor = winograd(x, self.weight, dilation)
        return output if self.bias is None else output.add_(self.bias[:, None, None])


def pays(x: Tensor, weight: Tensor, *, dilation: int) -> bool:
    """Whether the transforms cost less than they save (measured), for one image as for many.

    A shape that does not fit is left to torch, whose error says so.
    """
    if x.dtype != torch.float32 or x.device.type != "cpu":
        return False
    if x.dim() != 4 or len(x) == 0 or x.shape[1] != weight.shape[1]:
        return False
    height, width = x.shape[2:]
    down, across = _rows_of_tiles(height, width, dilation=dilation)
    tiles = dilation**2 * down * across
    return tiles >= 64 and height * width >= 10 * tiles  # of 16 pixels in every tile


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
            tiles = _times(_TILE2, strip.gather(features[:, part], size=6))
            kernels = _times(_WEIGHT2, weight[outputs, part].permute(2, 3, 0, 1).flatten(0, 1))
            products.baddbmm_(tiles, kernels.mT, beta=1 if part.start else 0)
        strip.scatter(_times(_OUTPUT2, products), result[:, outputs])
    return result


def _weight_gradient(features: Tensor, gradient: Tensor, *, dilation: int) -> Tensor:
    """[N, C, h, w] and the result's gradient [N, O, h, w] to that of the weight, [O, C, 3, 3]."""
    channels, outputs = features.shape[1], gradient.shape[1]
    result = features.new_zeros((outputs, 3, 3, channels))  # as the weight lies in memory
    for strip in _strips(features, dilation):
        products = _times(_OUTPUT2.mT, strip.gather(gradient, size=4))
        for part in _parts(channels, _INPUTS):
            tiles = _times(_TILE2, strip.gather(features[:, part], size=6))
            kernels = torch.bmm(products.mT, tiles)
            gradients = _times(_WEIGHT2.mT, kernels).view(3, 3, outputs, -1)
            result[..., part] += gradients.permute(2, 0, 1, 3)
    return result.permute(0, 3, 1, 2)


@dataclass(frozen=True)
class _Strip:
    """`down` rows of `across` tiles, from row `top` of the map, of `n` images from `first` on."""

    first: int
    n: int
    dilation: int
    top: int
    down: int
    across: int

    @property
    def tiles(self) -> int:
        return self.n * self.dilation**2 * self.down * self.across

    def gather(self, features: Tensor, *, size: int) -> Tensor:
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

    def scatter(self, tiles: Tensor, result: Tensor) -> None:
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
