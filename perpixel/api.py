"""The Python interface: thin functions over the package, which import torch only when called."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from perpixel.errors import PerpixelError, UsageError
from perpixel.recipes.settings import override
from perpixel.recipes.spec import Recipe

if TYPE_CHECKING:
    from perpixel.evaluation.confusion import Matrix, Scores
    from perpixel.exporting.export import Exported
    from perpixel.inference.predictor import Predictor
    from perpixel.models.segmenter import Segmenter
    from perpixel.training.loop import Run


def build(recipe: Recipe, *, classes: int) -> Segmenter:
    """The recipe's network (a torch.nn.Module) for so many classes, with random weights.

    It maps normalised pictures, float [N, 3, H, W], to `main` and `auxiliary` logits.
    """
    from perpixel.models.build import build as build_network

    return build_network(recipe.model, classes=classes)


def load(
    source: str | Path,
    *,
    device: str = "cpu",
    precision: str = "float32",
    settings: Iterable[str] = (),
    window_batch: int = 4,
    compiled: bool = False,
) -> Predictor:
    """A model ready to predict: a run folder, a checkpoint, or a recipe whose weights were fetched.

    device: "cpu", "cuda", "cuda:1" or "auto". precision: "float32", "bfloat16", "float16" or
    "auto", the fastest that the device has. settings: changes of how its recipe sees pictures, as
    "inference.flip=true". window_batch: how many windows of a picture go through the network at
    once. compiled: torch.compile the network, at the first picture of every size. Raises
    PerpixelError when there is no such model.
    """
    from perpixel import distributed, zoo
    from perpixel.inference.predictor import Predictor

    where = distributed.device(device)
    dtype = distributed.precision(precision, where)
    checkpoint = zoo.find(source)
    changed = override(checkpoint.recipe, settings)
    if changed.model_copy(update={"inference": checkpoint.recipe.inference}) != checkpoint.recipe:
        raise UsageError(
            "the settings of a trained model are those of inference, as inference.flip=true"
        )
    try:
        return Predictor(
            checkpoint,
            device=where,
            dtype=dtype,
            inference=changed.inference,
            window_batch=window_batch,
            compiled=compiled,
        )
    except PerpixelError as error:
        raise type(error)(f"{source}: {error}") from None


def train(
    recipe: Recipe,
    *,
    data: str | Path | None = None,
    out: str | Path,
    resume: bool | Literal["if-begun"] = False,
    allow_changes: bool = False,
    init: str | Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    deterministic: bool = False,
    tensorboard: bool = False,
) -> Run:
    """Trains a recipe on the data set below `data` into the run folder `out`.

    resume: go on with the run in `out`; "if-begun" starts one where there is none.
    allow_changes: resume even if the recipe or the data set is not what it was.
    deterministic: the same bits every time on CUDA too, more slowly.
    init: a run, a checkpoint or another toolkit's file to start from; None is the ImageNet file
    that the recipe names, if any, and "none" random weights; a resumed run has its own.
    tensorboard: event files, too. See perpixel.training.loop.train.
    Raises Interrupted when a signal (Ctrl-C) stopped the run, which is saved then, and another
    PerpixelError for anything the user can mend: to go on after errors, catch Interrupted first.
    """
    from perpixel import zoo
    from perpixel.training.loop import train as run
    from perpixel.training.state import states

    if resume is True and init is not None:
        raise UsageError("--resume and --init: a resumed run has its own weights; take one of them")
    begun = bool(states(Path(out) / "checkpoints")) if resume == "if-begun" else resume
    return run(
        recipe,
        data=None if data is None else Path(data),
        out=Path(out),
        resume=begun,
        allow_changes=allow_changes,
        init=None if begun else zoo.initial_weights(recipe, init),
        device=device,
        workers=workers,
        deterministic=deterministic,
        tensorboard=tensorboard,
    )


def evaluate(
    model: str | Path | Predictor,
    *,
    data: str | Path | None = None,
    dataset: str | None = None,
    split: str | None = None,
    device: str = "cpu",
    batch: int = 1,
    threads: int = 2,
    boundary: bool = False,
    progress: Callable[[int, int, Matrix], None] | None = None,
) -> Scores:
    """Scores of a model on a split of its own data set, or of another `dataset` of its classes.

    batch: pictures of one size that go through the network together. threads: how many read
    ahead. boundary: boundary IoU, too. `progress` is called after each picture with (done, in all,
    confusion matrix so far). Under torchrun every rank scores its share, and all return the same.
    Raises PerpixelError.
    """
    from perpixel.data.catalog import open_dataset
    from perpixel.data.dataset import require_classes
    from perpixel.evaluation.evaluate import evaluate as run
    from perpixel.inference.predictor import Predictor

    predictor = model if isinstance(model, Predictor) else load(model, device=device)
    chosen = predictor.recipe.data
    root = None if data is None else Path(data)
    opened = open_dataset(dataset or chosen.name, root, split or chosen.eval_split)
    require_classes(opened, predictor.names)
    return run(
        predictor.engine,
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
    seconds: float = 1,
) -> Exported:
    """Writes a model as ONNX (.onnx) or torch.export's file (.pt2), checked against PyTorch.

    It takes uint8 RGB pictures [N, H, W, 3] of `size` (height, width), or with `dynamic` of any
    size, to class maps; with `logits` normalised pictures to logits. See
    perpixel.exporting.export.export. Raises PerpixelError, and writes nothing, when they disagree.
    """
    from perpixel import zoo
    from perpixel.exporting.export import export as run

    return run(
        zoo.find(model),
        Path(out),
        size=size,
        dynamic=dynamic,
        logits=logits,
        check_on=None if check_on is None else Path(check_on),
        seconds=seconds,
    )
