"""Logs corrupt images and steps with a non-finite loss, and stops a run that has too many."""

from perpixel.data.loader import Batch
from perpixel.errors import PerpixelError
from perpixel.recipes.schema import Train
from perpixel.runtime.distributed import all_gather_text
from perpixel.training.checkpoint import Progress, RunFingerprint
from perpixel.training.run_logger import RunLogger
from perpixel.training.step import StepStats


def report_corrupt(
    logger: RunLogger, batch: Batch, fingerprint: RunFingerprint, progress: Progress
) -> None:
    """Names the images that others replaced; raises PerpixelError when they are too many."""
    corrupt = _of_all_ranks(batch.corrupt)
    for line in corrupt:
        logger.info(f"step {progress.step}: {line}; another image replaces it", always=True)
    train = fingerprint.recipe.train
    seen = max(progress.step * train.batch_size, fingerprint.images)
    if progress.corrupt > train.max_corrupt_fraction * seen:
        raise PerpixelError(
            f"images that could not be decoded by step {progress.step}: {progress.corrupt}, "
            f"more than train.max_corrupt_fraction={train.max_corrupt_fraction} of {seen}: fix "
            f"or remove them, or raise the fraction; `perpixel data check` finds all. The last was "
            f"{corrupt[-1]}"
        )


def report_nonfinite(
    logger: RunLogger, batch: Batch, stats: StepStats, train: Train, progress: Progress
) -> None:
    """Logs a step whose loss or gradient is not finite, with its images.

    Raises PerpixelError when more than train.max_nonfinite_steps in a row were so.
    """
    images = ", ".join(_of_all_ranks(batch.names))
    what = f"the loss is {stats.loss} and the gradient norm {stats.gradient_norm}"
    in_a_row = progress.nonfinite_steps
    if in_a_row > train.max_nonfinite_steps:
        others = f" (and in {in_a_row - 1} before)" if in_a_row > 1 else ""
        float16 = " or train.precision=bfloat16 or float32" if stats.loss_scale != 1 else ""
        raise PerpixelError(
            f"{what} at step {progress.step}{others}: lower optimizer.lr{float16}, or look at the "
            f"images of this step: {images}"
        )
    line = f"step {progress.step} skipped: {what}; its images: {images}"
    logger.log_metrics({"step": progress.step, "nonfinite_steps": in_a_row}, line, always=True)


def report_overflow(logger: RunLogger, stats: StepStats, *, step: int) -> None:
    """Logs a step that left the weights, as float16's gradient overflowed with the loss scale."""
    line = (
        f"step {step}: float16's gradients overflowed with the loss scale {stats.loss_scale:g}, "
        f"which is halved; the weights stay"
    )
    row = {"step": step, "overflowed_loss_scale": stats.loss_scale}
    logger.log_metrics(row, line, always=True)


def _of_all_ranks(lines: tuple[str, ...]) -> list[str]:
    return [line for text in all_gather_text("\n".join(lines)) for line in text.splitlines()]
