"""The Python interface: thin functions over the package, which import torch only when called."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from perpixel import recipes as _recipes
from perpixel.errors import PerpixelError, UsageError
from perpixel.recipes import settings as _settings
from perpixel.recipes.spec import Inference, Recipe

if TYPE_CHECKING:
    from perpixel.evaluation.confusion import Matrix, Scores
    from perpixel.inference.predictor import Predictor
    from perpixel.models.segmenter import Segmenter
    from perpixel.training.loop import Run


def recipe(name: str) -> Recipe:
    """The recipe called `name`, or "file.py:x". Raises UsageError when there is none."""
    return _recipes.recipe(name)


def recipes(pattern: str = "*") -> list[str]:
    """Names of the recipes that match a shell pattern, such as "camvid/*"."""
    return _recipes.recipes(pattern)


def override(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """A recipe with settings such as "train.steps=100" applied. Raises UsageError."""
    return _settings.override(recipe, settings)


def build(recipe: Recipe, *, classes: int) -> Segmenter:
    """The recipe's network (a torch.nn.Module) for so many classes, with random weights.

    It maps normalised pictures, float [N, 3, H, W], to `main` and `auxiliary` logits.
    """
    from perpixel.models.build import build as build_network

    return build_network(recipe.model, classes=classes)


def load(source: str | Path, *, device: str = "cpu", precision: str = "float32") -> Predictor:
    """A model ready to predict: a run folder, a checkpoint, or a recipe whose weights were fetched.

    device: "cpu", "cuda", "cuda:1" or "auto". precision: "float32", "bfloat16", or "auto" for
    bfloat16 where the device has it. Raises PerpixelError when there is no such model.
    """
    from perpixel import distributed, zoo
    from perpixel.inference.predictor import Predictor

    where = distributed.device(device)
    dtype = distributed.precision(precision, where)
    checkpoint = zoo.find(source)
    try:
        return Predictor(checkpoint, device=where, dtype=dtype)
    except PerpixelError as error:
        raise PerpixelError(f"{source}: {error}") from None


def train(
    recipe: Recipe,
    *,
    data: str | Path | None = None,
    out: str | Path,
    resume: bool = False,
    init: str | Path | None = None,
    device: str = "auto",
    workers: int | None = None,
) -> Run:
    """Trains a recipe on the data set below `data` into the run folder `out`.

    init: a run, a checkpoint or another toolkit's file to start from; None is the ImageNet file
    that the recipe names, if any, and "none" random weights. See perpixel.training.loop.train.
    Raises PerpixelError for anything the user can mend.
    """
    from perpixel import zoo
    from perpixel.training.loop import train as run

    if resume and init is not None:
        raise UsageError("a resumed run has its weights: leave out --init, or --resume")
    return run(
        recipe,
        data=None if data is None else Path(data),
        out=Path(out),
        resume=resume,
        init=None if resume else zoo.initial_weights(recipe, init),
        device=device,
        workers=workers,
    )


def evaluate(
    model: str | Path | Predictor,
    *,
    data: str | Path | None = None,
    dataset: str | None = None,
    split: str | None = None,
    inference: Inference | None = None,
    device: str = "cpu",
    progress: Callable[[int, int, Matrix], None] | None = None,
) -> Scores:
    """Scores of a model on a split of its own data set, or of another `dataset` of its classes.

    `inference` replaces the model's own way of seeing pictures (scales, flip, windows).
    `progress` is called after each picture with (done, in all, confusion matrix so far).
    Raises PerpixelError.
    """
    from perpixel.data.catalog import open_dataset
    from perpixel.data.dataset import plain_names
    from perpixel.evaluation.evaluate import evaluate as run
    from perpixel.inference.predictor import Predictor

    predictor = model if isinstance(model, Predictor) else load(model, device=device)
    chosen = predictor.recipe.data
    root = None if data is None else Path(data)
    opened = open_dataset(dataset or chosen.name, root, split or chosen.eval_split)
    if plain_names(opened.classes.names) != plain_names(predictor.names):
        raise PerpixelError(
            f"the model knows {len(predictor.names)} classes ({', '.join(predictor.names)}), the "
            f"data set has {len(opened.classes)} ({', '.join(opened.classes.names)})"
        )
    seen = predictor.recipe
    if inference is not None:
        seen = seen.model_copy(update={"inference": inference})
    return run(predictor.network, seen, opened, dtype=predictor.dtype, progress=progress)
