"""`perpixel train`."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from perpixel.cli import options
from perpixel.errors import Interrupted, UsageError

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
        help="Change the recipe, e.g. train.steps=100 optimizer.lr=0.02 train.crop=256x512. "
        "`perpixel zoo show RECIPE` prints every path. May be given again.",
    ),
]
_Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from RUN's newest whole checkpoint.")
]
_ResumeOrStart = Annotated[
    bool,
    typer.Option(
        "--resume-or-start",
        help="Resume, or start where RUN holds no checkpoint: for jobs that are run again.",
    ),
]
_AllowChanges = Annotated[
    bool,
    typer.Option("--allow-changes", help="Resume although the recipe or the data set has changed."),
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
    typer.Option(min=0, help="Processes that prepare pictures; the run is the same with any."),
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
_Replay = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Run a batch that was skipped again (FILE: RUN/replay/step-N.json), show its "
        "losses and gradients, and leave. Takes --data and --device, and no RECIPE.",
    ),
]


def train(
    context: typer.Context,
    recipe: _Recipe = None,
    out: _Out = None,
    data: options.Data = None,
    dataset: options.Dataset = None,
    settings: _Settings = None,
    resume: _Resume = False,
    resume_or_start: _ResumeOrStart = False,
    allow_changes: _AllowChanges = False,
    init: _Init = None,
    device: options.Device = "auto",
    workers: _Workers = None,
    deterministic: _Deterministic = False,
    tensorboard: _TensorBoard = False,
    seeds: _Seeds = None,
    dry_run: _DryRun = False,
    replay: _Replay = None,
) -> None:
    """Train a recipe. RUN gets recipe.json, metrics.jsonl, log.txt, checkpoints/, evaluate.json.

    Ends with 75 when a signal stopped it: the run is saved, and goes on with --resume.

    Example: perpixel train camvid/semantic_fpn_r18 --data CamVid --out runs/camvid
    """
    if replay is not None:
        _require_no_others(context)
        from perpixel.training.replay import replay as run_again

        typer.echo(run_again(replay, data=data, device=device))
        return
    if recipe is None or out is None:
        missing = "RECIPE" if recipe is None else "--out"
        raise UsageError(f"{missing} is missing: perpixel train RECIPE --data ROOT --out RUN")
    import perpixel
    from perpixel.recipes.settings import dump

    if resume and resume_or_start:
        raise UsageError("--resume and --resume-or-start: take one of them")
    changes = list(settings or [])
    if dataset is not None:
        changes.append(f"data.name={dataset}")
    chosen = perpixel.override(perpixel.recipe(recipe), changes)
    if dry_run:
        typer.echo(dump(chosen))
        return
    run = partial(
        perpixel.train,
        data=data,
        allow_changes=allow_changes,
        init=init,
        device=device,
        workers=workers,
        deterministic=deterministic,
        tensorboard=tensorboard,
    )
    again = " and --resume" if init is None else ", --resume instead of --init"
    if seeds is not None or resume or resume_or_start:
        again = ""
    try:
        if seeds is None:
            run(chosen, out=out, resume="if-begun" if resume_or_start else resume)
            return
        from perpixel import distributed
        from perpixel.cli.seeds import train_seeds

        if resume:
            raise UsageError("--seeds goes on with the runs it finds: leave out --resume")
        summary = train_seeds(chosen, seeds, out=out, device=device, train=run)
        if distributed.ranks().main:
            typer.echo(summary)
    except Interrupted as error:
        raise Interrupted(f"{error}: go on with the same command{again}") from error


def _require_no_others(context: typer.Context) -> None:
    """Raises UsageError for what --replay would leave aside."""
    others = []
    for each in context.command.params:
        source = context.get_parameter_source(each.name or "")
        given = source is not None and source.name == "COMMANDLINE"
        if given and each.name not in ("replay", "data", "device"):
            others.append(each.opts[0])
    if others:
        raise UsageError(f"--replay takes --data and --device alone: leave out {', '.join(others)}")
