"""Exports a checkpoint as a file for other programs, after comparing it with PyTorch."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import torch

from perpixel.checkpoints.format import Checkpoint
from perpixel.data.datasets.synthetic import SyntheticStreets
from perpixel.errors import PerpixelError, UsageError, needs_extra
from perpixel.exporting.check import (
    AGREEMENT,
    TOLERANCE,
    Comparison,
    compare,
    onnx_runner,
    program_runner,
    torch_runner,
)
from perpixel.exporting.graph import MIN_SIDE, make_graph, onnx_file, program_file, trace
from perpixel.inference.predictor import Predictor
from perpixel.io.atomic import atomic_write
from perpixel.io.images import IMAGE_SUFFIXES, Array, Bands, Size, read_image, resize_image
from perpixel.profiling.latency import Latency, latency
from perpixel.recipes.schema import Recipe

MAX_IMAGES = 8
"""The most images of a folder to compare on."""


@dataclass(frozen=True)
class Timing:
    """Latency of the file in its own runtime and of PyTorch, on the CPU, at one size."""

    size: Size
    file: Latency
    torch: Latency


@dataclass(frozen=True)
class ExportResult:
    """An exported file, its comparison with PyTorch, and notes on what `predict` does beyond it."""

    path: Path
    comparisons: tuple[Comparison, ...]
    timings: tuple[Timing, ...]
    notes: tuple[str, ...]


def export(
    checkpoint: Checkpoint,
    out: Path,
    *,
    size: Size | None = None,
    dynamic: bool = False,
    logits: bool = False,
    check_on: Path | None = None,
    seconds: float = 1,
) -> ExportResult:
    """Writes `out`, ONNX or, if it ends in .pt2, a torch.export program, checked against PyTorch.

    The file takes images of `size` (by default the last crop size), with `dynamic` of any size
    from 33x33 on and any number at a time. It maps uint8 RGB [N, H, W, 3] to masks; with `logits`,
    normalized images to logits. It is compared with PyTorch on `check_on`, an image or eight of a
    folder, or on built-in scenes: resized to `size`, or with `dynamic` in three sizes each. Timed
    trials take at most `seconds`.

    Raises UsageError for another suffix or a size below 33, PerpixelError if the extra is not
    installed or the file disagrees with PyTorch; nothing is written then.
    """
    if out.suffix not in (".onnx", ".pt2"):
        raise UsageError(f"{out}: the name of an exported file must end in .onnx or .pt2")
    if out.suffix == ".onnx":
        with needs_extra("ONNX (but not .pt2)", "export"):
            for name in ("onnx", "onnxscript", "onnxruntime"):
                import_module(name)
    size = size or checkpoint.recipe.last_crop_size
    if dynamic and min(size) < MIN_SIDE:
        raise UsageError(
            f"--size {size[0]}x{size[1]}: with --dynamic, sides must be {MIN_SIDE} pixels or more"
        )
    images = [
        (name, resize_image(image, image_size))
        for name, image in _read_images(check_on, size, checkpoint.recipe.data.bands)
        for image_size in (_sizes_near(image) if dynamic else [size])
    ]
    whole_image = replace(checkpoint, recipe=_whole_image_recipe(checkpoint.recipe))
    graph = make_graph(whole_image, logits=logits)
    program = trace(graph, size, dynamic=dynamic)
    metadata = _metadata(checkpoint)
    if out.suffix == ".onnx":
        content = onnx_file(program, graph, metadata=metadata)
        run_file = onnx_runner(content, graph)
    else:
        content = program_file(program, metadata)
        run_file = program_runner(content)
    run_torch = torch_runner(graph)
    predictor = Predictor.from_checkpoint(whole_image)
    comparisons = compare(run_file, run_torch, graph, predictor, images=images)
    _require_agreement(out, comparisons)
    atomic_write(out, content)
    timings = []
    for shape in dict.fromkeys(image.shape for _, image in images):
        inputs = graph.preprocess(np.zeros(shape, np.uint8))
        file_latency, torch_latency = (
            latency(partial(run, inputs), torch.device("cpu"), seconds=seconds)
            for run in (run_file, run_torch)
        )
        timings.append(Timing((shape[0], shape[1]), file_latency, torch_latency))
    return ExportResult(out, tuple(comparisons), tuple(timings), tuple(_notes(checkpoint.recipe)))


def _whole_image_recipe(recipe: Recipe) -> Recipe:
    """Returns the recipe with inference as the graph does it: whole image, own size, one scale."""
    inference = recipe.inference.model_copy(
        update={"base_size": None, "mode": "whole", "scales": (1.0,), "flip": False}
    )
    data = recipe.data.model_copy(update={"resize": None})
    return recipe.model_copy(update={"inference": inference, "data": data})


def _notes(recipe: Recipe) -> Iterator[str]:
    """Yields what `predict` does with this recipe beyond the graph."""
    inference, resize = recipe.inference, recipe.data.resize
    if resize is not None:
        yield f"`predict` first resizes images to {resize[0]}x{resize[1]} (height x width)."
    if inference.base_size is not None:
        long_side, short_side = inference.base_size
        yield f"`predict` first fits images into {long_side}x{short_side} (long x short side)."
    if inference.mode != "whole":
        yield "`predict` uses overlapping windows; the file takes the whole image."
    if len(inference.scales) > 1 or inference.flip:
        yield "`predict` averages over scales or flips; the file does not."


def _metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """Returns the file's metadata; every value is JSON."""
    recipe = checkpoint.recipe
    values = {
        "class_names": checkpoint.class_names,
        "palette": checkpoint.palette,
        "recipe": recipe.name,
        "source": recipe.source,
        "input": recipe.input.model_dump(mode="json"),
        "inference": recipe.inference.model_dump(mode="json"),
        "resize": recipe.data.resize,
        "align_corners": recipe.model.align_corners,
    }
    return {key: json.dumps(value) for key, value in values.items()}


def _sizes_near(image: Array) -> list[Size]:
    """Returns an image's own size and two near it with odd sides, the hardest to match."""
    height, width = image.shape[:2]
    odd = [(int(height * factor) | 1, int(width * factor) | 1) for factor in (0.75, 1.25)]
    return [(max(h, MIN_SIDE), max(w, MIN_SIDE)) for h, w in [(height, width), *odd]]


def _read_images(check_on: Path | None, size: Size, bands: Bands | None) -> list[tuple[str, Array]]:
    """Returns named images to compare on: built-in scenes, one image, or some of a folder."""
    if check_on is None:
        scenes = SyntheticStreets("val", count=2, size=size)
        return [(f"scenes {scenes.sample_id(index)}", scenes.image(index)) for index in (0, 1)]
    files = [check_on]
    if check_on.is_dir():
        files = sorted(p for p in check_on.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not files or not check_on.exists():
        raise UsageError(f"--check-on {check_on}: no images there")
    files = files[:: math.ceil(len(files) / MAX_IMAGES)]
    return [(path.name, read_image(path, bands=bands)) for path in files]


def _require_agreement(out: Path, comparisons: list[Comparison]) -> None:
    failed = [comparison for comparison in comparisons if not comparison.agrees]
    if failed:
        worst = min(failed, key=lambda comparison: comparison.agreement)
        raise PerpixelError(
            f"{out}: not written, as it disagrees with PyTorch on {len(failed)} of "
            f"{len(comparisons)} images. The worst, {worst.image} at {worst.size[0]}x"
            f"{worst.size[1]}: {worst.agreement:.3%} of the pixels agree (at least {AGREEMENT:.1%} "
            f"must), and a logit is off by {worst.difference:.3g} where the largest is "
            f"{worst.largest:.3g} ({TOLERANCE:g} of it is the limit)"
        )
