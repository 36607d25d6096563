"""A training run, top to bottom."""

import json
import math
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from perpixel import distributed
from perpixel.checkpoint import Checkpoint, write_checkpoint, write_whole
from perpixel.data.catalog import open_dataset
from perpixel.data.dataset import read_pair
from perpixel.data.loader import batches
from perpixel.errors import PerpixelError
from perpixel.evaluation.confusion import Scores
from perpixel.evaluation.evaluate import evaluate
from perpixel.losses import segmentation_loss
from perpixel.models.build import build, place
from perpixel.models.inputs import normalise
from perpixel.recipes import settings
from perpixel.recipes.spec import Recipe
from perpixel.training.initial import start_from
from perpixel.training.journal import Clock, Journal
from perpixel.training.optimizer import make_optimizer, set_learning_rate
from perpixel.training.schedule import learning_rate
from perpixel.training.state import Course, Progress, read_state, write_state


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
    init: Mapping[str, Tensor] | None = None,
    device: str = "auto",
    workers: int | None = None,
) -> Run:
    """Trains `recipe` on the data set below `data` and leaves everything in the folder `out`.

    `workers` processes prepare the pictures (None: one per core on CUDA, at most 8, and none on a
    CPU, whose cores are busy); their number does not change the run. `init` holds weights to start
    from, by our names: the backbone's, and the heads' where they fit. With `resume` the run goes
    on from `out`'s last checkpoint, step for step as if it had never stopped. SIGINT or SIGTERM
    ends the run after the step at hand, saved. Raises PerpixelError for anything the user can mend.
    """
    distributed.refuse_ranks()
    last = out / "checkpoints" / "last.safetensors"
    if not resume and any(last.parent.glob("*.safetensors")):
        raise PerpixelError(f"{out} holds a run already: add --resume, or name another folder")
    train_set = open_dataset(recipe.data.name, data, recipe.data.train_split)
    eval_set = open_dataset(recipe.data.name, data, recipe.data.eval_split)
    if len(eval_set) == 0:
        raise PerpixelError(f"the split {recipe.data.eval_split!r} to evaluate on is empty")
    read_pair(eval_set, 0)  # better found now than after the first steps
    where = distributed.device(device)
    dtype = distributed.precision(recipe.train.precision, where)
    torch.backends.cudnn.benchmark = True

    torch.manual_seed(recipe.train.seed)
    network = place(build(recipe.model, classes=len(train_set.classes)), where).train()
    optimizer = make_optimizer(network, recipe.optimizer)
    names = train_set.classes.names
    course = Course(recipe=recipe, pictures=len(train_set), classes=names)
    progress, started = Progress(), "random initial weights"
    if resume:
        progress = read_state(last, network, optimizer=optimizer, course=course)
    elif init is not None:
        started = start_from(network, init)

    def checkpoint() -> Checkpoint:
        palette, weights = train_set.classes.palette, network.state_dict()
        return Checkpoint(recipe, names, palette, weights, progress.step)

    def save() -> None:
        write_state(last, network, optimizer=optimizer, course=course, progress=progress)

    steps = recipe.train.steps
    scores: Scores | None = None
    with (
        _alone_in(out),
        Journal(out, first_step=progress.step, steps=steps) as journal,
        _stop_flag() as stop,
    ):
        write_whole(out / "recipe.json", settings.dump(recipe).encode())
        journal.say(_opening(recipe, len(train_set), where, dtype))
        journal.say(f"resumed after step {progress.step}" if resume else started)
        clock = Clock()
        if workers is None:
            workers = min(os.cpu_count() or 1, 8) if where.type == "cuda" else 0
        stream = batches(train_set, recipe, first_step=progress.step, workers=workers)
        while progress.step < steps:
            with clock.waiting():
                batch = next(stream)
            step = progress.step
            torch.manual_seed((recipe.train.seed << 32) + step)  # dropout: a function of the step
            lr = learning_rate(step, steps=steps, lr=recipe.optimizer.lr, schedule=recipe.schedule)
            set_learning_rate(optimizer, lr)

            images = normalise(batch.images.to(where, non_blocking=True), recipe.input)
            labels = batch.labels.to(where, non_blocking=True)
            with torch.autocast(where.type, dtype=dtype, enabled=dtype != torch.float32):
                output = network(images, auxiliary=True)
            align = recipe.model.align_corners
            loss = segmentation_loss(output.main, labels, recipe.loss, align_corners=align)
            if output.auxiliary is not None:
                loss = loss + recipe.loss.auxiliary_weight * segmentation_loss(
                    output.auxiliary, labels, recipe.loss, align_corners=align
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

            progress = Progress(step + 1, progress.best_miou)
            clock.count(len(batch.names))
            finished = progress.step == steps
            if progress.step % recipe.train.log_every == 0 or finished:
                _log(journal, progress.step, loss.item(), lr, clock, batch.names)
            else:
                journal.advance(progress.step)
            every = recipe.evaluate.every
            evaluating = finished or (every is not None and progress.step % every == 0)
            saving = finished or stop.is_set() or progress.step % recipe.train.save_every == 0
            if evaluating or saving:
                _require_numbers(network, progress.step)
            if evaluating:
                try:
                    scores = evaluate(network, recipe, eval_set)
                except BaseException:  # a damaged picture, or a second Ctrl-C: keep the training
                    save()
                    raise
                _log_scores(journal, progress.step, scores)
                if progress.best_miou is None or scores.miou > progress.best_miou:
                    progress = Progress(progress.step, scores.miou)
                    write_checkpoint(out / "checkpoints" / "best.safetensors", checkpoint())
                clock = Clock()
            if saving or stop.is_set():
                save()
            if stop.is_set() and not finished:
                raise PerpixelError(
                    f"stopped after step {progress.step} of {steps}; the run is saved: go on with "
                    f"the same command and --resume"
                )
        if scores is None:  # resumed after its last step
            scores = evaluate(network, recipe, eval_set)
        write_checkpoint(out / "checkpoints" / "model.safetensors", checkpoint())
        write_whole(out / "evaluate.json", json.dumps(scores.as_json(), indent=2).encode())
        journal.say(f"done: mIoU {scores.miou:.2f}, best {progress.best_miou or 0:.2f}, in {out}")
    return Run(out, scores)


def _log(
    journal: Journal, step: int, loss: float, lr: float, clock: Clock, names: tuple[str, ...]
) -> None:
    if not math.isfinite(loss):
        raise PerpixelError(
            f"the loss is {loss} at step {step}: lower optimizer.lr, or look at the pictures of "
            f"this step: {', '.join(names)}"
        )
    speed, waiting = clock.read()
    status = f"loss {loss:.4f}  lr {lr:.2e}  {speed:.1f} images/s  data {waiting:.0%}"
    journal.advance(step, status)
    row = {"step": step, "loss": loss, "lr": lr, "images_per_second": speed, "data_share": waiting}
    journal.record(row, f"step {step}  {status}")


def _log_scores(journal: Journal, step: int, scores: Scores) -> None:
    line = (
        f"step {step}  val mIoU {scores.miou:.2f}  pixel accuracy {scores.pixel_accuracy:.2f}  "
        f"mean accuracy {scores.mean_accuracy:.2f}  ({scores.images} images, "
        f"{scores.seconds:.0f} s)"
    )
    row = {
        "step": step,
        "miou": scores.miou,
        "pixel_accuracy": scores.pixel_accuracy,
        "mean_accuracy": scores.mean_accuracy,
    }
    journal.record(row, line)


def _opening(recipe: Recipe, pictures: int, where: torch.device, dtype: torch.dtype) -> str:
    return (
        f"{recipe.name}: {pictures} pictures, {recipe.train.steps} steps of "
        f"{recipe.train.images_per_step}, on {where} in {str(dtype).removeprefix('torch.')}"
    )


def _require_numbers(network: torch.nn.Module, step: int) -> None:
    if not all(bool(parameter.isfinite().all()) for parameter in network.parameters()):
        raise PerpixelError(
            f"a weight is no number after step {step}: lower optimizer.lr. The last checkpoint is "
            f"from before"
        )


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Holds the run's folder, so that no second process can train in it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / ".lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise PerpixelError(f"{out}: another process is training there") from None
    except OSError as error:
        raise PerpixelError(f"{out}: cannot be written ({error.strerror})") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _stop_flag() -> Iterator[threading.Event]:
    """An event that SIGINT or SIGTERM sets; the second signal has its usual effect."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, frame: object) -> None:  # noqa: ARG001  the signal module's signature
        flag.set()
        os.write(2, b"\nstopping after the work at hand; again to stop at once\n")
        for each, handler in usual.items():
            signal.signal(each, handler)

    for number in usual:
        signal.signal(number, stop)
    try:
        yield flag
    finally:
        for each, handler in usual.items():
            signal.signal(each, handler)
