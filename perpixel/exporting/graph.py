"""What is exported: a model, or all of the way from an image to its mask."""

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

SMALLEST = 33
"""The least side of an image where sizes are free: the tracer takes sides of 1 for constants."""


class LogitsModule(nn.Module):
    """Normalized images, float32 [N, 3, H, W], to logits [N, num_classes, h, w]."""

    input, axes = "pixel_values", {0: "batch", 2: "height", 3: "width"}
    outputs: tuple[str, ...] = ("logits",)

    def __init__(self, model: Segmenter, recipe: Recipe) -> None:
        super().__init__()
        self.model = model
        self._input = recipe.input

    def fed(self, image: Array) -> Tensor:
        """What the graph takes for one uint8 RGB image [H, W, 3]."""
        return normalize(torch.from_numpy(image)[None], self._input)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor]:
        """The model's main logits, at the head's own stride."""
        output: Tensor = self.model(pixel_values).logits
        return (output,)


class MaskModule(nn.Module):
    """uint8 RGB images [N, H, W, 3] to masks, uint8 [N, H, W], as `predict` makes them.

    The logits, [N, num_classes, h, w] at the head's own stride, come with them. Images are taken
    whole, once and at their own size, whatever else the recipe's `inference` says.
    """

    input, axes = "images", {0: "batch", 1: "height", 2: "width"}
    outputs: tuple[str, ...] = ("mask", "logits")

    def __init__(self, model: Segmenter, recipe: Recipe) -> None:
        super().__init__()
        self.model = model
        self._input = recipe.input
        self._align_corners = recipe.model.align_corners
        self._least = recipe.inference.pad_to

    def fed(self, image: Array) -> Tensor:
        """What the graph takes for one uint8 RGB image [H, W, 3]."""
        return torch.from_numpy(image)[None]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalize, pad as the recipe does, run, upsample, choose."""
        height, width = images.shape[1:3]
        padded = images
        if self._least is not None:  # black, at the bottom and right
            rows, columns = (
                torch.sym_max(least - side, 0)  # type: ignore[no-untyped-call]
                for least, side in zip(self._least, (height, width), strict=True)
            )
            padded = pad(images, (0, 0, 0, columns, 0, rows))
        fed = normalize(padded, self._input)
        divisor = self._input.size_divisor
        if divisor > 1:
            fed = pad(fed, (0, -fed.shape[3] % divisor, 0, -fed.shape[2] % divisor))
        logits: Tensor = self.model(fed).logits
        full = interpolate(
            logits, size=fed.shape[2:], mode="bilinear", align_corners=self._align_corners
        )
        classes = full.argmax(dim=1).to(torch.uint8)
        if self._least is not None or divisor > 1:
            # Slices of a size yet unknown would be traced as if they cut off nothing.
            rows, columns = torch.arange(height), torch.arange(width)
            classes = classes.index_select(1, rows).index_select(2, columns)
        return classes, logits


Graph = LogitsModule | MaskModule


def graph_of(checkpoint: Checkpoint, *, logits: bool) -> Graph:
    """The graph to export, with the checkpoint's weights, on the CPU."""
    kind = LogitsModule if logits else MaskModule
    return kind(model_from_checkpoint(checkpoint), checkpoint.recipe).eval()


def trace(graph: Graph, size: Size, *, dynamic: bool) -> torch.export.ExportedProgram:
    """PyTorch's exported program for one image of `size`; with `dynamic` for any number and size.

    A dynamic program's images have sides of 33 pixels or more. Raises PerpixelError where this
    torch cannot keep their size free.
    """
    one = graph.fed(np.zeros((*size, 3), np.uint8))
    # Of a batch of one the tracer would make a constant, too.
    example = torch.zeros(2 if dynamic else 1, *one.shape[1:], dtype=one.dtype)
    dims = {
        axis: torch.export.Dim(name, min=1 if name == "batch" else SMALLEST)
        for axis, name in graph.axes.items()
    }
    # Before torch 2.12 a pooled size was computed by asking for the remainder, which fixed it.
    floors = patch("torch._meta_registrations.div_rtn", operator.floordiv, create=True)
    try:
        with torch.no_grad(), floors:
            return torch.export.export(
                graph, (example,), dynamic_shapes=(dims,) if dynamic else None
            )
    except torch._dynamo.exc.UserError as error:
        if not dynamic:
            raise
        raise PerpixelError(
            f"torch {torch.__version__} cannot export for images of any size: take torch 2.11 or "
            f"newer, or export one size, without --dynamic ({str(error).splitlines()[0]})"
        ) from error


def onnx_file(
    program: torch.export.ExportedProgram, graph: Graph, *, metadata: Mapping[str, str]
) -> bytes:
    """The program of `graph` as an ONNX file by PyTorch's exporter; `metadata` are its properties.

    The runtime joins batch norms with convolutions.
    """
    dynamic = bool(program.range_constraints)
    # The exporter tells of torchvision's absence, and of its own deprecations.
    with mute_logger("torch.onnx"), warnings.catch_warnings(action="ignore"):
        made = torch.onnx.export(
            program,
            dynamo=True,
            input_names=[graph.input],
            output_names=list(graph.outputs),
            dynamic_shapes=(graph.axes,) if dynamic else None,  # their names in the file
            external_data=False,
            verbose=False,
        )
    assert made is not None
    model = made.model_proto
    model.producer_name = "perpixel"
    for axis, name in ((2, "logits_height"), (3, "logits_width")) if dynamic else ():
        model.graph.output[-1].type.tensor_type.shape.dim[axis].dim_param = name  # not a formula
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    content: bytes = model.SerializeToString()
    return content


def program_file(program: torch.export.ExportedProgram, metadata: Mapping[str, str]) -> bytes:
    """The program as torch.export's .pt2 file, with `metadata` in its extra file metadata.json."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"metadata.json": json.dumps(dict(metadata))})
    return buffer.getvalue()
