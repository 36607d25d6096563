"""Trains one recipe with several seeds for `perpixel train --seeds`."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING

import typer

from perpixel.errors import UsageError
from perpixel.io.atomic import atomic_write
from perpixel.recipes.schema import Recipe
from perpixel.runtime import distributed
from perpixel.runtime.device import resolve_device

if TYPE_CHECKING:
    from perpixel.training.train import Run


def train_seeds(
    recipe: Recipe, seeds: int, *, out: Path, device: str, train: "Callable[..., Run]"
) -> None:
    """Trains `recipe` in out/seed-S for two or more successive seeds S from its own one on, writes
    out/seeds.json and prints it.

    Existing runs are resumed. `train` is perpixel.train with its other arguments bound. mIoU is in
    percent, of the final weights; pytorch-auto-drive's tables print mean and best as well. The
    deviation is that of a sample. Raises what perpixel.train raises; finished runs are kept.
    """
    import perpixel

    if (out / "checkpoints").exists():
        raise UsageError(f"{out} holds a single run: name another folder for --seeds")
    mious = {}
    with distributed.process_group(resolve_device(device)) as dist_info:  # one for all runs
        for seed in range(recipe.train.seed, recipe.train.seed + seeds):
            seeded = perpixel.override(recipe, [f"train.seed={seed}"])
            run = train(seeded, out=out / f"seed-{seed}", resume="auto")
            mious[seed] = run.scores.miou
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
        f"mean {summary['mean']:.2f}, deviation {summary['deviation']:.2f}, best "
        f"{mious[best]:.2f} in {out / f'seed-{best}'}"
    )
