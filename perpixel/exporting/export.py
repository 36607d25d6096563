"""Exports a checkpoint as a file for other programs, after comparing it with PyTorch."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import torch

from perpixel.checkpoints.format import Checkpoint
from perpixel.data.datasets.folder import files_below
from perpixel.data.datasets.synthetic import SyntheticStreets
from perpixel.data.image_files import divide_files
from perpixel.errors import PerpixelError, UsageError, needs_extra, plural
from perpixel.exporting.check import (
    AGREEMENT,
    TOLERANCE,
    Comparison,
    compare,
    onnx_runner,
    program_runner,
    torch_runner,
)
from perpixel.exporting.graph import (
    make_graph,
    min_side,
    onnx_file,
    padded_size,
    pads,
    program_file,
    resizes,
    trace,
)
from perpixel.inference.predictor import Predictor
from perpixel.io.atomic import atomic_write
from perpixel.io.images import Array, Bands, Size, read_image, readable_palette, resize_image
from perpixel.profiling.latency import Latency, latency
from perpixel.recipes.overrides import override
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
    """An exported file, its comparison with `predict`, and latencies."""

    path: Path
    comparisons: tuple[Comparison, ...]
    timings: tuple[Timing, ...]


def export(
    checkpoint: Checkpoint,
    out: Path,
    *,
    size: Size | None = None,
    dynamic: bool = False,
    logits: bool = False,
    check_on: Path | None = None,
    settings: Iterable[str] = (),
    seconds: float = 1,
) -> ExportResult:
    """Writes `out`, ONNX or, if it ends in .pt2, a torch.export program, checked against `predict`.

    The file takes images of `size` (by default the last crop size), with `dynamic` of any size
    from 33x33 on and any number at a time. It maps uint8 RGB [N, H, W, 3] to the masks of
    `predict`, whose resizing and padding are in the graph; with `logits`, normalized images to
    logits. `settings` change the recipe's `inference` and `data.resize`, as "inference.scales=[1]".
    The file is compared with `predict` on `check_on`, an image or eight of a folder, or on built-in
    scenes: resized to `size`, or with `dynamic` in three sizes each. Timed trials take at most
    `seconds`.

    Raises UsageError for another suffix, a size that is too small, and settings that no graph can
    hold, as several scales; PerpixelError if the extra is not installed or the file disagrees with
    `predict`. Nothing is written then.
    """
    if out.suffix not in (".onnx", ".pt2"):
        raise UsageError(f"{out}: the name of an exported file must end in .onnx or .pt2")
    if out.suffix == ".onnx":
        with needs_extra("ONNX (but not .pt2)", "export"):
            for name in ("onnx", "onnxscript", "onnxruntime"):
                import_module(name)
    checkpoint = replace(checkpoint, recipe=_change(checkpoint.recipe, settings))
    recipe = checkpoint.recipe
    size = size or recipe.last_crop_size
    _require_expressible(recipe, size, dynamic=dynamic, logits=logits)
    least = min_side(recipe)
    if dynamic and min(size) < least:
        raise UsageError(
            f"--size {size[0]}x{size[1]}: with --dynamic, sides must be {least} pixels or more"
        )
    images = [
        (name, resize_image(image, image_size))
        for name, image in _read_images(check_on, size, checkpoint.recipe.input.bands)
        for image_size in (_sizes_near(image, least) if dynamic else [size])
    ]
    graph = make_graph(checkpoint, logits=logits)
    program = trace(graph, size, dynamic=dynamic)
    metadata = _metadata(checkpoint)
    if out.suffix == ".onnx":
        content = onnx_file(program, graph, metadata=metadata)
        run_file = onnx_runner(content, graph)
    else:
        content = program_file(program, metadata)
        run_file = program_runner(content)
    run_torch = torch_runner(graph)
    predictor = Predictor.from_checkpoint(checkpoint)
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
    return ExportResult(out, tuple(comparisons), tuple(timings))


def _change(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """Returns the recipe with other settings of how an image is seen; raises UsageError."""
    changed = override(recipe, settings)
    data = recipe.data.model_copy(update={"resize": changed.data.resize})
    if changed != recipe.model_copy(update={"inference": changed.inference, "data": data}):
        raise UsageError(
            "--set: the settings of a trained model are those of inference, as "
            "inference.scales=[1], and data.resize"
        )
    return changed


def _require_expressible(recipe: Recipe, size: Size, *, dynamic: bool, logits: bool) -> None:
    """Raises UsageError if `predict` does with this recipe what the graph cannot."""
    inference, resize = recipe.inference, recipe.data.resize
    whole, one_scale = "inference.mode=whole", "inference.scales=[1]"
    problems = {  # setting to make: what is wrong
        whole: inference.mode != "whole" and f"inference.mode={inference.mode}",
        "inference.flip=false": inference.flip and "inference.flip=true",
        one_scale: (len(inference.scales) > 1 or (logits and inference.scales != (1.0,)))
        and f"inference.scales={list(inference.scales)}",
        "inference.base_size=null": logits
        and inference.base_size
        and f"inference.base_size={list(inference.base_size)}",
        "data.resize=null": logits and resize and f"data.resize={list(resize)}",
    }
    found = {setting: problem for setting, problem in problems.items() if problem}
    if found:
        what = "with --logits only the model itself, without resizing" if logits else "one pass"
        raise UsageError(
            f"`predict` and `eval` use this model with {', '.join(found.values())}, and a file "
            f"holds {what}: its masks would be others. To export what "
            f"`predict` gives with other settings: "
            f"{' '.join(f'--set {setting}' for setting in found)}"
        )
    if logits and not dynamic and pads(recipe):
        padded = padded_size(recipe, size)
        if padded != size:
            raise UsageError(
                f"--size {size[0]}x{size[1]}: `predict` pads such images to "
                f"{padded[0]}x{padded[1]}; give that size with --logits"
            )
    if dynamic and resizes(recipe) and pads(recipe) and not inference.resize_logits_twice:
        raise UsageError(
            "--dynamic: `predict` upsamples logits once or twice with this model, by whether a "
            "resized image is padded, and a graph has one way only; export one --size without "
            "--dynamic"
        )


def _metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """Returns the file's metadata; every value is JSON."""
    recipe = checkpoint.recipe
    values = {
        "class_names": checkpoint.class_names,
        "palette": readable_palette(checkpoint.palette),
        "recipe": recipe.name,
        "source": recipe.source,
        "input": recipe.input.model_dump(mode="json"),
        "inference": recipe.inference.model_dump(mode="json"),
        "resize": recipe.data.resize,
        "align_corners": recipe.model.align_corners,
    }
    return {key: json.dumps(value) for key, value in values.items()}


def _sizes_near(image: Array, least: int) -> list[Size]:
    """Returns an image's own size and two near it with odd sides, the hardest to match."""
    height, width = image.shape[:2]
    odd = [(int(height * factor) | 1, int(width * factor) | 1) for factor in (0.75, 1.25)]
    return [(max(h, least), max(w, least)) for h, w in [(height, width), *odd]]


def _read_images(check_on: Path | None, size: Size, bands: Bands | None) -> list[tuple[str, Array]]:
    """Returns named images to compare on: built-in scenes, one image, or some of a folder.

    Masks among a folder's images are left out.
    """
    if check_on is None:
        scenes = SyntheticStreets("val", count=2, size=size)
        return [(f"scenes {scenes.sample_id(index)}", scenes.image(index)) for index in (0, 1)]
    files = [check_on]
    if check_on.is_dir():
        files = [check_on / name for name in divide_files(check_on, files_below(check_on))[0]]
    if not files or not check_on.exists():
        raise UsageError(f"--check-on {check_on}: no images there")
    files = files[:: math.ceil(len(files) / MAX_IMAGES)]
    return [(path.name, read_image(path, bands=bands)) for path in files]


def _require_agreement(out: Path, comparisons: list[Comparison]) -> None:
    failed = [comparison for comparison in comparisons if not comparison.agrees]
    if failed:
        worst = min(failed, key=lambda comparison: comparison.agreement)
        raise PerpixelError(
            f"{out}: not written, as it disagrees with `predict` on {len(failed)} of "
            f"{plural(len(comparisons), 'image')}. The worst, {worst.image} at {worst.size[0]}x"
            f"{worst.size[1]}: {worst.agreement:.3%} of the pixels agree (at least {AGREEMENT:.1%} "
            f"must), and a logit is off by {worst.difference:.3g} where the largest is "
            f"{worst.largest:.3g} ({TOLERANCE:g} of it is the limit)"
        )
