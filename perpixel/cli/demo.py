"""`perpixel demo`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perpixel.cli import options
from perpixel.errors import Interrupted, PerpixelError

if TYPE_CHECKING:
    from perpixel.recipes.schema import Recipe
    from perpixel.training.train import Run

_NUM_IMAGES = 12
_MIN_MIOU = 70
_EXPECTED = f"84 to 87 is usual; below {_MIN_MIOU} something is wrong"


def demo(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="The folder for the run and the images.")
    ] = Path("runs/demo"),
    device: options.Device = "auto",
) -> None:
    """Train a small model on built-in scenes, evaluate it on others, and draw its predictions.

    Takes one to seven minutes on two cores, depending on the processor. The same command resumes an
    interrupted demo. The exit code is 1 if the score shows that the model did not learn.
    """
    import perpixel

    recipe = perpixel.recipe("scenes/semantic_fpn_r18")
    try:
        run = perpixel.train(recipe, out=out, resume="auto", device=device)
    except Interrupted as error:
        raise Interrupted(f"{error}: resume it with the same command") from error
    _draw(out, device)
    images = (
        f"{out / 'demo.png'} (image, truth, prediction; two scenes per row) and {out / 'overlays'}"
    )
    if not run.scores.miou >= _MIN_MIOU:  # NaN fails, too
        raise PerpixelError(f"{_failure(run, recipe, device)}\nThe images are in {images}")
    typer.echo(f"{_score(run)}.\nLook at {images}")


def _draw(out: Path, device: str) -> None:
    """Writes demo.png and overlays/ with predictions of the first scenes."""
    import numpy as np

    import perpixel
    from perpixel.data.datasets.synthetic import SyntheticStreets
    from perpixel.io.images import colorize, write_image

    predictor = perpixel.load(out, device=device)
    scenes = SyntheticStreets("val")
    rows = []
    for index in range(_NUM_IMAGES):
        result = predictor.predict(scenes.image(index))
        truth = colorize(scenes.label(index), result.palette)
        rows.append(np.hstack([result.image, truth, colorize(result.mask, result.palette)]))
        write_image(out / "overlays" / Path(scenes.sample_id(index)).name, result.overlay())
    sheet = np.vstack([np.hstack(rows[start : start + 2]) for start in range(0, len(rows), 2)])
    write_image(out / "demo.png", np.ascontiguousarray(sheet))


def _score(run: "Run") -> str:
    scores = run.scores
    return f"mIoU {scores.miou:.1f} on {scores.images} scenes not trained on ({_EXPECTED})"


def _failure(run: "Run", recipe: "Recipe", device: str) -> str:
    """Returns the message of a demo that did not learn: score, machine, and what to do."""
    from perpixel.runtime.device import resolve_device
    from perpixel.runtime.dtype import resolve_dtype
    from perpixel.runtime.environment import environment_info

    torch_device = resolve_device(device)
    precision = str(resolve_dtype(recipe.train.precision, torch_device)).removeprefix("torch.")
    machine = {"device": torch_device, "precision": precision, **environment_info()}
    lines = [f"  {name}: {value}" for name, value in machine.items() if value is not None]
    return (
        f"the demo did not learn: {_score(run)}\n" + "\n".join(lines) + "\n"
        f"If {run.folder} is from an earlier version or another machine, remove it and run the "
        f"demo again. Otherwise report this message with "
        f"{run.folder / 'log.txt'} and {run.folder / 'metrics.jsonl'}"
    )
