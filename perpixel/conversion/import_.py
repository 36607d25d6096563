"""From another toolkit's file to our checkpoint: its weights, and what they mean."""

from dataclasses import dataclass
from pathlib import Path

from perpixel.checkpoints.format import Checkpoint
from perpixel.conversion import Finding, find
from perpixel.conversion.files import Source, read_source
from perpixel.data import registry
from perpixel.data.dataset import Classes
from perpixel.errors import PerpixelError, UsageError
from perpixel.io.images import distinct_palette
from perpixel.recipes.overrides import differences
from perpixel.recipes.schema import Data, Recipe


@dataclass(frozen=True)
class ImportResult:
    """The checkpoint, what its model turned out to be, and a line on where the names are from."""

    checkpoint: Checkpoint
    finding: Finding
    note: str


def import_checkpoint(
    path: Path,
    *,
    toolkit: str = "auto",
    recipe: Recipe | None = None,
    output_stride: int | None = None,
    align_corners: bool | None = None,
    dataset: str | None = None,
    trust: bool = False,
) -> ImportResult:
    """The checkpoint that a toolkit's file amounts to.

    `recipe` is what the file was trained by: it says what weights do not tell, and its data set
    names the classes; without one, `dataset` does. Raises PerpixelError naming the file where it
    cannot be read or is not the recipe's model, UsageError as `conversion.find` does.
    """
    if recipe is not None and dataset not in (None, recipe.data.name):
        raise UsageError(f"--dataset {dataset}: {recipe.name} is of {recipe.data.name}; give one")
    read = read_source(path, trust=trust)
    try:
        finding = find(
            read.state,
            toolkit=toolkit,
            output_stride=output_stride,
            align_corners=align_corners,
            like=None if recipe is None else recipe.model,
        )
    except PerpixelError as error:
        raise type(error)(f"{path}: {error}") from None
    if recipe is None:
        own = _own_recipe(path, finding, dataset or "folder")
    else:
        own = _checked(path, finding, recipe)
    classes, note = _classes(read, own.data.name, finding.classes)
    checkpoint = Checkpoint(own, classes.names, classes.palette, finding.weights)
    return ImportResult(checkpoint, finding, note)


def _own_recipe(path: Path, finding: Finding, dataset: str) -> Recipe:
    """A recipe that says how to use the weights; how they were trained it does not know."""
    return Recipe(
        name=f"{finding.toolkit.name}/{path.stem}",
        source=f"{path.name}, converted from {finding.toolkit.name}",
        data=Data(name=dataset),
        model=finding.model,
        input=finding.input or finding.toolkit.input,
        inference=finding.toolkit.inference,
    )


def _checked(path: Path, finding: Finding, recipe: Recipe) -> Recipe:
    """The recipe, with the file's model; raises PerpixelError where they differ.

    The auxiliary head's number of classes is the file's own: some published files' is a mistake.
    """
    found = recipe.model_copy(
        update={"model": finding.model, "input": finding.input or recipe.input}
    )
    differing = [
        difference
        for difference in differences(recipe, found)
        if not difference.startswith("model.aux_head.num_classes:")
    ]
    if differing:
        raise PerpixelError(
            f"{path} is not a model of {recipe.name} (recipe -> file):\n  " + "\n  ".join(differing)
        )
    return found


def _classes(read: Source, dataset: str, count: int) -> tuple[Classes, str]:
    """Names and colors, and where they are from: the recipe's data set, the file, or nowhere.

    The data set's own names come first, as its images are scored under them; toolkits spell
    some otherwise, and mmsegmentation's Pascal Context files of 2020 have them in a wrong order.
    """
    known = registry.classes(dataset)
    if known is not None:
        if len(known) != count:
            raise PerpixelError(f"{dataset} has {len(known)} classes, the file {count}")
        return known, f"Classes and colors: {dataset}'s."
    names, palette = read.names or (), read.palette or ()
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
    """The names, of which a checkpoint holds no two alike: a second "a" becomes "a_2"."""
    own: list[str] = []
    for name in names:
        new, number = name, 2
        while new in own:
            new, number = f"{name}_{number}", number + 1
        own.append(new)
    return tuple(own)
