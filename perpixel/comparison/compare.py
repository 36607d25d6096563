"""Trains one recipe on several backbones, and then measures what their models cost."""

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from perpixel.checkpoints.format import read_checkpoint
from perpixel.errors import Interrupted, PerpixelError
from perpixel.inference.predictor import Predictor
from perpixel.profiling.flops import Count
from perpixel.profiling.latency import inference_pass, latency
from perpixel.recipes.base import Size
from perpixel.recipes.schema import Recipe
from perpixel.runtime.dtype import no_tf32
from perpixel.training.run_logger import rows as read_rows
from perpixel.training.train import Run

_ROUNDS, _TRIAL_SECONDS = 3, 0.5
"""Latencies are measured in rounds over all models, so that other work on the machine slows all;
in a round each model has three trials of this longest time."""


@dataclass(frozen=True)
class Row:
    """A backbone's scores, in percent, and what its model costs.

    The scores are those of the final weights; `latency_ms` is the median of single images in the
    best of a few rounds, and `training_seconds` are those of the steps, without evaluations.
    """

    backbone: str
    miou: float
    pixel_accuracy: float
    mean_accuracy: float
    params: int
    macs: int
    latency_ms: float
    training_seconds: float


@dataclass(frozen=True)
class Comparison:
    """The rows of those backbones that were trained, and why the others failed, by name."""

    rows: tuple[Row, ...]
    failed: Mapping[str, str]


def compare(
    plan: Mapping[str, tuple[Recipe, Count]],
    *,
    out: Path,
    size: Size,
    device: torch.device,
    train: Callable[[Recipe, Path], Run],
    announce: Callable[[str], None],
) -> Comparison:
    """Trains each recipe of `plan` into out/NAME, then measures all models in a row.

    train: trains a recipe into a folder, or resumes the run there. A backbone that fails is
    recorded, and the others go on. The latency is that of one image of `size` in float32 on
    `device`, to logits of its size, of the models as `perpixel.load` makes them. announce: called
    with a line at each beginning and failure. Raises Interrupted when a signal stopped a training.
    """
    runs: dict[str, Run] = {}
    failed: dict[str, str] = {}
    for number, (name, (recipe, _)) in enumerate(plan.items(), 1):
        announce(f"{name}, {number} of {len(plan)}: {out / name}")
        with _recorded(failed, name, announce):
            runs[name] = train(recipe, out / name)
    announce("measuring the latency of all models")
    passes: dict[str, Callable[[], Tensor]] = {}
    medians: dict[str, list[float]] = {}
    for _ in range(_ROUNDS):
        for name in [name for name in runs if name not in failed]:
            with _recorded(failed, name, announce), no_tf32(device):
                if name not in passes:
                    passes[name] = _load_pass(runs[name].folder, size=size, device=device)
                measured = latency(passes[name], device, seconds=_TRIAL_SECONDS)
                medians.setdefault(name, []).append(measured.p50)
    rows = [
        Row(
            backbone=name,
            miou=run.scores.miou,
            pixel_accuracy=run.scores.pixel_accuracy,
            mean_accuracy=run.scores.mean_accuracy,
            params=plan[name][1].params,
            macs=plan[name][1].macs,
            latency_ms=min(medians[name]),
            training_seconds=training_seconds(run.folder, plan[name][0]),
        )
        for name, run in runs.items()
        if name not in failed
    ]
    return Comparison(tuple(rows), failed)


@contextmanager
def _recorded(failed: dict[str, str], name: str, announce: Callable[[str], None]) -> Iterator[None]:
    """Context that records in `failed` why the work on a backbone failed, in place of raising."""
    try:
        yield
        return
    except Interrupted:
        raise
    except PerpixelError as error:
        failed[name] = str(error)
    except Exception as error:  # a mistake in one model's code does not cost the others
        traceback.print_exc()
        failed[name] = f"{type(error).__name__}: {error}"
    announce(f"{name} failed: {failed[name]}")


def _load_pass(folder: Path, *, size: Size, device: torch.device) -> Callable[[], Tensor]:
    """Returns a function that runs the final model of a run on one image of `size`."""
    checkpoint = read_checkpoint(folder / "checkpoints" / "model.safetensors")
    model = Predictor.from_checkpoint(checkpoint, device=device).model
    images = torch.ones(1, 3, *size, device=device).to(memory_format=torch.channels_last)
    return inference_pass(model, images, dtype=torch.float32)


def training_seconds(folder: Path, recipe: Recipe) -> float:
    """Returns how long the steps of the run in `folder` took, by the rates in its metrics.jsonl.

    That leaves out evaluations, and the time in which a run that was resumed stood still.
    """
    seconds, before = 0.0, 0
    for row in read_rows(folder / "metrics.jsonl", up_to=recipe.train.steps):
        if "images_per_second" in row:
            images = (row["step"] - before) * recipe.train.batch_size
            seconds += images / row["images_per_second"]
            before = int(row["step"])
    return seconds
