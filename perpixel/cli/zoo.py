"""`perpixel zoo`."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perpixel.errors import UsageError

if TYPE_CHECKING:
    from perpixel.recipes.spec import Recipe


def zoo(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PATTERN] | show NAME", help='e.g. "camvid/*", or show camvid/...'),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the recipes that match PATTERN, or show all settings of one.

    Example: perpixel zoo "camvid/*", perpixel zoo show camvid/semantic_fpn_r18
    """
    import perpixel
    from perpixel.recipes.settings import dump

    match words or ["*"]:
        case ["show", name]:
            typer.echo(dump(perpixel.recipe(name)))
        case [pattern]:
            chosen = [perpixel.recipe(name) for name in perpixel.recipes(pattern)]
            if not chosen:
                raise UsageError(f"no recipe matches {pattern!r}; `perpixel zoo` lists them all")
            if as_json:
                typer.echo(json.dumps([_row(recipe) for recipe in chosen], indent=2))
            else:
                _print(chosen)
        case _:
            raise UsageError("zoo takes one PATTERN, or the words: show NAME")


def _row(recipe: "Recipe") -> dict[str, Any]:
    published = recipe.published.model_dump()
    backbone = recipe.model.backbone
    return {
        "name": recipe.name,
        "method": {"fcn": "FCN", "semantic_fpn": "Semantic FPN"}[recipe.model.head.kind],
        "backbone": f"ResNet-{backbone.depth}",
        "stem": backbone.stem,
        "output_stride": backbone.output_stride,
        "dataset": recipe.data.name,
        "crop": list(recipe.train.crop),
        "steps": recipe.train.steps,
        "images_per_step": recipe.train.images_per_step,
        "published": {key: published[key] for key in ("miou", "miou_ms_flip", "memory_gb", "fps")},
        "source": recipe.source,
        "config_url": published["config_url"],
        "weights_url": published["weights_url"],
        "log_url": published["log_url"],
    }


def _print(recipes: list["Recipe"]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    for heading in ("recipe", "method", "backbone", "crop", "steps", "mIoU", "ms+flip"):
        table.add_column(heading, no_wrap=True)
    for row in map(_row, recipes):
        published = row["published"]
        table.add_row(
            row["name"],
            row["method"],
            f"{row['backbone']}-D{row['output_stride']}",
            "x".join(str(side) for side in row["crop"]),
            f"{row['steps']} x {row['images_per_step']}",
            *(
                "-" if published[key] is None else f"{published[key]:.2f}"
                for key in ("miou", "miou_ms_flip")
            ),
        )
    # A line that is too long for the window may wrap there; a name cut short is no use.
    Console(width=Console(width=500).measure(table).maximum).print(table)
