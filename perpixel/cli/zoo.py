"""`perpixel zoo`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perpixel.cli import options
from perpixel.errors import UsageError
from perpixel.recipes.models import ResNet, backbone_name, method_name

if TYPE_CHECKING:
    from perpixel.recipes.schema import Recipe

# Published figures: column heading and decimals.
_FIGURES = {
    "memory_gb": ("GB", 1),
    "fps": ("fps", 2),
    "miou": ("mIoU", 2),
    "miou_ms_flip": ("ms+flip", 2),
}


def zoo(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATTERN] | show NAME | fetch NAME",
            help='e.g. "mmseg/*cityscapes", show camvid/..., fetch mmseg/...',
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="fetch: the file to write; by default one that other commands find by NAME.",
        ),
    ] = None,
) -> None:
    """List the recipes that match PATTERN, show a recipe's settings, or download published weights.

    mIoU, ms+flip (mean over scales and flips), training memory in GB and frames per second are as
    published. Downloaded weights are checked against the recipe's model; NAME is then a MODEL for
    other commands. Example: perpixel zoo fetch mmseg/fcn_r18-d8_512x1024_80k_cityscapes
    """
    import perpixel
    from perpixel.recipes.overrides import dump

    words = words or ["*"]
    if out is not None and words[0] != "fetch":
        raise UsageError("--out belongs to: zoo fetch NAME --out FILE")
    if as_json and words[0] == "fetch":
        raise UsageError("--json: zoo fetch prints no JSON; leave it out")
    match words:
        case ["show", name]:
            typer.echo(dump(perpixel.recipe(name)))
        case ["fetch", name]:
            _fetch(name, out)
        case ["show" | "fetch" as verb]:
            raise UsageError(
                f"zoo {verb} needs the NAME of a recipe; `perpixel zoo` lists them all"
            )
        case [pattern]:
            recipes = [perpixel.recipe(name) for name in perpixel.list_recipes(pattern)]
            if not recipes:
                raise UsageError(f"no recipe matches {pattern!r}; `perpixel zoo` lists them all")
            if as_json:
                typer.echo(json.dumps([_row(recipe) for recipe in recipes], indent=2))
            else:
                _print(recipes)
        case _:
            raise UsageError("zoo takes one PATTERN, show NAME or fetch NAME")


def _fetch(name: str, out: Path | None) -> None:
    from perpixel.checkpoints.zoo import fetch

    fetched = fetch(name, out=out)
    typer.echo(f"{name}: {fetched.path}")
    typer.echo(
        f"Verified by the sha256 in its file name, {fetched.sha256[:8]}."
        if fetched.verified
        else f"Not verified, as its source publishes no hash; its sha256 is {fetched.sha256}."
    )
    typer.echo(f"All names and shapes match the recipe's model. {fetched.note}")


def _row(recipe: "Recipe") -> dict[str, Any]:
    published = recipe.published.model_dump()
    backbone = recipe.model.backbone
    return {
        "name": recipe.name,
        "method": method_name(recipe.model.head),
        "backbone": backbone_name(backbone),
        "stem": backbone.stem if isinstance(backbone, ResNet) else None,
        "output_stride": backbone.output_stride,
        "dataset": recipe.data.name,
        "crop": list(recipe.augment.crop_size),
        "steps": recipe.train.steps,
        "batch_size": recipe.train.batch_size,
        "published": {key: published[key] for key in _FIGURES},
        "source": recipe.source,
        "config_url": published["config_url"],
        "weights_url": published["weights_url"],
        "log_url": published["log_url"],
    }


def _print(recipes: list["Recipe"]) -> None:
    from rich.table import Table

    table = Table(box=None)
    for heading in ("recipe", "method", "backbone", "stem", "crop", "steps x images"):
        table.add_column(heading, no_wrap=True)
    for heading, _ in _FIGURES.values():
        table.add_column(heading, no_wrap=True, justify="right")
    for row in map(_row, recipes):
        table.add_row(
            row["name"],
            row["method"],
            f"{row['backbone'].replace('ResNet', 'R')}-D{row['output_stride']}",
            row["stem"] or "-",
            "x".join(str(side) for side in row["crop"]),
            f"{row['steps']} x {row['batch_size']}",
            *(
                "-" if row["published"][key] is None else f"{row['published'][key]:.{decimals}f}"
                for key, (_, decimals) in _FIGURES.items()
            ),
        )
    options.print_table(table)
