"""`perpixel demo`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perpixel.cli import options
from perpixel.errors import Interrupted, PerpixelError

if TYPE_CHECKING:
    from perpixel.recipes.schema import Recipe
    from perpixel.training.train import Run

_IMAGES = 12
_FLOOR = 70
_USUAL = f"84 to 87 is usual; below {_FLOOR} something is wrong"


def demo(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where run and images go.")
    ] = Path("runs/demo"),
    device: options.Device = "auto",
) -> None:
    """Train a small model on built-in scenes, score it on others, and draw what it sees.

    Takes one to seven minutes on two cores, by the processor. A demo that was cut short goes on
    where it stopped. Exit code 1 when the score shows that the model did not learn.
    """
    import perpixel

    recipe = perpixel.recipe("scenes/semantic_fpn_r18")
    try:
        run = perpixel.train(recipe, out=out, resume="auto", device=device)
    except Interrupted as error:
        raise Interrupted(f"{error}: go on with the same command") from error
    _draw(out, device)
    drawn = (
        f"{out / 'demo.png'} (image, truth, prediction; two scenes a row) and {out / 'overlays'}"
    )
    if not run.scores.miou >= _FLOOR:  # NaN is below it, too
        raise PerpixelError(f"{_failure(run, recipe, device)}\nThe images are in {drawn}")
    typer.echo(f"{_score(run)}.\nLook at {drawn}")


def _draw(out: Path, device: str) -> None:
    """Writes demo.png and overlays/ with predictions for the first scenes."""
    import numpy as np

    import perpixel
    from perpixel.data.datasets.synthetic import SyntheticStreets
    from perpixel.io.images import colorize, write_image

    predictor = perpixel.load(out, device=device)
    scenes = SyntheticStreets("val")
    rows = []
    for index in range(_IMAGES):
        result = predictor.predict(scenes.image(index))
        truth = colorize(scenes.label(index), result.palette)
        rows.append(np.hstack([result.image, truth, colorize(result.mask, result.palette)]))
        write_image(out / "overlays" / Path(scenes.sample_id(index)).name, result.overlay())
    sheet = np.vstack([np.hstack(rows[at : at + 2]) for at in range(0, len(rows), 2)])
    write_image(out / "demo.png", np.ascontiguousarray(sheet))


def _score(run: "Run") -> str:
    scores = run.scores
    return f"mIoU {scores.miou:.1f} on {scores.images} scenes not trained on ({_USUAL})"


def _failure(run: "Run", recipe: "Recipe", device: str) -> str:
    """What went wrong, on which machine, and what to do about it."""
    from perpixel.runtime.device import resolve_device
    from perpixel.runtime.dtype import resolve_dtype
    from perpixel.runtime.environment import environment_info

    used = resolve_device(device)
    precision = str(resolve_dtype(recipe.train.precision, used)).removeprefix("torch.")
    machine = {"device": used, "precision": precision, **environment_info()}
    lines = [f"  {name}: {value}" for name, value in machine.items() if value is not None]
    return (
        f"the demo did not learn: {_score(run)}\n" + "\n".join(lines) + "\n"
        f"If {run.folder} is from an earlier version or another machine, remove it and run the "
        f"demo again: it then starts anew. If it is not, report this message with "
        f"{run.folder / 'log.txt'} and {run.folder / 'metrics.jsonl'}"
    )
