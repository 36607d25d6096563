"""Exports a checkpoint as a file for other programs, after comparing it with PyTorch."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import torch

from perpixel.checkpoints.format import Checkpoint
from perpixel.data.dataset import Dataset
from perpixel.data.datasets.folder import files_below
from perpixel.data.datasets.synthetic import SyntheticStreets
from perpixel.data.image_files import divide_files
from perpixel.errors import PerpixelError, UsageError, needs_extra, plural
from perpixel.exporting.check import (
    EXACT,
    HALF,
    Comparison,
    Limits,
    MIoU,
    compare,
    compare_miou,
    onnx_runner,
    program_runner,
    torch_runner,
)
from perpixel.exporting.graph import make_graph, min_side, onnx_file, program_file, trace
from perpixel.exporting.quantize import CALIBRATION_IMAGES, halve_weights, quantize
from perpixel.inference.exported import MIN_SIDES, import_onnxruntime
from perpixel.inference.predictor import Predictor
from perpixel.io.atomic import atomic_write
from perpixel.io.images import Array, Bands, Size, read_image, readable_palette, resize_image
from perpixel.profiling.latency import Latency, latency
from perpixel.recipes.models import FCNSkip
from perpixel.recipes.overrides import override_inference
from perpixel.recipes.schema import Recipe

MAX_IMAGES = 8
"""The most images of a folder or a data set to compare on."""
MIOU_TOLERANCE, INT8_MIOU_TOLERANCE = 0.1, 1.0
"""How much a file's mIoU may be below that of `predict`, 0..100, if the caller does not say."""


@dataclass(frozen=True)
class Timing:
    """Latency of the file in its own runtime and of PyTorch, on the CPU, at one size."""

    size: Size
    file: Latency
    torch: Latency


@dataclass(frozen=True)
class ExportResult:
    """An exported file, its comparison with `predict`, and latencies.

    `miou` is None without a labeled data set.
    """

    path: Path
    comparisons: tuple[Comparison, ...]
    timings: tuple[Timing, ...]
    miou: MIoU | None = None


def export(
    checkpoint: Checkpoint,
    out: Path,
    *,
    size: Size | None = None,
    dynamic: bool = False,
    logits: bool = False,
    check_on: Path | None = None,
    labeled: Dataset | None = None,
    calibration: Dataset | None = None,
    miou_tolerance: float | None = None,
    half: bool = False,
    settings: Iterable[str] = (),
    seconds: float = 1,
    progress: Callable[[int, int, str], None] = lambda *_: None,
) -> ExportResult:
    """Writes `out`, ONNX or, if it ends in .pt2, a torch.export program, checked against `predict`.

    The file takes images of `size` (by default the last crop size), with `dynamic` of any size
    from 33x33 on (65x65 for networks that round sizes down) and any number at a time. It maps
    uint8 RGB [N, H, W, 3] to the masks of `predict`, whose resizing and padding are in the graph;
    with `logits`, normalized images to logits. `settings` change the recipe's `inference`, as
    "inference.scales=[1]". The file is compared with `predict` on `check_on`, an image or eight of
    a folder, or on built-in scenes: resized to `size`, or with `dynamic` in three sizes each. Timed
    trials take at most `seconds`.

    On `labeled`, if given, the mIoU of both is compared, and `check_on` is by default eight of its
    images; that of the file may be less by `miou_tolerance` (0..100) at most, None being 0.1, and
    1.0 in INT8. `calibration` makes an INT8 file, its ranges measured on up to 64 images: masks may
    then differ from those of `predict`. `half` stores weights in float16, within wider limits
    (HALF in exporting/check.py). `progress` is called with (images done, in all, what is done with
    them).

    Raises UsageError for another suffix, a size that is too small, INT8 or float16 without ONNX,
    both at once, INT8 without `labeled`, and a `predict` that the file cannot do, as with several
    scales; PerpixelError if the extra is not installed or the file disagrees with `predict`.
    Nothing is written then.
    """
    if out.suffix not in (".onnx", ".pt2"):
        raise UsageError(f"{out}: the name of an exported file must end in .onnx or .pt2")
    if calibration is not None and half:
        raise UsageError("a file's weights are either INT8 or float16: leave out one of them")
    if (calibration is not None or half) and out.suffix != ".onnx":
        kind = "float16" if half else "INT8"
        raise UsageError(f"{out}: {kind} needs ONNX: give the file a name that ends in .onnx")
    if calibration is not None and labeled is None:
        raise UsageError("INT8 needs a labeled data set, to compare mIoU with that of `predict`")
    if out.suffix == ".onnx":
        with needs_extra("ONNX (but not .pt2)", "export"):
            import_onnxruntime()
            for name in ("onnx", "onnxscript"):
                import_module(name)
    if calibration is not None and len(calibration) == 0:
        raise PerpixelError("the training split holds no images to calibrate on")
    recipe = override_inference(checkpoint.recipe, settings)
    checkpoint = replace(checkpoint, recipe=recipe)
    size = size or recipe.last_crop_size
    _require_expressible(recipe, dynamic=dynamic, logits=logits)
    least = MIN_SIDES[0]
    if dynamic and min(size) < least:
        raise UsageError(
            f"--size {size[0]}x{size[1]}: with --dynamic, sides must be {least} pixels or more"
        )
    originals = _read_images(check_on, labeled, size, recipe.input.bands)
    graph = make_graph(checkpoint, logits=logits)
    if logits and not dynamic:
        height, width = graph.preprocess(np.zeros((*size, 3), np.uint8)).shape[2:]
        if (height, width) != size:
            raise UsageError(
                f"--size {size[0]}x{size[1]}: `predict` pads such images to {height}x{width}; give "
                f"that size with --logits"
            )
    program = trace(graph, size, dynamic=dynamic)
    metadata = _metadata(checkpoint)
    if dynamic:
        least = min_side(program)
        metadata["min_side"] = json.dumps(least)
    images = [
        (name, resize_image(image, image_size))
        for name, image in originals
        for image_size in (_sizes_near(image, least) if dynamic else [size])
    ]
    if out.suffix == ".onnx":
        content = onnx_file(program, graph, metadata=metadata)
        run_file = onnx_runner(content, graph)
    else:
        content = program_file(program, metadata)
        run_file = program_runner(content)
    run_torch = torch_runner(graph)
    predictor = Predictor.from_checkpoint(checkpoint)
    comparisons = compare(run_file, run_torch, graph, predictor, images=images)
    _require_agreement(out, comparisons, EXACT)
    image_size = None if dynamic else size
    if half or calibration is not None:
        if calibration is not None:
            content = quantize(content, graph, _read_some(calibration, image_size, progress))
        else:
            content = halve_weights(content)
        run_file = onnx_runner(content, graph)
        comparisons = compare(run_file, run_torch, graph, predictor, images=images)
        if half:
            _require_agreement(out, comparisons, HALF)
    miou = None
    if labeled is not None:
        miou = compare_miou(
            run_file,
            graph,
            predictor,
            dataset=labeled,
            size=image_size,
            progress=lambda done, total: progress(done, total, "compare mIoU"),
        )
        if miou_tolerance is None:
            miou_tolerance = MIOU_TOLERANCE if calibration is None else INT8_MIOU_TOLERANCE
        _require_miou(out, miou, miou_tolerance)
    atomic_write(out, content)
    timings = []
    for shape in dict.fromkeys(image.shape for _, image in images):
        inputs = graph.preprocess(np.zeros(shape, np.uint8))
        file_latency, torch_latency = (
            latency(partial(run, inputs), torch.device("cpu"), seconds=seconds)
            for run in (run_file, run_torch)
        )
        timings.append(Timing((shape[0], shape[1]), file_latency, torch_latency))
    return ExportResult(out, tuple(comparisons), tuple(timings), miou)


def _require_expressible(recipe: Recipe, *, dynamic: bool, logits: bool) -> None:
    """Raises UsageError if `predict` does with this recipe what the file could not."""
    if dynamic and isinstance(recipe.model.head, FCNSkip):
        raise UsageError(
            "the crops of the original FCN (model.head.type=fcn_skip) are exported for one size: "
            "leave out --dynamic, and name it with --size"
        )
    inference = recipe.inference.model_dump(mode="json")
    expressible: dict[str, object] = {"mode": "whole", "flip": False}
    if len(inference["scales"]) > 1 or dynamic or logits:
        expressible["scales"] = [1.0]
    if dynamic or logits:
        expressible |= {"base_size": None, "resize_to_multiple": 1}
    changes = {key: value for key, value in expressible.items() if value != inference[key]}
    if changes:
        present = (f"inference.{key}={json.dumps(inference[key])}" for key in changes)
        settings = (f"--set inference.{key}={json.dumps(changes[key])}" for key in changes)
        raise UsageError(
            f"`predict` uses this model with "
            f"{', '.join(present)}, and a file does one pass, resizing images only without "
            f"--dynamic and --logits: its masks would be others. To export what `predict` "
            f"gives with other settings, which may score less: {' '.join(settings)}"
        )
    if recipe.data.resize and (dynamic or logits):
        raise UsageError(
            f"`predict` resizes images to {list(recipe.data.resize)} (data.resize), and a file "
            f"does so only without --dynamic and --logits"
        )


def _metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """Returns the file's metadata; every value is JSON."""
    recipe = checkpoint.recipe
    values = {
        "class_names": checkpoint.class_names,
        "palette": readable_palette(checkpoint.palette),
        "recipe": recipe.name,
        "source": recipe.source,
        "input": recipe.input.model_dump(mode="json", exclude_none=True),
        "inference": recipe.inference.model_dump(mode="json"),
        "resize": recipe.data.resize,
        "align_corners": recipe.model.align_corners,
    }
    return {key: json.dumps(value) for key, value in values.items()}


def _sizes_near(image: Array, least: int) -> list[Size]:
    """Returns an image's own size and two near it with odd sides, the hardest to match.

    Sides are `least` or more.
    """
    height, width = image.shape[:2]
    odd = [(int(height * factor) | 1, int(width * factor) | 1) for factor in (0.75, 1.25)]
    return [(max(h, least), max(w, least)) for h, w in [(height, width), *odd]]


def _read_some(
    dataset: Dataset, size: Size | None, progress: Callable[[int, int, str], None]
) -> Iterator[Array]:
    """Yields up to CALIBRATION_IMAGES images, evenly spaced in `dataset`, resized to `size`."""
    indices = _evenly_spaced(len(dataset), CALIBRATION_IMAGES)
    for done, index in enumerate(indices, start=1):
        image = dataset.image(index)
        yield image if size is None else resize_image(image, size)
        progress(done, len(indices), "calibrate")


def _evenly_spaced(count: int, most: int) -> list[int]:
    return [index * count // min(count, most) for index in range(min(count, most))]


def _read_images(
    check_on: Path | None, labeled: Dataset | None, size: Size, bands: Bands | None
) -> list[tuple[str, Array]]:
    """Returns named images to compare on: one, some of a folder or of `labeled`, or scenes.

    Masks among a folder's images are left out.
    """
    if check_on is None and labeled is not None:
        indices = _evenly_spaced(len(labeled), MAX_IMAGES)
        return [(labeled.sample_id(index), labeled.image(index)) for index in indices]
    if check_on is None:
        scenes = SyntheticStreets("val", count=2, size=size)
        return [(f"scenes {scenes.sample_id(index)}", scenes.image(index)) for index in (0, 1)]
    files = [check_on]
    if check_on.is_dir():
        files = [check_on / name for name in divide_files(check_on, files_below(check_on))[0]]
    if not files or not check_on.exists():
        raise UsageError(f"--check-on {check_on}: no images there")
    chosen = [files[index] for index in _evenly_spaced(len(files), MAX_IMAGES)]
    return [(path.name, read_image(path, bands=bands)) for path in chosen]


def _require_agreement(out: Path, comparisons: list[Comparison], limits: Limits) -> None:
    failed = [comparison for comparison in comparisons if not comparison.agrees(limits)]
    if failed:
        worst = min(failed, key=lambda comparison: comparison.agreement)
        raise PerpixelError(
            f"{out}: not written, as it disagrees with `predict` on {len(failed)} of "
            f"{plural(len(comparisons), 'image')}. The worst, {worst.image} at {worst.size[0]}x"
            f"{worst.size[1]}: {worst.agreement:.3%} of the pixels agree (at least "
            f"{limits.agreement:.1%} must), and a logit is off by {worst.difference:.3g} where the "
            f"largest is {worst.largest:.3g} ({limits.difference:g} of it is the limit)"
        )


def _require_miou(out: Path, miou: MIoU, tolerance: float) -> None:
    if not miou.drop <= tolerance:
        raise PerpixelError(
            f"{out}: not written, as its mIoU is {miou.file:.2f} where that of `predict` is "
            f"{miou.predict:.2f} ({plural(miou.images, 'image')}): {miou.drop:.2f} less, and "
            f"{tolerance:g} is the limit"
        )
