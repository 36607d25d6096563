"""`perpixel zoo`."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perpixel.cli import completion, options
from perpixel.errors import UsageError
from perpixel.recipes.models import ResNet, backbone_name, method_name
from perpixel.recipes.shipped import SHIPPED

if TYPE_CHECKING:
    from perpixel.recipes.schema import Recipe

# Published figures: column heading and decimals.
_FIGURES = {
    "memory_gb": ("GB", 1),
    "fps": ("fps", 2),
    "miou": ("mIoU", 2),
    "miou_ms_flip": ("ms+flip", 2),
}
_LEAST_NEEDED = ("stem", "fps", "GB", "steps x images", "method", "backbone", "crop", "ms+flip")
"""The columns that a narrow terminal lacks, in this order."""


def zoo(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATTERN] | show NAME | fetch NAME",
            autocompletion=lambda: ["show", "fetch", *completion.recipe_names()],
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
    """List the recipes that match PATTERN, show a recipe's settings, or download weights.

    Shipped weights are perpixel's own: their recipe's NAME is a MODEL for other commands as it is,
    and so it is after a download, which is checked against the recipe's model. mIoU, ms+flip (mean
    over scales and flips), training memory in GB and frames per second are as published.

    Example: perpixel zoo fetch mmseg/fcn_r18-d8_512x1024_80k_cityscapes
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
            recipes = [perpixel.recipe(name) for name in perpixel.recipes(pattern)]
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
        f"Verified by the sha256 that its source publishes, {fetched.sha256[:8]}."
        if fetched.verified
        else f"Not verified, as its source publishes no hash; its sha256 is {fetched.sha256}."
    )
    typer.echo(fetched.note)


def _row(recipe: "Recipe") -> dict[str, Any]:
    published = recipe.published.model_dump()
    backbone, shipped = recipe.model.backbone, SHIPPED.get(recipe.name)
    crop = recipe.augment.crop_size
    return {
        "name": recipe.name,
        "method": method_name(recipe.model.head),
        "backbone": backbone_name(backbone),
        "stem": backbone.stem if isinstance(backbone, ResNet) else None,
        "output_stride": backbone.output_stride,
        "dataset": recipe.data.name,
        "crop": list(crop) if crop else None,
        "steps": recipe.train.steps if recipe.train.epochs is None else None,
        "batch_size": recipe.train.batch_size,
        "published": {key: published[key] for key in _FIGURES},
        "source": recipe.source,
        "config_url": published["config_url"],
        "weights_url": shipped.url if shipped else published["weights_url"],
        "shipped": shipped is not None,
        "log_url": published["log_url"],
    }


def _cells(row: dict[str, Any]) -> dict[str, str]:
    weights = "published" if row["weights_url"] else "-"
    return {
        "recipe": row["name"],
        "method": row["method"],
        "backbone": _short_name(row["backbone"], row["output_stride"]),
        "stem": row["stem"] or "-",
        "crop": "x".join(map(str, row["crop"])) if row["crop"] else "whole",
        "steps x images": f"{row['steps'] or 'by data'} x {row['batch_size']}",
        "weights": "shipped" if row["shipped"] else weights,
    } | {
        heading: "-" if row["published"][key] is None else f"{row['published'][key]:.{decimals}f}"
        for key, (heading, decimals) in _FIGURES.items()
    }


def _short_name(backbone: str, output_stride: int) -> str:
    """Returns "R-50-D8"; 32, the usual output stride of the others, is left out of their names."""
    short = backbone.replace("ResNet", "R")
    return short if output_stride == 32 and short == backbone else f"{short}-D{output_stride}"


def _print(recipes: list["Recipe"]) -> None:
    """Prints a table without the columns that a terminal is too narrow for, and names those."""
    from rich.table import Table

    rows = [_cells(_row(recipe)) for recipe in recipes]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    widths = {name: max(map(len, (name, *cells))) + 2 for name, cells in columns.items()}
    left_out = []
    for name in _LEAST_NEEDED:
        if sum(widths.values()) > shutil.get_terminal_size((500, 24)).columns:
            del widths[name]
            left_out.append(name)
    table = Table(box=None)
    for name in widths:
        right = name in dict(_FIGURES.values())
        table.add_column(name, no_wrap=True, justify="right" if right else "left")
    for row in rows:
        table.add_row(*(row[name] for name in widths))
    options.print_table(table)
    if left_out:
        typer.echo(f"in a wider terminal or with --json: {', '.join(left_out)}", err=True)
