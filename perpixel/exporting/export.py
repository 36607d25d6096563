"""From a checkpoint to a file that other programs run, kept only if it does what PyTorch does."""

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from perpixel.checkpoint import Checkpoint
from perpixel.data.scenes import Scenes
from perpixel.errors import PerpixelError, UsageError
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
from perpixel.images import IMAGE_SUFFIXES, Array, Size, read_image, resize_image
from perpixel.profiling.timing import Latency, latency
from perpixel.recipes.spec import Recipe
from perpixel.writing import write_whole

FACTORS = (1.0, 0.75, 1.25)
"""Of every picture's size, where sizes are free; sides are made odd, which is hardest to match."""

CHECKED = 8
"""Pictures of a folder, at most."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds of a pass in the file's own runtime and in PyTorch, on one CPU, at one size."""

    size: Size
    file: Latency
    torch: Latency


@dataclass(frozen=True)
class Exported:
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
) -> Exported:
    """Writes `out`, ONNX or, if it ends in .pt2, torch.export's, and checks it against PyTorch.

    The file takes pictures of `size` (by default the last crop), with `dynamic` of any size
    from 33x33 on and any number at a time. It goes from uint8 RGB [N, H, W, 3] to class maps;
    with `logits` from normalised pictures to logits. It is compared on `check_on`, a picture or
    eight of a folder, in the size that each has if `dynamic`, or on built-in scenes, and timed with
    trials of at most `seconds`.

    Raises UsageError for another suffix or a size below 33, PerpixelError when the extra
    is not installed, or when the file disagrees; nothing is written then.
    """
    if out.suffix not in (".onnx", ".pt2"):
        raise UsageError(f"{out}: an exported file's name ends in .onnx or .pt2")
    if out.suffix == ".onnx":
        _require_extra()
    fixed = size or checkpoint.recipe.train.last_crop
    shown = _files(check_on)
    if dynamic and min(fixed) < SMALLEST:
        raise UsageError(
            f"--size {fixed[0]}x{fixed[1]}: with --dynamic, sides are {SMALLEST} pixels or more"
        )
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
    pictures = list(_pictures(shown, fixed, dynamic=dynamic))
    found = compare(run, graph, plain, pictures=pictures)
    _require_agreement(out, found)
    write_whole(out, content)
    timings = []
    for shape in dict.fromkeys(picture.shape for _, picture in pictures):
        fed = graph.fed(np.zeros(shape, np.uint8))
        theirs, ours = (
            latency(partial(way, fed), torch.device("cpu"), seconds=seconds)
            for way in (run, torch_runner(graph))
        )
        timings.append(Timing((shape[0], shape[1]), theirs, ours))
    return Exported(out, tuple(found), tuple(timings), tuple(_notes(checkpoint.recipe)))


def _require_extra() -> None:
    wanted = ("onnx", "onnxscript", "onnxruntime")
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        raise PerpixelError(
            f'ONNX needs {", ".join(missing)}: pip install "perpixel[export]". A file that ends '
            f"in .pt2 (torch.export) needs nothing more"
        )


def _plain(recipe: Recipe) -> Recipe:
    """The recipe, its pictures seen whole, once and at their own size, as a graph sees them."""
    inference = recipe.inference.model_copy(
        update={"base_size": None, "windows": "whole", "scales": (1.0,), "flip": False}
    )
    data = recipe.data.model_copy(update={"resize": None})
    return recipe.model_copy(update={"inference": inference, "data": data})


def _notes(recipe: Recipe) -> Iterator[str]:
    """What `predict` does with this recipe that is left to the file's user."""
    box, resize, inference = recipe.inference.base_size, recipe.data.resize, recipe.inference
    if resize is not None:
        yield f"`predict` first brings pictures to {resize[0]}x{resize[1]} (height x width)."
    if box is not None:
        yield f"`predict` first fits pictures into {box[0]}x{box[1]} (long side x short side)."
    if inference.windows != "whole":
        yield "`predict` takes overlapping windows; the file sees the picture whole."
    if len(inference.scales) > 1 or inference.flip:
        yield "`predict` averages over scales or flips; the file sees the picture once."


def _metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """What a user of the file alone needs to know; every value is JSON."""
    recipe = checkpoint.recipe
    values = {
        "classes": checkpoint.names,
        "palette": checkpoint.palette,
        "recipe": recipe.name,
        "source": recipe.source,
        "input": recipe.input.model_dump(mode="json"),
        "inference": recipe.inference.model_dump(mode="json"),
        "resize": recipe.data.resize,
        "align_corners": recipe.model.align_corners,
    }
    return {key: json.dumps(value) for key, value in values.items()}


def _pictures(
    files: list[Path] | None, fixed: Size, *, dynamic: bool
) -> Iterator[tuple[str, Array]]:
    """Pictures by name, of the fixed size, or each of three sizes."""
    for name, picture in _originals(files, fixed):
        if not dynamic:
            yield name, resize_image(picture, fixed)
            continue
        for factor in FACTORS:
            own = picture.shape[0], picture.shape[1]
            if factor != 1:
                own = int(own[0] * factor) | 1, int(own[1] * factor) | 1
            yield name, resize_image(picture, (max(own[0], SMALLEST), max(own[1], SMALLEST)))


def _files(check_on: Path | None) -> list[Path] | None:
    """The pictures to check on, of a folder at most `CHECKED`; None: built-in scenes."""
    if check_on is None:
        return None
    files = [check_on]
    if check_on.is_dir():
        files = sorted(p for p in check_on.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not files or not check_on.exists():
        raise UsageError(f"--check-on {check_on}: no pictures there")
    return files[:: -(-len(files) // CHECKED)]


def _originals(files: list[Path] | None, fixed: Size) -> Iterator[tuple[str, Array]]:
    if files is None:
        scenes = Scenes("val", count=2, size=fixed)
        for index in range(len(scenes)):
            yield f"scenes {scenes.name(index)}", scenes.image(index)
        return
    for path in files:
        yield path.name, read_image(path)


def _require_agreement(out: Path, found: list[Comparison]) -> None:
    wrong = [comparison for comparison in found if not comparison.agrees]
    if wrong:
        worst = min(wrong, key=lambda comparison: comparison.agreement)
        raise PerpixelError(
            f"{out}: not written, as it does not do what PyTorch does on {len(wrong)} of "
            f"{len(found)} pictures. The worst, {worst.picture} at {worst.size[0]}x"
            f"{worst.size[1]}: {worst.agreement:.3%} of the pixels agree ({AGREEMENT:.1%} must), "
            f"and a logit is off by {worst.difference:.3g} where the largest is "
            f"{worst.largest:.3g} ({TOLERANCE:g} of it may be)"
        )
