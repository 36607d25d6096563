"""Opens data sets and finds their classes by name."""

from collections.abc import Callable
from pathlib import Path

from perpixel.data.cache import CachedDataset, is_cache, open_cache, read_origin
from perpixel.data.dataset import Classes, Dataset, PairDataset
from perpixel.data.datasets import (
    ade20k,
    camvid,
    cityscapes,
    nyudv2,
    pascal_context,
    pascal_voc,
    siftflow,
    synthetic,
)
from perpixel.data.datasets.folder import open_folder, splits_of_folder
from perpixel.errors import UsageError
from perpixel.recipes import recipe as recipe_called
from perpixel.recipes import recipes
from perpixel.recipes.overrides import require_known
from perpixel.recipes.schema import DatasetInput, Input, Recipe

# The function that opens each file-backed data set, and its classes where they are fixed.
_FILES: dict[str, tuple[Callable[[Path, str], PairDataset], Classes | None]] = {
    "ade20k": (ade20k.open_ade20k, ade20k.CLASSES),
    "camvid": (camvid.open_camvid, camvid.CLASSES),
    "cityscapes": (cityscapes.open_cityscapes, cityscapes.CLASSES),
    "folder": (open_folder, None),
    "nyudv2": (nyudv2.open_nyudv2, nyudv2.CLASSES),
    "pascal_context": (pascal_context.open_pascal_context, pascal_context.CLASSES),
    "pascal_context_59": (pascal_context.open_pascal_context_59, pascal_context.CLASSES_59),
    "pascal_context_fcn": (pascal_context.open_pascal_context_fcn, pascal_context.CLASSES_FCN),
    "pascal_voc": (pascal_voc.open_pascal_voc, pascal_voc.CLASSES),
    "siftflow": (siftflow.open_siftflow, siftflow.CLASSES),
}

NAMES = (*_FILES, "scenes")


def open_dataset(name: str, root: Path | None, split: str) -> Dataset:
    """Opens a split of the data set called `name`, from `root` or from a cache of it at `root`.

    Raises UsageError for an unknown name or a missing root, PerpixelError for bad contents.
    """
    require_dataset_name(name)
    if name == "scenes":
        if root is not None:
            raise UsageError(f"{root}: scenes are built in, and have no --data; see --dataset")
        return synthetic.SyntheticStreets(split)
    if root is None:
        raise UsageError(
            f"data set {name!r} needs the folder that holds it: --data ROOT, in Python data=ROOT"
        )
    return open_cache(root, name, split) if is_cache(root) else open_pairs(name, root, split)


def open_pairs(name: str, root: Path, split: str, *, complete: bool = True) -> PairDataset:
    """Opens a split's own files, never a cache.

    With `complete` false, a folder's missing images and masks are listed, too, instead of raising.
    Raises as `open_dataset` does.
    """
    require_dataset_name(name)
    if name == "scenes":
        raise UsageError("scenes are drawn by a program: there are no files")
    _require_no_cache(root)
    if name == "folder":
        return open_folder(root, split, complete=complete)
    return _FILES[name][0](root, split)


def with_dataset_input(recipe: Recipe, dataset: Dataset) -> Recipe:
    """Returns the recipe with the bands, mean and std that a folder's dataset.toml gives.

    Raises UsageError where a user or a model gave the recipe others, too.
    """
    described = _input_of(dataset)
    if described is None:
        return recipe
    update = {}
    usual = recipe_called(recipe.name).input if recipe.name in recipes() else Input()
    for name, value in described.model_dump(exclude_none=True).items():
        # A model's channels may be blue, green, red; a data set's are in the order of its bands.
        is_reversed = name != "bands" and recipe.input.channel_order == "bgr"
        update[name] = value[::-1] if is_reversed else value
        own = getattr(recipe.input, name)
        if own not in (getattr(Input(), name), getattr(usual, name), update[name]):
            raise UsageError(
                f"the recipe has input.{name}={list(own)}, and dataset.toml {name} = "
                f"{list(value)}: keep one of them"
            )
    recipe = recipe.model_copy(update={"input": recipe.input.model_copy(update=update)})
    require_bands(recipe, dataset)
    return recipe


def require_bands(recipe: Recipe, dataset: Dataset) -> None:
    """Raises UsageError unless the data set's files are read in the model's bands."""
    described = _input_of(dataset)
    if described is not None and described.bands != recipe.input.bands:
        model, files = (list(bands or ()) for bands in (recipe.input.bands, described.bands))
        raise UsageError(
            f"the model is for images read with input.bands={model}, and dataset.toml has bands = "
            f"{files}: make them the same"
        )


def _input_of(dataset: Dataset) -> DatasetInput | None:
    return dataset.input if isinstance(dataset, PairDataset | CachedDataset) else None


def splits(name: str, root: Path) -> tuple[str, ...]:
    """The splits for training and evaluation, or all that a folder's dataset.toml describes.

    Raises as `open_dataset` does.
    """
    _require_no_cache(root)
    if name == "folder":
        return splits_of_folder(root)
    if name == "pascal_voc" and pascal_voc.has_trainaug(root):
        return ("trainaug", "val")
    return usual_splits(name)


def usual_splits(name: str) -> tuple[str, str]:
    """The names of a data set's splits for training and evaluation."""
    return ("trainval", "test") if name in ("siftflow", "nyudv2") else ("train", "val")


def classes(name: str) -> Classes | None:
    """The classes of the data set called `name`; None for a folder, which has its own."""
    require_dataset_name(name)
    return synthetic.CLASSES if name == "scenes" else _FILES[name][1]


def require_dataset_name(name: str) -> None:
    """Raises UsageError unless a data set is called `name`."""
    require_known(name, NAMES, f"no data set is called {name!r}")


def _require_no_cache(root: Path) -> None:
    if is_cache(root):
        origin = read_origin(root)
        raise UsageError(
            f"{root} is a cache; name the files it was made from: {origin.dataset} {origin.root}"
        )
