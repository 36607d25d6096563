"""Modules to export: the model alone, or everything from an image to its mask."""

import io
import json
import operator
import warnings
from collections.abc import Mapping
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from perpixel.checkpoints.format import Checkpoint, model_from_checkpoint
from perpixel.errors import PerpixelError
from perpixel.io.atomic import mute_logger
from perpixel.io.images import Array
from perpixel.models.normalize import normalize
from perpixel.models.segmenter import Segmenter
from perpixel.recipes.base import Size
from perpixel.recipes.schema import Recipe

MIN_SIDE = 33
"""The least side of a dynamic image: the tracer makes sides of 1 of a feature map constants."""


class LogitsModule(nn.Module):
    """Normalized images, float32 [N, 3, H, W], to logits [N, num_classes, h, w]."""

    input, axes = "pixel_values", {0: "batch", 2: "height", 3: "width"}
    outputs: tuple[str, ...] = ("logits",)

    def __init__(self, model: Segmenter, recipe: Recipe) -> None:
        super().__init__()
        self.model = model
        self._input = recipe.input

    def preprocess(self, image: Array) -> Tensor:
        """Returns the graph's input for one uint8 RGB image [H, W, 3]."""
        return normalize(torch.from_numpy(image)[None], self._input)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor]:
        """Returns the model's main logits, at the head's own stride."""
        return (self.model(pixel_values).logits,)


class MaskModule(nn.Module):
    """uint8 RGB images [N, H, W, 3] to masks, uint8 [N, H, W], as `predict` makes them.

    It also returns the logits, [N, num_classes, h, w] at the head's own stride. Images are
    processed whole, at one scale and their own size, whatever else the recipe's `inference` says.
    """

    input, axes = "images", {0: "batch", 1: "height", 2: "width"}
    outputs: tuple[str, ...] = ("mask", "logits")

    def __init__(self, model: Segmenter, recipe: Recipe) -> None:
        super().__init__()
        self.model = model
        self._input = recipe.input
        self._align_corners = recipe.model.align_corners
        self._pad_to = recipe.inference.pad_to

    def preprocess(self, image: Array) -> Tensor:
        """Returns the graph's input for one uint8 RGB image [H, W, 3]."""
        return torch.from_numpy(image)[None]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalizes and pads as the recipe does, runs the model, upsamples, takes the argmax."""
        height, width = images.shape[1:3]
        pixels = images
        if self._pad_to is not None:  # black, at the bottom and right
            rows, columns = (
                torch.sym_max(minimum - side, 0)  # type: ignore[no-untyped-call]
                for minimum, side in zip(self._pad_to, (height, width), strict=True)
            )
            pixels = pad(images, (0, 0, 0, columns, 0, rows))
        pixel_values = normalize(pixels, self._input)
        divisor = self._input.size_divisor
        if divisor > 1:
            rows, columns = (-side % divisor for side in pixel_values.shape[2:])
            pixel_values = pad(pixel_values, (0, columns, 0, rows))
        logits: Tensor = self.model(pixel_values).logits
        upsampled = interpolate(
            logits, size=pixel_values.shape[2:], mode="bilinear", align_corners=self._align_corners
        )
        mask = upsampled.argmax(dim=1).to(torch.uint8)
        if self._pad_to is not None or divisor > 1:
            # A slice to a dynamic size would be traced as if it cut off nothing.
            rows, columns = torch.arange(height), torch.arange(width)
            mask = mask.index_select(1, rows).index_select(2, columns)
        return mask, logits


Graph = LogitsModule | MaskModule


def make_graph(checkpoint: Checkpoint, *, logits: bool) -> Graph:
    """Returns the module to export, with the checkpoint's weights, on the CPU."""
    module = LogitsModule if logits else MaskModule
    return module(model_from_checkpoint(checkpoint), checkpoint.recipe).eval()


def trace(graph: Graph, size: Size, *, dynamic: bool) -> torch.export.ExportedProgram:
    """Exports the graph for one image of `size`; with `dynamic` for any batch and image size.

    Sides are then 33 pixels or more. Raises PerpixelError if this torch cannot export dynamic
    sizes.
    """
    example = graph.preprocess(np.zeros((*size, 3), np.uint8))
    if dynamic:  # the tracer would make a batch of one a constant
        example = torch.cat([example, example])
    dims = {
        axis: torch.export.Dim(name, min=1 if name == "batch" else MIN_SIDE)
        for axis, name in graph.axes.items()
    }
    # Before torch 2.12 the size after pooling was computed from a remainder, which made it static.
    floor_division = patch("torch._meta_registrations.div_rtn", operator.floordiv, create=True)
    try:
        with torch.no_grad(), floor_division:
            return torch.export.export(
                graph, (example,), dynamic_shapes=(dims,) if dynamic else None
            )
    except torch._dynamo.exc.UserError as error:
        if not dynamic:
            raise
        raise PerpixelError(
            f"torch {torch.__version__} cannot export for images of any size: use torch 2.11 or "
            f"newer, or leave out --dynamic ({str(error).splitlines()[0]})"
        ) from error


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
