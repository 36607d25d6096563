"""Pictures that cannot be decoded and steps without a number: told, counted, and not for ever."""

from pathlib import Path

import torch

from perpixel.checkpoint import Checkpoint, write_checkpoint
from perpixel.data.loader import Batch
from perpixel.distributed import gathered, ranks
from perpixel.errors import PerpixelError
from perpixel.recipes.base import Spec
from perpixel.training.journal import Journal
from perpixel.training.state import Course, Progress
from perpixel.training.step import StepStats
from perpixel.writing import write_whole


class Record(Spec):
    """A step to run again: how many were done before, its pictures, the file with its weights."""

    step: int
    seed: int
    pictures: tuple[str, ...]
    loss: str
    gradient_norm: str
    precision: str
    weights: str


def report_damage(journal: Journal, batch: Batch, course: Course, progress: Progress) -> None:
    """Names the pictures that others stood in for; raises PerpixelError when they are too many."""
    damaged = _of_all_ranks(batch.damaged)
    for line in damaged:
        journal.say(f"step {progress.step + 1}: {line}; another stands in for it")
    train = course.recipe.train
    seen = max((progress.step + 1) * train.images_per_step, course.pictures)
    if progress.damaged > train.max_damaged * seen:
        raise PerpixelError(
            f"{progress.damaged} pictures could not be decoded by step {progress.step + 1}, which "
            f"is more than the share train.max_damaged={train.max_damaged} of {seen}: mend or "
            f"remove them, or raise the share; `perpixel data check` finds all. The last was "
            f"{damaged[-1]}"
        )


def report_skip(
    journal: Journal,
    batch: Batch,
    before: Checkpoint,
    stats: StepStats,
    *,
    dtype: torch.dtype,
    in_a_row: int,
    out: Path,
) -> None:
    """Writes down a step without a number and the weights it began with, for `--replay`, in `out`.

    Raises PerpixelError past train.max_skipped. The weights of such steps in a row are the same,
    and only the last row's are kept.
    """
    pictures, number, train = _of_all_ranks(batch.names), before.step + 1, before.recipe.train
    path = out / "replay" / f"step-{number}.json"
    weights = path.with_name(f"weights-{number - in_a_row + 1}.safetensors")
    record = Record(
        step=before.step,
        seed=train.seed,
        pictures=tuple(pictures),
        loss=str(stats.loss),
        gradient_norm=str(stats.gradient_norm),
        # What "auto" came to; of float32 only the recipe knows how it was multiplied.
        precision="tf32" if train.precision == "tf32" else str(dtype).removeprefix("torch."),
        weights=weights.name,
    )
    if ranks().main:
        if in_a_row == 1:
            write_checkpoint(weights, before)
            for older in set(path.parent.glob("weights-*.safetensors")) - {weights}:
                older.unlink(missing_ok=True)
        write_whole(path, record.model_dump_json(indent=2).encode())
    what = f"the loss is {stats.loss} and the gradient's norm {stats.gradient_norm}"
    if in_a_row > train.max_skipped:
        others = f" (and in {in_a_row - 1} before)" if in_a_row > 1 else ""
        raise PerpixelError(
            f"{what} at step {number}{others}: lower optimizer.lr, or look at the pictures of this "
            f"step: {', '.join(pictures)}. `perpixel train --replay {path}` runs it again"
        )
    line = f"step {number} skipped: {what}; written to {path}"
    journal.record({"step": number, "skipped": in_a_row}, line)


def _of_all_ranks(lines: tuple[str, ...]) -> list[str]:
    return [line for text in gathered("\n".join(lines)) for line in text.splitlines()]
