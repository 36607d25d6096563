"""Converts another toolkit's file to a checkpoint: weights, recipe, classes and colors."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from perpixel.checkpoints.format import Checkpoint
from perpixel.conversion import Finding, find
from perpixel.conversion.caffe import CAFFE
from perpixel.conversion.files import Source, read_source
from perpixel.data import registry
from perpixel.data.dataset import Classes
from perpixel.data.paths import first_few
from perpixel.errors import PerpixelError, UsageError, plural
from perpixel.io.images import distinct_palette
from perpixel.recipes import recipe as recipe_called
from perpixel.recipes import recipes
from perpixel.recipes.models import Model
from perpixel.recipes.overrides import differences
from perpixel.recipes.schema import Data, Input, Recipe


@dataclass(frozen=True)
class ImportResult:
    """The checkpoint, the model that was found, and a line on where the class names are from."""

    checkpoint: Checkpoint
    finding: Finding
    note: str


def import_checkpoint(
    path: Path,
    *,
    toolkit: str = "auto",
    recipe: Recipe | None = None,
    like: Model | None = None,
    output_stride: int | None = None,
    align_corners: bool | None = None,
    threshold: float | None = None,
    variant: str | None = None,
    backbone: Mapping[str, Tensor] | None = None,
    dataset: str | None = None,
    dataset_if_unnamed: str | None = None,
    trust: bool = False,
) -> ImportResult:
    """Reads a toolkit's file and converts it to a checkpoint.

    `recipe` is the one that the file was trained with: it says what weights do not tell, and its
    data set names the classes; without one, `dataset` does, or `dataset_if_unnamed` where the file
    names no classes and has as many outputs. `like` only says what weights do not
    tell. `threshold` and `variant` are as in `from_state_dict`; `backbone`, by our names, completes
    a file of a head alone. Raises PerpixelError naming the
    file where it cannot be read or is not the recipe's model, UsageError as `conversion.find` does.
    """
    if recipe is not None and dataset not in (None, recipe.data.name):
        raise UsageError(
            f"--dataset {dataset}: {recipe.name} is of {recipe.data.name}, whose classes the "
            f"outputs are; leave out one of --recipe and --dataset"
        )
    source = read_source(path, trust=trust)
    if variant is not None and source.variant not in (None, variant):
        raise UsageError(
            f"--variant {variant}: {path} holds the layers of a {source.variant} FCN-8s"
        )
    try:
        finding = find(
            source.state,
            toolkit=toolkit,
            output_stride=output_stride,
            align_corners=align_corners,
            threshold=threshold,
            variant=variant or source.variant,
            like=like if recipe is None else recipe.model,
            backbone=backbone,
        )
    except PerpixelError as error:
        raise type(error)(f"{path}: {error}") from None
    if recipe is None and dataset is None and source.names is None and dataset_if_unnamed:
        known = registry.classes(dataset_if_unnamed)
        if known is not None and len(known) == finding.num_classes:
            dataset = dataset_if_unnamed
    if recipe is None:
        recipe = _make_recipe(path, finding, dataset or "folder")
    else:
        recipe = _check_recipe(path, finding, recipe)
    if threshold is not None and len(source.names or ()) == 1:  # of class 1 of one output
        source = replace(source, names=("background", *(source.names or ())))
    classes, note = _choose_classes(source, recipe.data.name, finding.num_classes)
    checkpoint = Checkpoint(recipe, classes.names, classes.palette, finding.weights)
    left_out = f"Left out, as no part of the model: {first_few(finding.left_out)}."
    notes = [source.note, left_out if finding.left_out else "", note]
    return ImportResult(checkpoint, finding, "\n".join(filter(None, notes)))


def _make_recipe(path: Path, finding: Finding, dataset: str) -> Recipe:
    """Makes a recipe for inference with the weights; its training settings are defaults."""
    return Recipe(
        name=f"{finding.toolkit.name}/{path.stem}",
        source=f"{path.name}, converted from {finding.toolkit.name}",
        data=Data(name=dataset),
        model=finding.model,
        input=finding.input or _usual_input(finding, dataset),
        inference=finding.toolkit.inference.model_copy(
            update={"resize_to_multiple": finding.resize_to_multiple}
        ),
    )


def _usual_input(finding: Finding, dataset: str) -> Input:
    """Returns the toolkit's input; the original FCN has one for each data set."""
    if finding.toolkit is CAFFE:
        for name in recipes("caffe-fcn/*"):
            if recipe_called(name).data.name == dataset:
                return recipe_called(name).input
    return finding.toolkit.input


def _check_recipe(path: Path, finding: Finding, recipe: Recipe) -> Recipe:
    """Returns the recipe with the file's model; raises PerpixelError where they differ.

    The auxiliary head's number of classes is the file's: in some published files it is a mistake.
    """
    file_recipe = recipe.model_copy(
        update={"model": finding.model, "input": finding.input or recipe.input}
    )
    changes = [
        change
        for change in differences(recipe, file_recipe)
        if not change.startswith("model.aux_head.num_classes:")
    ]
    if changes:
        raise PerpixelError(
            f"{path} is not a model of {recipe.name} (recipe -> file):\n  " + "\n  ".join(changes)
        )
    return file_recipe


def _choose_classes(source: Source, dataset: str, count: int) -> tuple[Classes, str]:
    """Returns names and colors of the data set, else of the file, else made up; and a note on it.

    The data set comes first, as its images are scored under its names; toolkits spell some
    differently, and mmsegmentation's Pascal Context files of 2020 have them in a wrong order.
    """
    known = registry.classes(dataset)
    if known is not None:
        if len(known) != count:
            raise PerpixelError(f"{dataset} has {plural(len(known), 'class')}, the file {count}")
        return known, f"Classes and colors: {dataset}'s."
    names, palette = source.names or (), source.palette or ()
    if len(names) == count:
        names = _distinct(names)
        if len(palette) == count:
            return Classes(names, palette), "Classes and colors: the file's."
        return Classes(names, distinct_palette(count)), "Classes: the file's; colors: made up."
    made_up = tuple(f"class_{index}" for index in range(count))
    return (
        Classes(made_up, distinct_palette(count)),
        f"Note: the file names {len(names) or 'no'} classes for {count} outputs; "
        f"they are called class_0 to class_{count - 1} now. --dataset or --recipe names them.",
    )


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    """Makes the names unique, as a checkpoint needs them: a second "a" becomes "a_2"."""
    distinct: list[str] = []
    for name in names:
        new, number = name, 2
        while new in distinct:
            new, number = f"{name}_{number}", number + 1
        distinct.append(new)
    return tuple(distinct)
