"""A training run, top to bottom."""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from perpixel import distributed
from perpixel.checkpoint import Checkpoint, write_checkpoint
from perpixel.data.catalog import open_dataset
from perpixel.data.dataset import Dataset, read_pair
from perpixel.data.loader import batches
from perpixel.errors import Interrupted, PerpixelError
from perpixel.evaluation.confusion import Scores
from perpixel.evaluation.evaluate import evaluate
from perpixel.evaluation.files import write_scores
from perpixel.inference.engine import Engine
from perpixel.memory import memory_for
from perpixel.models.build import build
from perpixel.models.folding import folded
from perpixel.models.segmenter import Segmenter
from perpixel.recipes import settings
from perpixel.recipes.spec import Recipe
from perpixel.training.initial import start_from
from perpixel.training.journal import Clock, Journal, bound_by
from perpixel.training.lock import alone_in
from perpixel.training.optimizer import learning_rate, set_learning_rate
from perpixel.training.parallel import joined, require_even_shares, require_same
from perpixel.training.signals import stop_flag
from perpixel.training.state import (
    Course,
    Progress,
    Start,
    put_aside,
    read_state,
    states,
    write_state,
)
from perpixel.training.step import StepStats, make_train_state, train_step
from perpixel.training.synchronised import synchronise
from perpixel.training.trouble import report_damage, report_skip
from perpixel.writing import write_whole


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and the scores of its final weights."""

    folder: Path
    scores: Scores


def train(
    recipe: Recipe,
    *,
    data: Path | None,
    out: Path,
    resume: bool = False,
    allow_changes: bool = False,
    init: Mapping[str, Tensor] | None = None,
    device: str = "auto",
    workers: int | None = None,
    deterministic: bool = False,
    tensorboard: bool = False,
) -> Run:
    """Trains `recipe` on the data set below `data` and leaves everything in the folder `out`.

    Under torchrun every rank calls this with the same arguments and takes its share of each step.
    `workers` processes prepare the pictures (None: a rank's share of the cores on CUDA, at most 8,
    and none on a CPU); their number does not change the run. `init` holds weights by our names.
    With `resume` the run goes on from the newest whole state in `out` as if it had never stopped,
    bit for bit (on CUDA if it is `deterministic`); with another recipe or data only if
    `allow_changes`. SIGINT or SIGTERM to any rank saves and ends the run after the step at hand.
    Runs in threads of one process share torch's random numbers, so none is what it would be alone.
    """
    own = distributed.ranks()
    require_even_shares(recipe, own.world)
    checkpoints = out / "checkpoints"
    _require_resumable(out, resume=resume, own=own)
    train_set, eval_set = _open_splits(recipe, data)
    where = distributed.device(device)
    dtype = distributed.precision(recipe.train.precision, where)

    torch.manual_seed(recipe.train.seed)
    network = build(recipe.model, classes=len(train_set.classes))
    if own.world > 1:
        synchronise(network, where)
    start = Start(lines=("random initial weights",))
    if init is not None and not resume:
        start = Start(lines=(start_from(network, init),))
    train_state = make_train_state(network, recipe, device=where, dtype=dtype)
    model = train_state.ema_model
    names, palette = train_set.classes.names, train_set.classes.palette
    course = Course(recipe=recipe, pictures=len(train_set), classes=names)
    if resume:
        start = read_state(checkpoints, train_state, course, allow_changes=allow_changes)
    progress, steps = start.progress, recipe.train.steps

    def checkpoint(of: Segmenter) -> Checkpoint:
        return Checkpoint(recipe, names, palette, of.state_dict(), progress.step)

    def save(*, again: bool = False) -> None:
        _require_numbers(network, progress.step)
        if own.main:
            write_state(checkpoints, train_state, course, progress=progress, again=again)

    def score() -> Scores:
        nonlocal progress
        found = _evaluation(model, recipe, eval_set, journal, progress)
        progress = replace(progress, scored=progress.step)
        if progress.best_miou is None or found.miou > progress.best_miou:
            progress = replace(progress, best_miou=found.miou)
            if own.main:
                write_checkpoint(checkpoints / "best.safetensors", checkpoint(model))
        save(again=True)
        return found

    with (
        alone_in(out, own),
        distributed.group(where),
        Journal(
            out, progress, steps=steps, tensorboard=tensorboard, silent=not own.main
        ) as journal,
        stop_flag() as stop,
        distributed.arithmetic(deterministic=deterministic),
        _memory_for_a_pass(recipe, own.world, where),
    ):
        require_same(progress.step)
        if own.main:
            put_aside(start.damaged)
            write_whole(out / "recipe.json", settings.dump(recipe).encode())
        for line in (_opening(course, where, dtype, own.world), *start.lines):
            journal.say(line)
        together = joined(network, own.world)
        clock = Clock(where, pictures=recipe.train.images_per_step)
        workers = _usual_workers(where) if workers is None else workers
        stream = batches(
            train_set, recipe, first_step=progress.step, workers=workers,
            share_of=(own.rank, own.world),
        )  # fmt: skip
        if progress.step == steps or (_is_due(progress.step, recipe) and not progress.is_scored):
            scores = score()  # resumed after its last step, or ended in the midst of one
        while progress.step < steps:
            with clock.waiting():
                batch = next(stream)

            step = progress.step
            lr = learning_rate(step, steps=steps, lr=recipe.optimizer.lr, schedule=recipe.schedule)
            set_learning_rate(train_state.optimizer, lr)
            stats = train_step(
                train_state, together, batch.images, batch.labels, recipe,
                step=step, dtype=dtype, ranks=own, stop=stop.is_set(), damaged=len(batch.damaged),
            )  # fmt: skip
            if stats.damaged:
                progress = replace(progress, damaged=progress.damaged + stats.damaged)
                report_damage(journal, batch, course, progress)
            if stats.is_finite:
                progress = replace(progress, skipped=0)
            elif stats.overflowed:
                journal.say(
                    f"step {step + 1}: float16's gradients overflowed with the loss scale "
                    f"{stats.loss_scale:g}, which is halved; the weights stay"
                )
            else:
                progress = replace(progress, skipped=progress.skipped + 1)
                report_skip(
                    journal, batch, checkpoint(network), stats,
                    dtype=dtype, in_a_row=progress.skipped, out=out,
                )  # fmt: skip

            progress = replace(progress, step=step + 1)
            finished = progress.step == steps
            journal.advance(progress.step)
            if stats.is_finite and (finished or progress.step % recipe.train.log_every == 0):
                _log(journal, progress.step, stats, lr, clock, dtype)

            if due := _is_due(progress.step, recipe):
                save()  # an evaluation takes long, and may fail on a damaged picture
                scores = score()
                clock.read()  # which starts it again
            stopping = stats.stop or (own.world == 1 and stop.is_set())
            if not due and (stopping or progress.step % recipe.train.save_every == 0):
                save()
            if stopping and not finished:
                stop.set()  # on every rank
                distributed.wait_for_all()  # torchrun ends them when one leaves: first all is saved
                raise Interrupted(f"stopped after step {step + 1} of {steps}; the run is saved")
        if own.main:
            write_checkpoint(checkpoints / "model.safetensors", checkpoint(model))
            write_scores(out, scores)
        journal.say(f"done: mIoU {scores.miou:.2f}, best {progress.best_miou or 0:.2f}, in {out}")
    return Run(out, scores)


def _require_resumable(out: Path, *, resume: bool, own: distributed.Ranks) -> None:
    """Raises PerpixelError when there is no run to resume, or one that a new run would replace."""
    checkpoints = out / "checkpoints"
    if resume and not states(checkpoints):
        raise PerpixelError(f"{checkpoints}: nothing to resume from; leave out --resume")
    begun = states(checkpoints) or (checkpoints / "model.safetensors").exists()
    if begun and own.main and not resume:
        raise PerpixelError(f"{out} holds a run already: add --resume, or name another folder")


def _open_splits(recipe: Recipe, data: Path | None) -> tuple[Dataset, Dataset]:
    """The splits to train and to evaluate on."""
    train_set = open_dataset(recipe.data.name, data, recipe.data.train_split)
    eval_set = open_dataset(recipe.data.name, data, recipe.data.eval_split)
    if len(eval_set) == 0:
        raise PerpixelError(f"the split {recipe.data.eval_split!r} to evaluate on is empty")
    read_pair(eval_set, 0)  # better found now than after the first steps
    return train_set, eval_set


def _memory_for_a_pass(
    recipe: Recipe, world: int, where: torch.device
) -> AbstractContextManager[None]:
    train = recipe.train
    pictures = train.images_per_step // world // train.accumulate
    height, width = (max(sides) for sides in zip(train.crop, train.last_crop, strict=True))
    return memory_for(
        f"training on {pictures} crops of {height}x{width} at once, on {where}",
        mend="train.accumulate=2 (a step's pictures in two passes), a smaller train.crop or "
        "train.images_per_step, train.recompute_activations=true or "
        "train.recompute_stages=[1,2,3,4] take less",
    )


def _usual_workers(where: torch.device) -> int:
    if where.type != "cuda":
        return 0
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min((os.cpu_count() or 1) // ranks_here, 8))


def _log(
    journal: Journal, step: int, stats: StepStats, lr: float, clock: Clock, dtype: torch.dtype
) -> None:
    speed, waiting = clock.read()
    status = f"loss {stats.loss:.4f}  lr {lr:.2e}  {speed:.1f} images/s  {bound_by(waiting)}"
    if stats.loss == stats.gradient_norm == 0:
        status += "  nothing to learn: is any pixel labelled?"
    row = {
        "step": step,
        "loss": stats.loss,
        "gradient_norm": stats.gradient_norm,
        "lr": lr,
        "images_per_second": speed,
        "data_share": waiting,
        **({"loss_scale": stats.loss_scale} if dtype == torch.float16 else {}),
    }
    journal.record(row, f"step {step}  {status}", status=status)


def _is_due(step: int, recipe: Recipe) -> bool:
    """Whether a run is evaluated after `step` steps."""
    every = recipe.evaluate.every
    return step == recipe.train.steps or (every is not None and step > 0 and step % every == 0)


def _evaluation(
    model: Segmenter, recipe: Recipe, eval_set: Dataset, journal: Journal, progress: Progress
) -> Scores:
    """Scores in float32, as `perpixel eval` gives them, written down unless they have been."""
    with distributed.exact(model.device):
        scores = evaluate(Engine(folded(model), recipe), eval_set)
    line = (
        f"step {progress.step}  val mIoU {scores.miou:.2f}  pixel accuracy "
        f"{scores.pixel_accuracy:.2f}  mean accuracy {scores.mean_accuracy:.2f}  "
        f"({scores.images} images, {scores.seconds:.0f} s)"
    )
    if not progress.is_scored:
        told = ("miou", "pixel_accuracy", "mean_accuracy")
        journal.record({"step": progress.step, **{name: vars(scores)[name] for name in told}}, line)
    if not scores.confusion.any():
        journal.say(
            f"the split {recipe.data.eval_split!r} has no labelled pixel: its scores mean nothing"
        )
    return scores


def _opening(course: Course, where: torch.device, dtype: torch.dtype, world: int) -> str:
    recipe, ranks = course.recipe, f", {world} ranks" if world > 1 else ""
    train, last = recipe.train, ""
    compiled = "" if train.compile == "off" else ", compiled at the first step, which takes a while"
    if train.finish_steps:
        height, width = train.last_crop
        last = f" (the last {train.finish_steps} on crops of {height}x{width})"
    return (
        f"{recipe.name}: {course.pictures} pictures, {train.steps} steps of "
        f"{train.images_per_step}{last}, on {where} in {str(dtype).removeprefix('torch.')}{ranks}"
        f"{compiled}"
    )


def _require_numbers(network: Segmenter, step: int) -> None:
    if not all(bool(parameter.isfinite().all()) for parameter in network.parameters()):
        raise PerpixelError(
            f"a weight is no number after step {step}: lower optimizer.lr. The last checkpoint is "
            f"from before"
        )
