"""Pictures that cannot be decoded and steps without a number: told, counted, and not for ever."""

from pathlib import Path

from perpixel.data.loader import Batch
from perpixel.distributed import gathered, ranks
from perpixel.errors import PerpixelError
from perpixel.training.journal import Journal
from perpixel.training.replay import Failure, write_record
from perpixel.training.state import Course, Progress


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


def report_skip(journal: Journal, batch: Batch, failure: Failure, out: Path) -> None:
    """Writes down a step without a number, for `perpixel train --replay`, in the run's folder.

    Raises PerpixelError past train.max_skipped.
    """
    pictures = _of_all_ranks(batch.names)
    verdict, number = failure.verdict, failure.checkpoint.step + 1
    path = out / "replay" / f"step-{number}.json"
    if ranks().main:
        write_record(path, failure, pictures=pictures)
    what = f"the loss is {verdict.loss} and the gradient's norm {verdict.gradient_norm}"
    if failure.in_a_row > failure.checkpoint.recipe.train.max_skipped:
        others = f" (and in {failure.in_a_row - 1} before)" if failure.in_a_row > 1 else ""
        raise PerpixelError(
            f"{what} at step {number}{others}: lower optimizer.lr, or look at the pictures of this "
            f"step: {', '.join(pictures)}. `perpixel train --replay {path}` runs it again"
        )
    line = f"step {number} skipped: {what}; written to {path}"
    journal.record({"step": number, "skipped": failure.in_a_row}, line)


def _of_all_ranks(lines: tuple[str, ...]) -> list[str]:
    return [line for text in gathered("\n".join(lines)) for line in text.splitlines()]
