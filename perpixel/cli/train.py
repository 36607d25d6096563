"""`perpixel train`."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from perpixel.cli import completion, options
from perpixel.errors import Interrupted, PerpixelError, UsageError, needs_extra

if TYPE_CHECKING:
    from perpixel.recipes.schema import Recipe
    from perpixel.training.train import Run


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="A name from `perpixel zoo`, or file.py:name.",
            metavar="RECIPE",
            autocompletion=completion.recipe_names,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="RUN", help="The folder of the run.")
    ] = None,
    data: options.Data = None,
    dataset: options.Dataset = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PATH=VALUE",
            autocompletion=completion.settings,
            help="Change the recipe, e.g. train.steps=100 optimizer.lr=0.02 "
            "augment.crop_size=256x512. `perpixel zoo show RECIPE` prints every path. May be "
            "repeated.",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Passes over the training images, in place of train.steps."
        ),
    ] = None,
    resume: Annotated[
        Literal["never", "auto", "must"],
        typer.Option(
            "--resume",
            metavar="[never|auto|must]",
            help="must (or no value): continue from RUN's newest intact checkpoint; auto: "
            "continue, or start if there is none, for jobs that are restarted.",
        ),
    ] = "never",
    allow_config_change: Annotated[
        bool,
        typer.Option(
            "--allow-config-change", help="Resume although the recipe or the data set has changed."
        ),
    ] = False,
    init: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL|imagenet|none",
            help="Initial weights: a run, a checkpoint, another toolkit's file or a backbone's; "
            "imagenet: the backbone's from torchvision or timm, downloaded once; none: random. By "
            "default what the recipe says (folder/...: imagenet).",
        ),
    ] = None,
    model_from: Annotated[
        str | None,
        typer.Option(
            "--model-from",
            metavar="MODEL",
            help="Train MODEL's architecture (the recipe's `model` and `input`): a run, a "
            "checkpoint, a name on the Hub or another toolkit's file. Give the same to --init for "
            "its weights.",
        ),
    ] = None,
    device: options.Device = "auto",
    workers: options.Workers = None,
    deterministic: Annotated[
        bool,
        typer.Option("--deterministic", help="Bit-identical runs on CUDA, too; slower."),
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write event files to RUN/tensorboard.")
    ] = False,
    wandb: Annotated[bool, typer.Option("--wandb", help="Also log to Weights & Biases.")] = False,
    mlflow: Annotated[
        bool, typer.Option("--mlflow", help="Also log to MLflow, by default to RUN/mlflow.db.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print warnings and the final scores only.")
    ] = False,
    report: Annotated[
        bool,
        typer.Option(
            "--report", help="Also write RUN/report.html at the end, as `perpixel report` does."
        ),
    ] = False,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=2,
            metavar="N",
            help="Train N runs with successive train.seed in RUN/seed-S, and write the mean and "
            "the best of their scores to RUN/seeds.json. The same command resumes them.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the recipe with all settings and exit.")
    ] = False,
) -> None:
    """Train a recipe. RUN gets recipe.json, metrics.jsonl, log.txt, checkpoints/, evaluate.json.

    Figures of the first batch, curves, confusion and predictions are in RUN/results/. A run that a
    signal stops is saved, exits with 75, and can be resumed with --resume.

    Example: perpixel train camvid/semantic_fpn_r18 --data CamVid --out runs/camvid. To resume it:
    perpixel train --resume --out runs/camvid
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
                f"{file}: no such file, so there is no run to resume; name a RECIPE to start one"
            )
        base = load(file.read_text(), origin=str(file))
    else:
        base = perpixel.recipe(recipe)
    if model_from is not None:
        from perpixel.checkpoints import zoo

        base = zoo.with_model_of(model_from, base)
    changes = list(settings or [])
    if epochs is not None:
        if any(change.startswith("train.steps=") for change in changes):
            raise UsageError("--epochs and train.steps both set a run's length: leave one out")
        changes.append(f"train.epochs={epochs}")
    changed = perpixel.override(base, [*options.dataset_settings(dataset, base), *changes])
    if dry_run:
        typer.echo(dump(changed))
        return
    if report:
        with needs_extra("--report", "report"):
            import jinja2  # noqa: F401  before the training, not after it
    run = partial(
        perpixel.train,
        data=data,
        allow_config_change=allow_config_change,
        init=init,
        device=device,
        workers=workers,
        deterministic=deterministic,
        loggers=tensorboard * ["tensorboard"] + wandb * ["wandb"] + mlflow * ["mlflow"],
        quiet=quiet,
    )
    try:
        if seeds is None:
            run(changed, out=out, resume=resume)
        elif resume != "never":
            raise UsageError("--seeds resumes the runs that it finds: leave out --resume")
        else:
            _train_seeds(changed, seeds, out=out, device=device, run=run)
    except Interrupted as error:
        resumes = seeds is not None or resume != "never"
        raise Interrupted(
            f"{error}: resume it with the same command{'' if resumes else ' and --resume'}"
        ) from error
    if report:
        _report([out] if seeds is None else sorted(out.glob("seed-*")), device=device)


def _report(runs: list[Path], *, device: str) -> None:
    from perpixel.cli.report import report
    from perpixel.runtime.distributed import get_dist_info
    from perpixel.training.run_logger import read_data_root

    if get_dist_info().is_main:
        out = runs[0].parent / "report.html" if len(runs) > 1 else None
        report(runs, out=out, data=read_data_root(runs[0]), device=device)


def _train_seeds(
    recipe: "Recipe", seeds: int, *, out: Path, device: str, run: "Callable[..., Run]"
) -> None:
    """Trains `recipe` in out/seed-S for two or more successive seeds S from its own one on, writes
    out/seeds.json and prints it.

    Existing runs are resumed. `run` is perpixel.train with its other arguments bound. mIoU is in
    percent, of the final weights; pytorch-auto-drive's tables print mean and best as well. The
    deviation is that of a sample. Raises what perpixel.train raises; finished runs are kept.
    """
    import perpixel
    from perpixel.io.atomic import atomic_write
    from perpixel.runtime import distributed
    from perpixel.runtime.device import resolve_device

    if (out / "checkpoints").exists():
        raise UsageError(f"{out} holds a single run: name another folder for --seeds")
    mious = {}
    with distributed.process_group(resolve_device(device)) as dist_info:  # one for all runs
        for seed in range(recipe.train.seed, recipe.train.seed + seeds):
            seeded = perpixel.override(recipe, [f"train.seed={seed}"])
            mious[seed] = run(seeded, out=out / f"seed-{seed}", resume="auto").scores.miou
    if not dist_info.is_main:
        return
    best = max(mious, key=lambda seed: mious[seed])
    summary = {
        "recipe": recipe.name,
        "miou": mious,
        "mean": mean(mious.values()),
        "deviation": stdev(mious.values()),
        "best": mious[best],
        "best_run": f"seed-{best}",
    }
    atomic_write(out / "seeds.json", (json.dumps(summary, indent=2) + "\n").encode())
    for seed, miou in mious.items():
        typer.echo(f"seed {seed}: mIoU {miou:.2f}")
    typer.echo(
        f"final weights: mean {summary['mean']:.2f}, deviation {summary['deviation']:.2f}, best "
        f"{mious[best]:.2f} in {out / f'seed-{best}'}"
    )
