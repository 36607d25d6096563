"""`perpixel train --seeds`: one recipe, several seeds, and what their scores say together."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING

from perpixel.errors import UsageError
from perpixel.io.atomic import atomic_write
from perpixel.recipes.schema import Recipe
from perpixel.runtime import distributed
from perpixel.runtime.device import resolve_device

if TYPE_CHECKING:
    from perpixel.training.train import Run


def train_seeds(
    recipe: Recipe, seeds: int, *, out: Path, device: str, train: "Callable[..., Run]"
) -> str:
    """Trains `recipe` in out/seed-S for S = its own seed and the ones after it, two or more, by
    `train`: perpixel.train, which knows the rest (`device` is for the ranks' group). Writes
    out/seeds.json; returns it as lines of text.

    Runs that are there already are gone on with. mIoU is in percent; the mean and the best are
    those of the final weights (pytorch-auto-drive's tables print both), the deviation that of a
    sample. Raises what perpixel.train raises; the seeds before are kept.
    """
    import perpixel

    if (out / "checkpoints").exists():
        raise UsageError(f"{out} holds a single run: name another folder for --seeds")
    first = recipe.train.seed
    scores = {}
    with distributed.process_group(resolve_device(device)):  # one for all runs
        for seed in range(first, first + seeds):
            one = perpixel.override(recipe, [f"train.seed={seed}"])
            run = train(one, out=out / f"seed-{seed}", resume="auto")
            scores[seed] = run.scores.miou
    best = max(scores, key=lambda seed: scores[seed])
    average, deviation = mean(scores.values()), stdev(scores.values())
    summary = {
        "recipe": recipe.name,
        "miou": scores,
        "mean": average,
        "deviation": deviation,
        "best": scores[best],
        "best_run": f"seed-{best}",
    }
    if distributed.get_dist_info().is_main:
        atomic_write(out / "seeds.json", (json.dumps(summary, indent=2) + "\n").encode())
    lines = [f"seed {seed}: mIoU {miou:.2f}" for seed, miou in scores.items()]
    lines.append(
        f"mean {average:.2f}, deviation {deviation:.2f}, best {scores[best]:.2f} in "
        f"{out / f'seed-{best}'}"
    )
    return "\n".join(lines)
