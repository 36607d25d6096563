"""Modules to export: the model alone, or everything from an image to its mask."""

import io
import json
import operator
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from perpixel.checkpoints.format import Checkpoint, model_from_checkpoint
from perpixel.errors import PerpixelError
from perpixel.inference.exported import MIN_SIDES
from perpixel.io.atomic import mute_logger
from perpixel.io.images import Array, Size, scaled_size, stretched_size
from perpixel.models.normalize import normalize
from perpixel.models.segmenter import Segmenter
from perpixel.recipes.schema import Recipe

Outputs = tuple[npt.NDArray[Any], ...]
"""What a graph returns, as NumPy arrays."""


class LogitsModule(nn.Module):
    """Normalized images, float32 [N, 3, H, W], to logits [N, num_classes, h, w].

    `predict` pads images first: see `preprocess`.
    """

    input, axes = "pixel_values", {0: "batch", 2: "height", 3: "width"}
    outputs: tuple[str, ...] = ("logits",)

    def __init__(self, model: Segmenter, recipe: Recipe) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe

    def preprocess(self, image: Array) -> Tensor:
        """Returns the graph's input for one uint8 RGB image [H, W, 3], as `predict` makes it."""
        return _model_input(torch.from_numpy(image)[None], self.recipe)

    def mask(self, logits: Tensor, image: Array) -> Tensor:
        """Returns the image's mask, uint8 [H, W], from the graph's logits."""
        size, align_corners = self.preprocess(image).shape[2:], self.recipe.model.align_corners
        scores = interpolate(logits, size=size, mode="bilinear", align_corners=align_corners)
        return scores[0, :, : image.shape[0], : image.shape[1]].argmax(dim=0).to(torch.uint8)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor]:
        """Returns the model's main logits, at the head's own stride."""
        return (self.model(pixel_values).logits,)


class MaskModule(nn.Module):
    """uint8 RGB images [N, H, W, 3] to masks, uint8 [N, H, W], as `predict` makes them.

    It also returns the logits, [N, num_classes, h, w] at the head's own stride. Images are
    processed whole, in one pass, resized and padded as the recipe says.
    """

    input, axes = "images", {0: "batch", 1: "height", 2: "width"}
    outputs: tuple[str, ...] = ("mask", "logits")

    def __init__(self, model: Segmenter, recipe: Recipe) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe

    def preprocess(self, image: Array) -> Tensor:
        """Returns the graph's input for one uint8 RGB image [H, W, 3]."""
        return torch.from_numpy(image)[None]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Resizes, pads and normalizes, runs the model, upsamples, takes the argmax."""
        recipe, size = self.recipe, (images.shape[1], images.shape[2])
        upsample = partial(interpolate, mode="bilinear", align_corners=recipe.model.align_corners)
        inference = recipe.inference
        resizes = inference.base_size or recipe.data.resize or inference.resize_to_multiple > 1
        if inference.scales == (1.0,) and not resizes:
            pixel_values = _model_input(images, recipe)
            logits: Tensor = self.model(pixel_values).logits
            mask = upsample(logits, size=pixel_values.shape[2:]).argmax(dim=1).to(torch.uint8)
            pads = inference.pad_to is not None or recipe.input.size_divisor > 1
            return (_crop(mask, size) if pads else mask), logits
        (factor,), box = inference.scales, inference.base_size
        resized = scaled_size(recipe.data.resize or size, factor, box=box)
        pixels = resize_as_opencv(images, resized)
        if inference.resize_to_multiple > 1:
            resized = stretched_size(resized, inference.resize_to_multiple)
            pixels = resize_as_opencv(pixels, resized)
        pixel_values = _model_input(pixels, recipe)
        scores = logits = self.model(pixel_values).logits
        padded = pixel_values.shape[2], pixel_values.shape[3]
        if inference.resize_logits_twice or padded != resized:
            scores = _crop(upsample(logits, size=padded), resized)
        return upsample(scores, size=size).argmax(dim=1).to(torch.uint8), logits


def resize_as_opencv(images: Tensor, size: Size) -> Tensor:
    """Resizes uint8 [N, H, W, 3] to `size`, bit for bit as OpenCV's INTER_LINEAR does.

    OpenCV has weights of 11 bits and rounds down after each axis (modules/imgproc/src/resize.cpp,
    HResizeLinear and VResizeLinear). With weights of float, an eighth of the values are off by one.
    """
    count, height, width, channels = images.shape
    (left, left_weight), (right, right_weight) = _resize_weights(width, size[1])
    (top, top_weight), (bottom, bottom_weight) = _resize_weights(height, size[0])
    # The second products have 26 bits; 24, as float32, where weights are multiples of 4: at 4:3
    # and 2:1.
    dtype = torch.float64 if (top_weight % 4).any() else torch.float32

    pixels = images.float()
    left_part, right_part = (
        # Whole rows at once, as runtimes are slow on the 3 channels of one pixel.
        pixels.index_select(2, torch.from_numpy(index)).reshape(count, height, -1)
        * torch.from_numpy(weight.repeat(channels) / 2**4).float()
        for index, weight in ((left, left_weight), (right, right_weight))
    )
    wide = (left_part + right_part).floor().to(dtype)  # exact: the sums have up to 19 bits
    top_part, bottom_part = (
        (
            wide.index_select(1, torch.from_numpy(index))
            * torch.from_numpy(weight[:, None] / 2**16).to(dtype)
        ).floor()
        for index, weight in ((top, top_weight), (bottom, bottom_weight))
    )
    resized = ((top_part + bottom_part + 2).float() / 2**2).to(torch.uint8)
    return resized.reshape(count, *size, channels)


def _resize_weights(
    small: int, large: int
) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]:
    """Returns, for both points that each output mixes, its index and its weight [large].

    Weights are whole numbers of 0..2^11. At the edges both points are the same.
    """
    position = ((np.arange(large) + 0.5) * small / large - 0.5).astype(np.float32)
    first = np.floor(position)
    fraction = position - first
    return [
        (index.astype(np.int64).clip(0, small - 1), np.rint(weight * 2.0**11))
        for index, weight in ((first, 1 - fraction), (first + 1, fraction))
    ]


def _model_input(pixels: Tensor, recipe: Recipe) -> Tensor:
    """Pads uint8 [N, H, W, 3] with black to `pad_to`, normalizes, pads to `size_divisor`."""
    if recipe.inference.pad_to is not None:  # black, at the bottom and right
        rows, columns = (
            torch.sym_max(minimum - side, 0)
            for minimum, side in zip(recipe.inference.pad_to, pixels.shape[1:3], strict=True)
        )
        pixels = pad(pixels, (0, 0, 0, columns, 0, rows))  # type: ignore[arg-type]  # SymInts
    pixel_values = normalize(pixels, recipe.input)
    divisor = recipe.input.size_divisor
    if divisor > 1:
        rows, columns = (-side % divisor for side in pixel_values.shape[2:])
        pixel_values = pad(pixel_values, (0, columns, 0, rows))
    return pixel_values


def _crop(values: Tensor, size: Size) -> Tensor:
    """Returns the first rows and columns; a dynamic slice would be traced as if it cut nothing."""
    rows, columns = (torch.arange(side) for side in size)
    return values.index_select(-2, rows).index_select(-1, columns)


Graph = LogitsModule | MaskModule


def make_graph(checkpoint: Checkpoint, *, logits: bool) -> Graph:
    """Returns the module to export, with the checkpoint's weights, on the CPU."""
    module = LogitsModule if logits else MaskModule
    return module(model_from_checkpoint(checkpoint), checkpoint.recipe).eval()


def trace(graph: Graph, size: Size, *, dynamic: bool) -> torch.export.ExportedProgram:
    """Exports the graph for one image of `size`; with `dynamic` for any batch and image size.

    Sides are then `min_side` pixels or more. Raises PerpixelError if this torch cannot export the
    network for any size.
    """
    if dynamic:
        program = _trace_dynamic(graph)
    else:
        with torch.no_grad():
            program = torch.export.export(
                graph, (graph.preprocess(np.zeros((*size, 3), np.uint8)),)
            )
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):  # also what a branch runs
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)  # paths of this machine, which files would hold
    return program


def _trace_dynamic(graph: Graph) -> torch.export.ExportedProgram:
    image = graph.preprocess(np.zeros((2 * MIN_SIDES[-1], 3 * MIN_SIDES[-1], 3), np.uint8))
    example = torch.cat([image, image])  # the tracer would make a batch of one a constant
    # Before torch 2.12 the size after pooling was computed from a remainder, which made it static.
    patches: list[Any] = [
        patch("torch._meta_registrations.div_rtn", operator.floordiv, create=True)
    ]
    if "timm.layers.conv2d_same" in sys.modules:
        patches.append(patch("timm.layers.conv2d_same.pad_same", _pad_same))
    for least in MIN_SIDES:
        dims = {
            axis: torch.export.Dim(name, min=1 if name == "batch" else least)
            for axis, name in graph.axes.items()
        }
        with torch.no_grad(), ExitStack() as stack:
            for replacement in patches:
                stack.enter_context(replacement)
            try:
                return torch.export.export(graph, (example,), dynamic_shapes=(dims,))
            except torch._dynamo.exc.UserError as error:
                reason = str(error).splitlines()[0]
    raise PerpixelError(
        f"torch {torch.__version__} cannot export this network for images of any size: leave out "
        f"--dynamic, and give their size with --size ({reason})"
    )


def _pad_same(
    features: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int] = (1, 1),
    value: float = 0,
) -> Tensor:
    """timm's pad_same (layers/padding.py), by constant padding and a gather.

    Padding of a size that is not known makes the tracer compute for hours.
    """
    for axis, kernel, step, spread in zip((-2, -1), kernel_size, stride, dilation, strict=True):
        side, reach = features.shape[axis], (kernel - 1) * spread
        size = (side - 1) // step * step + reach + 1  # what the windows cover
        before = torch.sym_max(size - side, 0) // 2
        features = pad(
            features, (0, 0, reach, reach) if axis == -2 else (reach, reach), value=value
        )
        features = features.index_select(axis, torch.arange(size) + reach - before)
    return features


def min_side(program: torch.export.ExportedProgram) -> int:
    """Returns the least side, in pixels, of images for a program of any size."""
    return max(int(bounds.lower) for bounds in program.range_constraints.values())


def onnx_file(
    program: torch.export.ExportedProgram, graph: Graph, *, metadata: Mapping[str, str]
) -> bytes:
    """Returns the program of `graph` as an ONNX file by PyTorch's exporter, with `metadata`.

    The exporter fuses batch norms into convolutions.
    """
    dynamic = bool(program.range_constraints)
    # The exporter warns that torchvision is missing, and of its own deprecations.
    with mute_logger("torch.onnx"), warnings.catch_warnings(action="ignore"):
        exported = torch.onnx.export(
            program,
            dynamo=True,
            input_names=[graph.input],
            output_names=list(graph.outputs),
            dynamic_shapes=(graph.axes,) if dynamic else None,  # the axes' names in the file
            external_data=False,
            verbose=False,
        )
    assert exported is not None
    model = exported.model_proto
    model.producer_name = "perpixel"
    for axis, name in ((2, "logits_height"), (3, "logits_width")) if dynamic else ():
        # In place of a formula.
        model.graph.output[-1].type.tensor_type.shape.dim[axis].dim_param = name
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    content: bytes = model.SerializeToString()
    return content


def program_file(program: torch.export.ExportedProgram, metadata: Mapping[str, str]) -> bytes:
    """Returns the program as a .pt2 file of torch.export, with `metadata` in metadata.json."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"metadata.json": json.dumps(dict(metadata))})
    return buffer.getvalue()
