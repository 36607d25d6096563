"""One training run, top to bottom."""

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from perpixel.acceleration.accelerate import accelerate
from perpixel.checkpoints.format import Checkpoint, InitialWeights, write_checkpoint
from perpixel.data.dataset import Dataset, read_pair, require_classes
from perpixel.data.loader import batches
from perpixel.data.seen_classes import require_classes_shown
from perpixel.errors import Interrupted, PerpixelError, UsageError, plural
from perpixel.evaluation.evaluate import evaluate
from perpixel.evaluation.files import write_scores
from perpixel.evaluation.metrics import Scores
from perpixel.inference.predictor import Predictor
from perpixel.io.atomic import atomic_write
from perpixel.io.images import scaled_size, stretched_size
from perpixel.losses import check_class_weights
from perpixel.models.build import build
from perpixel.models.timm_backbone import check_sizes
from perpixel.recipes import overrides
from perpixel.recipes.base import Size
from perpixel.recipes.models import Timm
from perpixel.recipes.schema import Recipe
from perpixel.runtime import distributed
from perpixel.runtime.device import copies_pinned, default_workers, resolve_device
from perpixel.runtime.distributed import DistInfo, get_dist_info
from perpixel.runtime.dtype import cudnn_mode, no_tf32, resolve_dtype
from perpixel.runtime.memory import oom_message
from perpixel.runtime.sync_batchnorm import convert_sync_batchnorm
from perpixel.training.checkpoint import (
    Progress,
    ResumeInfo,
    RunFingerprint,
    list_checkpoints,
    load_checkpoint,
    quarantine,
    save_checkpoint,
)
from perpixel.training.feature_cache import cache_features
from perpixel.training.freeze import freeze_backbone
from perpixel.training.loggers import open_loggers
from perpixel.training.nonfinite import report_corrupt, report_nonfinite, report_overflow
from perpixel.training.optimizer import learning_rate, make_optimizer, set_learning_rate
from perpixel.training.parallel import check_batch_divides, check_ranks_agree, wrap_ddp
from perpixel.training.preemption import preemption_flag
from perpixel.training.pretrained import load_pretrained
from perpixel.training.run_lock import run_lock
from perpixel.training.run_logger import RunLogger, ThroughputMeter, bottleneck
from perpixel.training.step import StepStats, TrainState, make_train_state, train_step
from perpixel.training.visualization import draw_batch, draw_curves, draw_evaluation


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and the scores of its final weights.

    As a model the folder stands for its best weights, whose scores its evaluate.json has.
    """

    folder: Path
    scores: Scores


def train(
    recipe: Recipe,
    *,
    train_dataset: Dataset,
    eval_dataset: Dataset,
    out: Path,
    resume: bool = False,
    allow_config_change: bool = False,
    load_initial: Callable[[], InitialWeights | None] = lambda: None,
    data_root: Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    deterministic: bool = False,
    loggers: Collection[str] = (),
    quiet: bool = False,
    on_log: Callable[[dict[str, float | int]], None] | None = None,
) -> Run:
    """Trains `recipe` into the run folder `out`.

    Under torchrun every rank calls this with the same arguments and takes its share of each step.
    `workers` processes prepare the images (None: a rank's share of the cores on CUDA, at most 8,
    and none on a CPU); their number does not change the run. `load_initial` returns the weights to
    start from, None for random ones, once the data have proved sound: it may download them.
    `data_root` is recorded in `out`, to be known when the run is resumed. With `resume` the
    run continues from the newest whole checkpoint in `out` as if it had never stopped, bit for bit
    (on CUDA if it is `deterministic`); with another recipe or data only if `allow_config_change`.
    SIGINT or SIGTERM to any rank saves and ends the run after the step at hand. `loggers` is for
    open_loggers, `quiet` for RunLogger. `on_log` is called on the main rank with each row of
    metrics.jsonl; when it raises StopTraining, the run ends after the next step as if that were its
    last, and so it does after an evaluation that exhausts `evaluate.patience`.
    """
    dist_info = get_dist_info()
    torch_device = resolve_device(device)
    dtype = resolve_dtype(recipe.train.precision, torch_device)
    steps = recipe.train.steps
    class_names = train_dataset.classes.names
    checkpoints = out / "checkpoints"
    check_batch_divides(recipe, dist_info.world_size)
    _check_run_folder(out, resume=resume, dist_info=dist_info)
    unseen_classes = _check_settings_and_data(recipe, train_dataset, eval_dataset)
    pretrained = None if resume else load_initial()
    if pretrained is None and not resume:
        check_random_weights_are_trained(recipe)

    torch.manual_seed(recipe.train.seed)
    model = build(recipe.model, num_classes=len(class_names))
    if dist_info.world_size > 1:
        convert_sync_batchnorm(model, torch_device)
    start = ResumeInfo(Progress(initial_weights="random"), ("random initial weights",))
    if pretrained is not None:
        lines = load_pretrained(model, pretrained, class_names=class_names)
        start = ResumeInfo(Progress(initial_weights=pretrained.origin), tuple(lines))
    state = make_train_state(model, recipe, device=torch_device, dtype=dtype)
    fingerprint = RunFingerprint(recipe=recipe, images=len(train_dataset), class_names=class_names)
    if resume:
        start = load_checkpoint(
            checkpoints, state, fingerprint, allow_config_change=allow_config_change
        )
    progress = start.progress

    with (
        _run_context(recipe, out, torch_device, dist_info, deterministic) as preempted,
        open_loggers(
            loggers if dist_info.is_main else (), out, recipe,
            first_step=progress.step, quiet=quiet,
        ) as write_row,
        RunLogger(
            out, progress, steps=steps, data_root=data_root, write_row=write_row, quiet=quiet,
            silent=not dist_info.is_main, on_log=on_log,
        ) as logger,
    ):  # fmt: skip
        check_ranks_agree(progress.step, dtype)
        if dist_info.is_main:
            quarantine(start.corrupt)
            atomic_write(out / "recipe.json", overrides.dump(recipe).encode())
        description = _describe_run(fingerprint, torch_device, dtype, dist_info)
        for line in (description, *start.lines):
            logger.info(line, always=bool(start.corrupt))
        for line in unseen_classes:
            logger.info(line, always=True)
        ddp_model = wrap_ddp(state.model, dist_info.world_size)
        features = None
        if recipe.train.cache_features:
            features = cache_features(
                state, train_dataset, recipe, dist_info=dist_info, logger=logger,
                preempted=preempted,
            )  # fmt: skip
        meter = ThroughputMeter(torch_device, images=recipe.train.batch_size)
        loader = batches(
            train_dataset, recipe, first_step=progress.step,
            workers=default_workers(torch_device) if workers is None else workers,
            rank=dist_info.rank, world_size=dist_info.world_size,
            pin_memory=copies_pinned(torch_device),
            read_features=features,
        )  # fmt: skip
        scores = None
        if progress.has_ended(recipe) or (
            should_eval(progress.step, recipe) and not progress.is_scored
        ):
            # The run was killed in an evaluation, or before its final files were written.
            scores = _evaluate(state, eval_dataset, fingerprint, progress, logger, out)

        while not progress.has_ended(recipe):
            with meter.waiting():
                batch = next(loader)
            if progress.step == 0 and dist_info.is_main:
                with_images = batch
                if batch.features is not None:
                    with_images = next(
                        batches(
                            train_dataset, recipe, first_step=0, workers=0, rank=dist_info.rank,
                            world_size=dist_info.world_size,
                        )
                    )  # fmt: skip
                draw_batch(out, with_images, train_dataset.classes, logger)
            lr = learning_rate(
                progress.step, steps=steps, lr=recipe.optimizer.lr, schedule=recipe.schedule
            )
            set_learning_rate(state.optimizer, lr)
            stats = train_step(
                state, batch.features or batch.images, batch.labels, recipe,
                step=progress.step, ddp_model=ddp_model, dist_info=dist_info,
                interrupted=preempted.is_set(), finish=logger.finish_requested,
                corrupt=len(batch.corrupt),
                sizes=batch.sizes,
            )  # fmt: skip
            progress.step += 1
            logger.set_step(progress.step)

            if stats.corrupt:
                progress.corrupt += stats.corrupt
                report_corrupt(logger, batch, fingerprint, progress)
            if stats.is_finite:
                progress.nonfinite_steps = 0
            elif stats.overflowed:
                report_overflow(logger, stats, step=progress.step)
            else:
                progress.nonfinite_steps += 1
                report_nonfinite(logger, batch, stats, recipe.train, progress)

            finished = progress.step == steps or stats.finish
            if stats.is_finite and (finished or progress.step % recipe.train.log_every == 0):
                _log_step(logger, progress.step, stats, lr, meter, dtype)
            elif stats.is_finite and logger.is_line_due():
                logger.info(_describe_step(progress.step, stats, lr))
            if evaluating := finished or should_eval(progress.step, recipe):
                _save(state, fingerprint, progress, out)  # an evaluation takes long, and may fail
                scores = _evaluate(state, eval_dataset, fingerprint, progress, logger, out)
                meter.read()  # starts it anew: the evaluation does not count
            # Ranks stop only by the flag that all of them have summed; one process may at once.
            stopping = stats.interrupted or (dist_info.world_size == 1 and preempted.is_set())
            if not evaluating and (stopping or progress.step % recipe.train.save_every == 0):
                _save(state, fingerprint, progress, out)
            if finished or progress.has_ended(recipe):
                break
            if stopping:
                preempted.set()  # on every rank
                distributed.barrier()  # torchrun ends all ranks when one leaves: first all is saved
                raise Interrupted(
                    f"stopped after step {progress.step} of {steps}; the run is saved"
                )

        assert scores is not None
        if dist_info.is_main:
            final = _checkpoint(state, fingerprint, eval_dataset, progress)
            write_checkpoint(checkpoints / "model.safetensors", final)
            if not (checkpoints / "best.safetensors").exists():  # last.safetensors came alone
                write_scores(out, scores, step=progress.step)
            draw_curves(out, logger, step=progress.step)
        if progress.step < steps:
            logger.info(_describe_early_end(recipe, progress))
        for line in unseen_classes:  # again, beside the scores that lack them
            logger.info(line)
        done = _describe_scores(scores, progress, checkpoints / "best.safetensors")
        logger.info(done, always=True)
    return Run(out, scores)


def should_eval(step: int, recipe: Recipe) -> bool:
    """Returns whether a run is evaluated after `step` steps."""
    every = recipe.evaluate_every
    return step == recipe.train.steps or (every is not None and step > 0 and step % every == 0)


@contextmanager
def _run_context(
    recipe: Recipe, out: Path, device: torch.device, dist_info: DistInfo, deterministic: bool
) -> Iterator[threading.Event]:
    """Context with the folder's lock, process group and signal handlers; yields the stop flag."""
    with (
        run_lock(out, dist_info),
        distributed.process_group(device),
        preemption_flag() as preempted,
        cudnn_mode(deterministic=deterministic, one_size=bool(recipe.crop_sizes)),
        oom_message(_describe_micro_batch(recipe, dist_info, device), hint=_LESS_MEMORY),
    ):
        yield preempted


_LESS_MEMORY = (
    "train.grad_accum_steps=2 (a step's images in two micro-batches), a smaller augment.crop_size "
    "or train.batch_size, or train.activation_checkpointing=norms or stages take less"
)


def _describe_micro_batch(recipe: Recipe, dist_info: DistInfo, device: torch.device) -> str:
    images = recipe.train.batch_size // dist_info.world_size // recipe.train.grad_accum_steps
    if not recipe.crop_sizes:
        return f"training on {plural(images, 'whole image')} at once, on {device}"
    height, width = map(max, zip(*recipe.crop_sizes, strict=True))
    return f"training on {images} crops of {height}x{width} at once, on {device}"


def _check_run_folder(out: Path, *, resume: bool, dist_info: DistInfo) -> None:
    """Raises PerpixelError when there is no run to resume, or one that a new run would replace."""
    checkpoints = out / "checkpoints"
    if resume and not list_checkpoints(checkpoints):
        raise PerpixelError(f"{checkpoints}: nothing to resume from; leave out --resume")
    exists = list_checkpoints(checkpoints) or (checkpoints / "model.safetensors").exists()
    if exists and dist_info.is_main and not resume:
        raise PerpixelError(f"{out} holds a run already: add --resume, or name another folder")


def _check_settings_and_data(
    recipe: Recipe, train_dataset: Dataset, eval_dataset: Dataset
) -> list[str]:
    """Raises PerpixelError for what would spoil the run, before its folder is made.

    Returns a line for each split whose masks lack classes.
    """
    check_class_weights(recipe.loss, len(train_dataset.classes))
    require_classes(eval_dataset, train_dataset.classes.names)
    image, _ = read_pair(eval_dataset, 0)
    if isinstance(recipe.model.backbone, Timm):
        sizes = input_sizes(recipe, (image.shape[0], image.shape[1]))
        check_sizes(recipe.model.backbone, dict.fromkeys(sizes))
    check_trainable(recipe, len(train_dataset.classes))
    return [
        *require_classes_shown(train_dataset, split=recipe.data.train_split),
        *require_classes_shown(eval_dataset, split=recipe.data.eval_split),
    ]


def input_sizes(recipe: Recipe, image_size: Size) -> list[Size]:
    """The sizes of a model's inputs in training, and in evaluating an image of `image_size`."""
    inference = recipe.inference
    if inference.mode != "whole":
        return [*recipe.crop_sizes, recipe.window_size]
    size = recipe.data.resize or image_size
    scaled = (scaled_size(size, scale, box=inference.base_size) for scale in inference.scales)
    multiple = inference.resize_to_multiple
    return [*recipe.crop_sizes, *(stretched_size(size, multiple) for size in scaled)]


def check_trainable(recipe: Recipe, num_classes: int) -> None:
    """Raises UsageError for settings of freezing and of the optimizer that the model cannot have.

    It builds the model on PyTorch's meta device, without weights.
    """
    with torch.device("meta"):
        model = build(recipe.model, num_classes=num_classes).train()
    freeze_backbone(model, recipe.train.freeze, norm_eval=recipe.train.norm_eval)
    make_optimizer(model, recipe.optimizer)


def check_random_weights_are_trained(recipe: Recipe) -> None:
    """Raises UsageError for settings that would keep a backbone's random weights as they are."""
    settings = {
        f"train.freeze={recipe.train.freeze}": recipe.train.freeze != "off",
        "train.norm_eval=true": recipe.train.norm_eval,
        "optimizer.backbone_lr_mult=0": recipe.optimizer.backbone_lr_mult == 0,
    }
    if kept := [setting for setting, is_set in settings.items() if is_set]:
        raise UsageError(
            f"{' and '.join(kept)} would keep random weights as they are: name trained ones with "
            f"--init MODEL, or leave this setting out"
        )


def _describe_run(
    fingerprint: RunFingerprint, device: torch.device, dtype: torch.dtype, dist_info: DistInfo
) -> str:
    recipe, train = fingerprint.recipe, fingerprint.recipe.train
    world_size, epochs, last = dist_info.world_size, "", ""
    if train.epochs is not None:
        epochs = f" ({plural(train.steps * train.batch_size // fingerprint.images, 'epoch')})"
    ranks = f", {world_size} ranks" if world_size > 1 else ""
    frozen = "" if train.freeze == "off" else f", train.freeze={train.freeze}"
    compiled = "" if train.compile == "off" else ", compiled at the first step, which takes a while"
    if train.final_phase_steps:
        height, width = recipe.last_crop_size
        last = f" (the last {train.final_phase_steps} on crops of {height}x{width})"
    return (
        f"{recipe.name}: {plural(fingerprint.images, 'image')}, {plural(train.steps, 'step')} of "
        f"{train.batch_size}{epochs}{last}, on {device} in {str(dtype).removeprefix('torch.')}"
        f"{ranks}{frozen}{compiled}"
    )


def _describe_early_end(recipe: Recipe, progress: Progress) -> str:
    why = "on_log raised StopTraining"
    if progress.out_of_patience(recipe):
        why = f"no better mIoU in {plural(progress.evaluations_since_best, 'evaluation')}"
    return f"{why}: stopped at step {progress.step} of {recipe.train.steps}"


def _describe_scores(scores: Scores, progress: Progress, best: Path) -> str:
    """Says how a run ended, and which weights its folder stands for."""
    used = best.with_name("model.safetensors")
    text = f"done: mIoU {scores.miou:.2f}"
    if best.exists():
        used = best
        text += f"; best {progress.best_miou or 0:.2f}"
        text += "" if progress.best_step is None else f" at step {progress.best_step}"
    return f"{text}, which predict and eval use: {used}"


def _log_step(
    logger: RunLogger,
    step: int,
    stats: StepStats,
    lr: float,
    meter: ThroughputMeter,
    dtype: torch.dtype,
) -> None:
    images_per_second, waiting = meter.read()
    line = (
        f"{_describe_step(step, stats, lr)}  {images_per_second:.1f} images/s  "
        f"{bottleneck(waiting)}"
    )
    if nothing_to_learn := stats.loss == stats.gradient_norm == 0:
        line += "  nothing to learn: is any pixel labeled?"
    row = {
        "step": step,
        "loss": stats.loss,
        "gradient_norm": stats.gradient_norm,
        "lr": lr,
        "images_per_second": images_per_second,
        "data_share": waiting,
        **({"loss_scale": stats.loss_scale} if dtype == torch.float16 else {}),
    }
    logger.log_metrics(row, line, always=nothing_to_learn)


def _describe_step(step: int, stats: StepStats, lr: float) -> str:
    return f"step {step}  loss {stats.loss:.4f}  lr {lr:.2e}"


def _checkpoint(
    state: TrainState, fingerprint: RunFingerprint, dataset: Dataset, progress: Progress
) -> Checkpoint:
    """The model as users load it: its moving average, with the classes' names and colors."""
    weights = state.ema_model.state_dict()
    names, palette = fingerprint.class_names, dataset.classes.palette
    return Checkpoint(
        fingerprint.recipe,
        names,
        palette,
        weights,
        progress.step,
        initial_weights=progress.initial_weights,
    )


def _save(
    state: TrainState,
    fingerprint: RunFingerprint,
    progress: Progress,
    out: Path,
    *,
    overwrite: bool = False,
) -> None:
    """Saves what resuming needs; raises PerpixelError when a weight is not finite."""
    if not all(bool(parameter.isfinite().all()) for parameter in state.model.parameters()):
        raise PerpixelError(
            f"a weight is not finite after step {progress.step}: lower optimizer.lr. The last "
            f"checkpoint is from before it; to resume from there, add --resume "
            f"--allow-config-change and the new --set optimizer.lr=..."
        )
    if get_dist_info().is_main:
        folder = out / "checkpoints"
        save_checkpoint(folder, state, fingerprint, progress=progress, overwrite=overwrite)


def _evaluate(
    state: TrainState,
    dataset: Dataset,
    fingerprint: RunFingerprint,
    progress: Progress,
    logger: RunLogger,
    out: Path,
) -> Scores:
    """Evaluates in float32, as `perpixel eval` does, and saves; keeps the best with its scores."""
    recipe = fingerprint.recipe
    with no_tf32(state.model.device):
        model = accelerate(
            state.ema_model, device=state.model.device, dtype=torch.float32, training=False
        )
        names, palette = fingerprint.class_names, dataset.classes.palette
        predictor = Predictor(model, recipe, class_names=names, palette=palette)
        scores = evaluate(
            predictor, dataset, progress=lambda done, total, _: logger.show_evaluation(done, total)
        )
    better = progress.best_miou is None or scores.miou > progress.best_miou
    if not progress.is_scored:
        progress.evaluations_since_best = 0 if better else progress.evaluations_since_best + 1
        metrics = ("miou", "pixel_accuracy", "mean_accuracy")
        line = (
            f"step {progress.step}  val mIoU {scores.miou:.2f}  pixel accuracy "
            f"{scores.pixel_accuracy:.2f}  mean accuracy {scores.mean_accuracy:.2f}  "
            f"({scores.seconds:.0f} s)"
        )
        row = {"step": progress.step, **{name: vars(scores)[name] for name in metrics}}
        logger.log_metrics(row, line)
    progress.scored = progress.step
    if better:
        progress.best_miou, progress.best_step = scores.miou, progress.step
        if get_dist_info().is_main:
            best = _checkpoint(state, fingerprint, dataset, progress)
            write_checkpoint(out / "checkpoints" / "best.safetensors", best)
            write_scores(out, scores, step=progress.step)
            draw_evaluation(out, predictor, dataset, scores, logger)
    _save(state, fingerprint, progress, out, overwrite=True)
    return scores
