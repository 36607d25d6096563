"""`perpixel train`."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from perpixel.cli import options
from perpixel.errors import Interrupted, PerpixelError, UsageError

_Recipe = Annotated[
    str | None,
    typer.Argument(help="A name from `perpixel zoo`, or file.py:name.", metavar="RECIPE"),
]
_Out = Annotated[Path | None, typer.Option("--out", metavar="RUN", help="The run's own folder.")]
_Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Change the recipe, e.g. train.steps=100 optimizer.lr=0.02 augment.crop_size=256x512. "
        "`perpixel zoo show RECIPE` prints every path. May be given again.",
    ),
]
_Resume = Annotated[
    str,
    typer.Option(
        "--resume",
        metavar="[never|auto|must]",
        help="must (or no word): continue from RUN's newest whole checkpoint; auto: the same, or "
        "start where RUN holds none, for jobs that are run again.",
    ),
]
_AllowConfigChange = Annotated[
    bool,
    typer.Option(
        "--allow-config-change", help="Resume although the recipe or the data set has changed."
    ),
]
_Init = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL|none|timm",
        help="Start from a run, a checkpoint, another toolkit's file or an ImageNet backbone; "
        "none: from random weights; timm: from those timm publishes. By default from what "
        "the recipe names.",
    ),
]
_Workers = Annotated[
    int | None,
    typer.Option(min=0, help="Processes that prepare images; the run is the same with any."),
]
_Deterministic = Annotated[
    bool,
    typer.Option("--deterministic", help="The same bits every time on CUDA too; slower."),
]
_TensorBoard = Annotated[
    bool,
    typer.Option("--tensorboard", help="Event files in RUN/tensorboard, too (extra: tensorboard)."),
]
_DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the recipe as it would be trained, and leave.")
]
_Seeds = Annotated[
    int | None,
    typer.Option(
        min=2,
        metavar="N",
        help="N runs that differ in train.seed alone, in RUN/seed-S, and RUN/seeds.json with the "
        "mean and the best of their scores. Run again, it goes on where it was.",
    ),
]


def train(
    recipe: _Recipe = None,
    out: _Out = None,
    data: options.Data = None,
    dataset: options.Dataset = None,
    settings: _Settings = None,
    resume: _Resume = "never",
    allow_config_change: _AllowConfigChange = False,
    init: _Init = None,
    device: options.Device = "auto",
    workers: _Workers = None,
    deterministic: _Deterministic = False,
    tensorboard: _TensorBoard = False,
    seeds: _Seeds = None,
    dry_run: _DryRun = False,
) -> None:
    """Train a recipe. RUN gets recipe.json, metrics.jsonl, log.txt, checkpoints/, evaluate.json.

    Ends with 75 when a signal stopped it: the run is saved, and goes on with --resume.

    Example: perpixel train camvid/semantic_fpn_r18 --data CamVid --out runs/camvid. To continue it:
    perpixel train --resume --data CamVid --out runs/camvid
    """
    import perpixel
    from perpixel.recipes.overrides import dump, load

    if out is None or (recipe is None and resume == "never"):
        missing = "--out" if recipe else "RECIPE"
        raise UsageError(f"{missing} is missing: perpixel train RECIPE --data ROOT --out RUN")
    if recipe is None:
        file = out / "recipe.json"
        if not file.exists():
            raise PerpixelError(
                f"{file}: no such file, so there is no run to resume: name a RECIPE"
            )
        base = load(file.read_text(), origin=str(file))
    else:
        base = perpixel.recipe(recipe)
    changes = list(settings or [])
    if dataset is not None:
        changes.append(f"data.name={dataset}")
    chosen = perpixel.override(base, changes)
    if dry_run:
        typer.echo(dump(chosen))
        return
    run = partial(
        perpixel.train,
        data=data,
        allow_config_change=allow_config_change,
        init=init,
        device=device,
        workers=workers,
        deterministic=deterministic,
        tensorboard=tensorboard,
    )
    again = " and --resume" if init is None else ", --resume instead of --init"
    if seeds is not None or resume != "never":
        again = ""
    try:
        if seeds is None:
            run(chosen, out=out, resume=resume)  # type: ignore[arg-type]  # train checks it
            return
        from perpixel.cli.seeds import train_seeds
        from perpixel.runtime import distributed

        if resume != "never":
            raise UsageError("--seeds goes on with the runs it finds: leave out --resume")
        summary = train_seeds(chosen, seeds, out=out, device=device, train=run)
        if distributed.get_dist_info().is_main:
            typer.echo(summary)
    except Interrupted as error:
        raise Interrupted(f"{error}: go on with the same command{again}") from error
