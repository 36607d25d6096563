"""`perpixel train`."""

from pathlib import Path
from typing import Annotated

import typer

from perpixel.cli import options


def train(
    recipe: Annotated[
        str, typer.Argument(help="A name from `perpixel zoo`, or file.py:name.", metavar="RECIPE")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="RUN", help="The run's own folder.")],
    data: options.Data = None,
    dataset: options.Dataset = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PATH=VALUE",
            help="Change the recipe, e.g. train.steps=100 optimizer.lr=0.02 train.crop=256x512. "
            "`perpixel zoo show RECIPE` prints every path. May be given again.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from RUN's last checkpoint.")
    ] = False,
    init: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL|none",
            help="Start from a run, a checkpoint, another toolkit's file or an ImageNet backbone; "
            "none: from random weights. By default from what the recipe names.",
        ),
    ] = None,
    device: options.Device = "auto",
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Processes that prepare pictures; the run is the same with any."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the recipe as it would be trained, and leave.")
    ] = False,
) -> None:
    """Train a recipe. RUN gets recipe.json, metrics.jsonl, log.txt, checkpoints/, evaluate.json.

    Example: perpixel train camvid/semantic_fpn_r18 --data CamVid --out runs/camvid
    """
    import perpixel
    from perpixel.recipes.settings import dump

    changes = list(settings or [])
    if dataset is not None:
        changes.append(f"data.name={dataset}")
    chosen = perpixel.override(perpixel.recipe(recipe), changes)
    if dry_run:
        typer.echo(dump(chosen))
        return
    perpixel.train(
        chosen, data=data, out=out, resume=resume, init=init, device=device, workers=workers
    )
