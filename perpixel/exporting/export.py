"""From a checkpoint to a file that other programs run, kept only if it does what PyTorch does."""

import json
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
from perpixel.exporting.graph import SMALLEST, graph_of, onnx_file, program_file, trace
from perpixel.io.atomic import atomic_write
from perpixel.io.images import IMAGE_SUFFIXES, Array, Size, read_image, resize_image
from perpixel.profiling.latency import Latency, latency
from perpixel.recipes.schema import Recipe

CHECKED = 8
"""Images of a folder, at most."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds of a pass in the file's own runtime and in PyTorch, on one CPU, at one size."""

    size: Size
    file: Latency
    torch: Latency


@dataclass(frozen=True)
class ExportResult:
    """A file that was kept, how it compares with PyTorch, and what `predict` does besides."""

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
    """Writes `out`, ONNX or, if it ends in .pt2, torch.export's, and checks it against PyTorch.

    The file takes images of `size` (by default the last crop), with `dynamic` of any size
    from 33x33 on and any number at a time. It goes from uint8 RGB [N, H, W, 3] to masks;
    with `logits` from normalized images to logits. It is compared on `check_on`, an image or
    eight of a folder, in the size that each has if `dynamic`, or on built-in scenes, and timed with
    trials of at most `seconds`.

    Raises UsageError for another suffix or a size below 33, PerpixelError when the extra
    is not installed, or when the file disagrees; nothing is written then.
    """
    if out.suffix not in (".onnx", ".pt2"):
        raise UsageError(f"{out}: an exported file's name ends in .onnx or .pt2")
    if out.suffix == ".onnx":
        with needs_extra("ONNX (.pt2 does without)", "export"):
            for name in ("onnx", "onnxscript", "onnxruntime"):
                import_module(name)
    fixed = size or checkpoint.recipe.last_crop_size
    if dynamic and min(fixed) < SMALLEST:
        raise UsageError(
            f"--size {fixed[0]}x{fixed[1]}: with --dynamic, sides are {SMALLEST} pixels or more"
        )
    images = [
        (name, resize_image(image, shown))
        for name, image in _originals(check_on, fixed)
        for shown in (_near(image) if dynamic else [fixed])
    ]
    plain = replace(checkpoint, recipe=_plain(checkpoint.recipe))
    graph = graph_of(plain, logits=logits)
    program = trace(graph, fixed, dynamic=dynamic)
    about = _metadata(checkpoint)
    if out.suffix == ".onnx":
        content = onnx_file(program, graph, metadata=about)
        run = onnx_runner(content, graph)
    else:
        content = program_file(program, about)
        run = program_runner(content)
    found = compare(run, graph, plain, images=images)
    _require_agreement(out, found)
    atomic_write(out, content)
    timings = []
    for shape in dict.fromkeys(image.shape for _, image in images):
        fed = graph.fed(np.zeros(shape, np.uint8))
        theirs, ours = (
            latency(partial(way, fed), torch.device("cpu"), seconds=seconds)
            for way in (run, torch_runner(graph))
        )
        timings.append(Timing((shape[0], shape[1]), theirs, ours))
    return ExportResult(out, tuple(found), tuple(timings), tuple(_notes(checkpoint.recipe)))


def _plain(recipe: Recipe) -> Recipe:
    """The recipe, its images seen whole, once and at their own size, as a graph sees them."""
    inference = recipe.inference.model_copy(
        update={"base_size": None, "mode": "whole", "scales": (1.0,), "flip": False}
    )
    data = recipe.data.model_copy(update={"resize": None})
    return recipe.model_copy(update={"inference": inference, "data": data})


def _notes(recipe: Recipe) -> Iterator[str]:
    """What `predict` does with this recipe that is left to the file's user."""
    box, resize, inference = recipe.inference.base_size, recipe.data.resize, recipe.inference
    if resize is not None:
        yield f"`predict` first brings images to {resize[0]}x{resize[1]} (height x width)."
    if box is not None:
        yield f"`predict` first fits images into {box[0]}x{box[1]} (long side x short side)."
    if inference.mode != "whole":
        yield "`predict` takes overlapping windows; the file sees the image whole."
    if len(inference.scales) > 1 or inference.flip:
        yield "`predict` averages over scales or flips; the file sees the image once."


def _metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """What a user of the file alone needs to know; every value is JSON."""
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


def _near(image: Array) -> list[Size]:
    """An image's own size and two near it, whose sides are odd, which is hardest to match."""
    height, width = image.shape[:2]
    around = [(int(height * factor) | 1, int(width * factor) | 1) for factor in (0.75, 1.25)]
    return [(max(h, SMALLEST), max(w, SMALLEST)) for h, w in [(height, width), *around]]


def _originals(check_on: Path | None, fixed: Size) -> list[tuple[str, Array]]:
    """Images to check on, by name: built-in scenes, an image, or of a folder some."""
    if check_on is None:
        scenes = SyntheticStreets("val", count=2, size=fixed)
        return [(f"scenes {scenes.sample_id(index)}", scenes.image(index)) for index in (0, 1)]
    files = [check_on]
    if check_on.is_dir():
        files = sorted(p for p in check_on.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not files or not check_on.exists():
        raise UsageError(f"--check-on {check_on}: no images there")
    return [(path.name, read_image(path)) for path in files[:: -(-len(files) // CHECKED)]]


def _require_agreement(out: Path, found: list[Comparison]) -> None:
    wrong = [comparison for comparison in found if not comparison.agrees]
    if wrong:
        worst = min(wrong, key=lambda comparison: comparison.agreement)
        raise PerpixelError(
            f"{out}: not written, as it does not do what PyTorch does on {len(wrong)} of "
            f"{len(found)} images. The worst, {worst.image} at {worst.size[0]}x"
            f"{worst.size[1]}: {worst.agreement:.3%} of the pixels agree ({AGREEMENT:.1%} must), "
            f"and a logit is off by {worst.difference:.3g} where the largest is "
            f"{worst.largest:.3g} ({TOLERANCE:g} of it may be)"
        )
