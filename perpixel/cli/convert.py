"""`perpixel convert`."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perpixel.errors import PerpixelError, UsageError

if TYPE_CHECKING:
    from perpixel.conversion import Finding
    from perpixel.conversion.files import Source
    from perpixel.data.dataset import Classes
    from perpixel.recipes.spec import Recipe


def convert(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="A toolkit's file; or a run, a checkpoint.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.")],
    toolkit: Annotated[
        str,
        typer.Option(
            help="auto, mmseg, sssegmentation, torchvision, pytorch-auto-drive or detectron2; "
            "for a perpixel checkpoint, what to write: mmseg or torchvision."
        ),
    ] = "auto",
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The recipe it was trained by; says what weights do not tell."
        ),
    ] = None,
    output_stride: Annotated[
        int | None,
        typer.Option(metavar="8|16|32", help="By default 8 for FCN, 32 for Semantic FPN."),
    ] = None,
    trust: Annotated[
        bool,
        typer.Option("--trust", help="Load a file that could run code, in a separate process."),
    ] = False,
) -> None:
    """Make a checkpoint of another toolkit's file, or the other way about.

    Examples: perpixel convert fcn_r50-d8.pth fcn.safetensors, and back:
    perpixel convert fcn.safetensors fcn.pth --toolkit mmseg
    """
    from perpixel.conversion.files import is_ours

    if is_ours(source):
        if recipe is not None or output_stride is not None or trust:
            raise UsageError(
                f"{source} is perpixel's own: --recipe, --output-stride and --trust are for other "
                f"toolkits' files"
            )
        _write_theirs(source, out, toolkit)
    else:
        _write_ours(source, out, toolkit, recipe, output_stride, trust)


def _write_ours(
    source: Path, out: Path, toolkit: str, name: str | None, output_stride: int | None, trust: bool
) -> None:
    import perpixel
    from perpixel.checkpoint import Checkpoint, write_checkpoint
    from perpixel.conversion import find
    from perpixel.conversion.files import read_source

    wanted = None if name is None else perpixel.recipe(name)
    read = read_source(source, trust=trust)
    try:
        finding = find(
            read.state,
            toolkit=toolkit,
            output_stride=output_stride,
            like=None if wanted is None else wanted.model,
        )
    except UsageError:
        raise
    except PerpixelError as error:
        raise PerpixelError(f"{source}: {error}") from None
    recipe = _own_recipe(source, finding) if wanted is None else _checked(source, finding, wanted)
    classes, note = _classes(read, recipe.data.name, finding.classes)
    weights = finding.weights
    write_checkpoint(out, Checkpoint(recipe, classes.names, classes.palette, weights))

    model = finding.model
    typer.echo(
        f"{finding.title} with {finding.classes} classes, by {finding.toolkit.name}'s names: {out}"
    )
    if toolkit == "auto" and finding.toolkit.name == "pytorch-auto-drive":
        typer.echo("These are torchvision's names too; if it is torchvision's, --toolkit says so.")
    if wanted is None:
        typer.echo(
            f"Taken, as weights do not tell: output stride {model.backbone.output_stride}, "
            f"align_corners {str(model.align_corners).lower()}. --output-stride or --recipe says "
            f"otherwise."
        )
    typer.echo(note)


def _own_recipe(source: Path, finding: "Finding") -> "Recipe":
    """A recipe that says how to use the weights; how they were trained it does not know."""
    from perpixel.recipes.spec import Data, Recipe

    return Recipe(
        name=f"{finding.toolkit.name}/{source.stem}",
        source=f"{source.name}, converted from {finding.toolkit.name}",
        data=Data(name="folder"),
        model=finding.model,
        input=finding.input or finding.toolkit.input,
        inference=finding.toolkit.inference,
    )


def _checked(source: Path, finding: "Finding", recipe: "Recipe") -> "Recipe":
    """The recipe, with the file's network; raises PerpixelError where they differ.

    The auxiliary head's number of classes is the file's own: some published files' is a mistake.
    """
    from perpixel.recipes.settings import differences

    found = recipe.model_copy(
        update={"model": finding.model, "input": finding.input or recipe.input}
    )
    differing = [
        difference
        for difference in differences(recipe, found)
        if not difference.startswith("model.auxiliary.classes:")
    ]
    if differing:
        raise PerpixelError(
            f"{source} is not a network of {recipe.name} (recipe -> file):\n  "
            + "\n  ".join(differing)
        )
    return found


def _classes(read: "Source", dataset: str, count: int) -> "tuple[Classes, str]":
    """Names and colours, and where they are from: the file, the recipe's data set, or nowhere."""
    from perpixel.data import catalog
    from perpixel.data.dataset import Classes
    from perpixel.images import distinct_palette

    known = catalog.classes(dataset)
    names, palette = read.names, read.palette
    if names is not None and len(names) == count:
        if palette is not None and len(palette) == count:
            return Classes(names, palette), "Classes and colours: the file's."
        return Classes(names, distinct_palette(count)), "Classes: the file's; colours: made up."
    if known is not None:
        if len(known) != count:
            raise PerpixelError(f"{dataset} has {len(known)} classes, the file {count}")
        return known, f"Classes and colours: {dataset}'s."
    made_up = tuple(f"class_{index}" for index in range(count))
    return (
        Classes(made_up, distinct_palette(count)),
        f"Note: the file names {len(names or ())} classes for {count} outputs; they are called "
        f"class_0 to class_{count - 1} now.",
    )


def _write_theirs(source: Path, out: Path, toolkit: str) -> None:
    import torch

    from perpixel import zoo
    from perpixel.checkpoint import network_of, write_whole
    from perpixel.conversion import to_state_dict

    if toolkit == "auto":
        raise UsageError(
            f"{source} is perpixel's own; --toolkit mmseg or torchvision says what to write"
        )
    checkpoint = zoo.find(source)
    state = to_state_dict(network_of(checkpoint), toolkit=toolkit)
    names, palette = list(checkpoint.names), [list(colour) for colour in checkpoint.palette]
    content: object = state
    if toolkit == "mmseg":
        meta = {
            "CLASSES": names,  # 0.x
            "PALETTE": palette,
            "dataset_meta": {"classes": names, "palette": palette},  # 1.x
        }
        content = {"meta": meta, "state_dict": state}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_whole(out, buffer.getvalue())
    typer.echo(f"{checkpoint.recipe.name} in {toolkit}'s layout: {out}")
