"""The Python interface: thin functions over the package, which import torch only when called."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from perpixel import recipes
from perpixel.errors import PerpixelError, UsageError
from perpixel.recipes.overrides import override_inference
from perpixel.recipes.schema import Recipe

if TYPE_CHECKING:
    from perpixel.data.user_dataset import SegmentationDataset
    from perpixel.evaluation.metrics import Matrix, Scores
    from perpixel.exporting.export import ExportResult
    from perpixel.inference.exported import ExportedPredictor
    from perpixel.inference.predictor import Predictor
    from perpixel.models.segmenter import Segmenter
    from perpixel.training.train import Run


def build(recipe: Recipe | str, *, num_classes: int) -> Segmenter:
    """The model (a torch.nn.Module) of a recipe, or of the one of that name, with random weights.

    It maps normalized images, float [N, 3, H, W], to a SegmentationOutput: `logits`, float
    [N, num_classes, h, w] at the head's own stride and, with `return_aux=True`, `aux_logits`.
    Raises UsageError unless num_classes is 1 to 254.
    """
    from perpixel.models.build import build as build_model

    if isinstance(recipe, str):
        recipe = recipes.recipe(recipe)
    if not 1 <= num_classes <= 254:
        raise UsageError(f"num_classes={num_classes}: a mask holds 1 to 254 classes")
    return build_model(recipe.model, num_classes=num_classes)


def load(
    source: str | Path,
    *,
    device: str = "auto",
    precision: str = "float32",
    settings: Iterable[str] = (),
    window_batch: int = 4,
    compiled: bool = False,
) -> Predictor | ExportedPredictor:
    """A model ready to predict: a run folder, a checkpoint, or a recipe whose weights were fetched.

    A file of `perpixel export`, .onnx, gives an ExportedPredictor: `predict` and `predict_batch`
    alone, on the CPU, as it was exported; changes of that by the arguments raise UsageError.

    device: "cpu", "cuda", "cuda:1" or "auto", which is CUDA if there is a GPU. precision:
    "float32", "bfloat16", "float16" or "auto", the fastest that the device has. settings: changes
    of how its recipe sees images, as "inference.flip=true". window_batch: how many windows of an
    image go through the model at once. compiled: torch.compile the model, at the first image of
    every size. Raises PerpixelError when there is no such model.
    """
    from perpixel.checkpoints import zoo
    from perpixel.inference.exported import is_exported, open_exported
    from perpixel.inference.predictor import Predictor
    from perpixel.runtime.device import resolve_device
    from perpixel.runtime.dtype import resolve_dtype

    if is_exported(source):
        return open_exported(
            Path(source), device=device, precision=precision, settings=settings, compiled=compiled
        )
    torch_device = resolve_device(device)
    dtype = resolve_dtype(precision, torch_device)
    checkpoint = zoo.find(source)
    inference = override_inference(checkpoint.recipe, settings).inference
    try:
        return Predictor.from_checkpoint(
            checkpoint,
            device=torch_device,
            dtype=dtype,
            inference=inference,
            window_batch=window_batch,
            compiled=compiled,
        )
    except PerpixelError as error:
        raise type(error)(f"{source}: {error}") from None


def load_model(source: str | Path) -> Segmenter:
    """The trainable model of a run, a checkpoint or a recipe, batch norms included, on the CPU.

    In evaluation mode: call `.train()` before training it. It maps normalized images, float
    [N, 3, H, W], to a SegmentationOutput. (`load` gives a Predictor, whose batch norms are fused
    into its convolutions.) Raises PerpixelError when there is no such model.
    """
    from perpixel.checkpoints import zoo
    from perpixel.checkpoints.format import model_from_checkpoint

    return model_from_checkpoint(zoo.find(source))


def save_pretrained(source: str | Path, folder: str | Path, *, license: str | None = None) -> None:
    """Writes a model's model.safetensors, config.json and a model card into `folder`.

    `license` is the card's, such as "cc-by-4.0". `load` takes the folder. Raises PerpixelError
    when there is no such model, or the folder cannot be written.
    """
    from perpixel.checkpoints import hub, zoo

    hub.save_pretrained(zoo.find(source), Path(folder), license=license)


def push_to_hub(
    source: str | Path, repository: str, *, private: bool = False, license: str | None = None
) -> str:
    """Uploads these files to the Hugging Face Hub as OWNER/NAME and returns the address.

    It needs a token (HF_TOKEN, or `hf auth login`). `load` takes OWNER/NAME,
    and OWNER/NAME@REVISION. Raises PerpixelError.
    """
    from perpixel.checkpoints import hub, zoo

    return hub.push_to_hub(zoo.find(source), repository, private=private, license=license)


def train(
    recipe: Recipe | str,
    *,
    out: str | Path,
    data: str | Path | None = None,
    train_dataset: SegmentationDataset | None = None,
    eval_dataset: SegmentationDataset | None = None,
    resume: Literal["never", "auto", "must"] = "never",
    allow_config_change: bool = False,
    init: str | Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    deterministic: bool = False,
    loggers: Collection[str] = (),
    quiet: bool = False,
    on_log: Callable[[dict[str, float | int]], None] | None = None,
) -> Run:
    """Trains a recipe, or the recipe of that name, into the run folder `out`.

    data: the root folder of the recipe's data set; a resumed run knows its own. train_dataset and
    eval_dataset, together, take its place: any objects with `__len__`, `__getitem__(i) -> (image,
    mask)` (uint8 RGB [H, W, 3] and uint8 [H, W], 255 where ignored) and `class_names`.
    resume: "must" continues the run in `out`, "auto" starts one where there is none.
    allow_config_change: resume even if the recipe or the data set is not what it was.
    init: a run, a checkpoint or another toolkit's file to start from, "imagenet" for the backbone's
    weights from torchvision or timm, "none" for random ones; None is what the recipe says. A
    resumed run has its own.
    deterministic: the same bits every time on CUDA too, more slowly.
    loggers: any of "tensorboard", "wandb" and "mlflow", which get each row of metrics.jsonl, too.
    quiet: print warnings and the scores at the end only. on_log: called with each row of
    metrics.jsonl; raise perpixel.StopTraining in it to end the run in good order.
    Raises Interrupted when a signal (Ctrl-C) stopped the run, which is saved then, and another
    PerpixelError for anything the user can fix: to go on after errors, catch Interrupted first.
    """
    from perpixel.checkpoints import zoo
    from perpixel.data.registry import open_dataset, require_bands, with_dataset_input
    from perpixel.data.user_dataset import wrap_dataset
    from perpixel.training.checkpoint import list_checkpoints
    from perpixel.training.run_logger import read_data_root
    from perpixel.training.train import train as run

    out = Path(out)
    if isinstance(recipe, str):
        recipe = recipes.recipe(recipe)
    if resume not in ("never", "auto", "must"):
        raise UsageError(f"resume={resume!r}: there are never, auto and must")
    resuming = resume == "must" or (
        resume == "auto" and bool(list_checkpoints(out / "checkpoints"))
    )
    root = None if data is None else Path(data)
    if train_dataset is None and eval_dataset is None:
        if root is None and resuming:
            root = read_data_root(out)
        splits = recipe.data.train_split, recipe.data.eval_split
        training, evaluation = (open_dataset(recipe.data.name, root, split) for split in splits)
    elif train_dataset is None or eval_dataset is None or data is not None:
        raise UsageError("give data, or both train_dataset and eval_dataset")
    else:
        training, evaluation = wrap_dataset(train_dataset), wrap_dataset(eval_dataset)
    recipe = with_dataset_input(recipe, training).with_steps(len(training))
    require_bands(recipe, evaluation)
    if len(evaluation) == 0:
        name = "eval_dataset" if eval_dataset is not None else repr(recipe.data.eval_split)
        raise PerpixelError(f"the data set or split to evaluate on, {name}, is empty")
    return run(
        recipe,
        train_dataset=training,
        eval_dataset=evaluation,
        out=out,
        resume=resuming,
        allow_config_change=allow_config_change,
        load_initial=lambda: zoo.initial_weights(recipe, init),
        data_root=root,
        device=device,
        workers=workers,
        deterministic=deterministic,
        loggers=loggers,
        quiet=quiet,
        on_log=on_log,
    )


def evaluate(
    model: str | Path | Predictor,
    *,
    data: str | Path | None = None,
    dataset: str | SegmentationDataset | None = None,
    split: str | None = None,
    device: str = "auto",
    batch: int = 1,
    threads: int = 2,
    boundary: bool = False,
    progress: Callable[[int, int, Matrix], None] | None = None,
) -> Scores:
    """Scores of a model on a split of its own data set, or of another one of its classes.

    dataset: the other's name, or an object as `train` takes it.

    batch: images of one size that go through the model together. threads: how many read
    ahead. boundary: boundary IoU, too. `progress` is called after each image with (done, in all,
    confusion matrix so far). Under torchrun every rank scores its share, and all return the same.
    Raises PerpixelError.
    """
    from perpixel.data.dataset import require_classes
    from perpixel.data.registry import open_dataset, require_bands
    from perpixel.data.seen_classes import require_classes_shown
    from perpixel.data.user_dataset import wrap_dataset
    from perpixel.evaluation.evaluate import evaluate as run
    from perpixel.inference.exported import require_checkpoint
    from perpixel.inference.predictor import Predictor

    if not isinstance(model, Predictor | str | Path):
        raise UsageError(
            f"model is a run folder, a checkpoint, a recipe's name or a Predictor, not a "
            f"{type(model).__name__}: perpixel.inference.predictor.Predictor(model, recipe, ...) "
            f"makes a Predictor of a torch module"
        )
    if not isinstance(model, Predictor):
        model = require_checkpoint(load(model, device=device), "an evaluation")
    predictor = model
    chosen = predictor.recipe.data
    split_name = split or chosen.eval_split
    root = None if data is None else Path(data)
    if dataset is None or isinstance(dataset, str):
        opened = open_dataset(dataset or chosen.name, root, split_name)
    elif data is not None or split is not None:
        raise UsageError("a dataset that is an object has no data and no split")
    else:
        opened = wrap_dataset(dataset)
    require_classes(opened, predictor.class_names)
    require_bands(predictor.recipe, opened)
    require_classes_shown(opened, split=split_name)
    return run(
        predictor,
        opened,
        batch=batch,
        threads=threads,
        boundary=boundary,
        progress=progress,
    )


def export(
    model: str | Path,
    out: str | Path,
    *,
    size: tuple[int, int] | None = None,
    dynamic: bool = False,
    logits: bool = False,
    check_on: str | Path | None = None,
    data: str | Path | None = None,
    dataset: str | None = None,
    int8: bool = False,
    miou_tolerance: float | None = None,
    half: bool = False,
    settings: Iterable[str] = (),
    seconds: float = 1,
    progress: Callable[[int, int, str], None] = lambda *_: None,
) -> ExportResult:
    """Writes a model as ONNX (.onnx) or torch.export's file (.pt2), checked against `predict`.

    It takes uint8 RGB images [N, H, W, 3] of `size` (height, width), or with `dynamic` of any
    size, to masks; with `logits` normalized images to logits. data: a data set's root, whose
    evaluation split gives mIoU of the file and of `predict`; the file's may be less by
    `miou_tolerance` (0..100) at most, by default 0.1, and 1.0 in INT8. dataset: another data set of
    the model's classes than its own. int8: quantizes the network, calibrated on the training split.
    half: stores weights in float16. settings:
    changes of how its recipe sees images, as "inference.scales=[1]". See
    perpixel.exporting.export.export. Raises PerpixelError, and writes nothing, when they disagree
    or no file can do what `predict` does.
    """
    from perpixel.checkpoints import zoo
    from perpixel.data.dataset import require_classes
    from perpixel.data.registry import open_dataset, require_bands, usual_splits
    from perpixel.data.seen_classes import require_classes_shown
    from perpixel.exporting.export import export as run

    checkpoint = zoo.find(model)
    labeled = calibration = None
    if int8 or data is not None or dataset is not None:
        own = checkpoint.recipe.data
        name, splits = own.name, (own.train_split, own.eval_split)
        if dataset not in (None, own.name):
            name, splits = dataset, usual_splits(dataset)
        root = None if data is None else Path(data)
        labeled = open_dataset(name, root, splits[1])
        require_classes_shown(labeled, split=splits[1])
        calibration = open_dataset(name, root, splits[0]) if int8 else None
        for opened in filter(None, (labeled, calibration)):
            require_classes(opened, checkpoint.class_names)
            require_bands(checkpoint.recipe, opened)
    return run(
        checkpoint,
        Path(out),
        size=size,
        dynamic=dynamic,
        logits=logits,
        check_on=None if check_on is None else Path(check_on),
        labeled=labeled,
        calibration=calibration,
        miou_tolerance=miou_tolerance,
        half=half,
        settings=settings,
        seconds=seconds,
        progress=progress,
    )
