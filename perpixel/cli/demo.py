"""`perpixel demo`."""

from pathlib import Path
from typing import Annotated

import typer

from perpixel.cli import options
from perpixel.errors import Interrupted, PerpixelError

_NUM_IMAGES = 12
_MIN_MIOU = 70


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
    scores = run.scores
    result = (
        f"mIoU {scores.miou:.1f} on {scores.images} scenes not trained on (84 to 87 is usual; "
        f"below {_MIN_MIOU} something is wrong)"
    )
    if not scores.miou >= _MIN_MIOU:  # NaN fails, too
        raise PerpixelError(
            f"the demo did not learn: {result}\n"
            f"If {out} is from an earlier version or another machine, remove it and run the demo "
            f"again. Otherwise report this message with log.txt, environment.json and "
            f"metrics.jsonl of {out}\nThe images are in {images}"
        )
    typer.echo(f"{result}.\nLook at {images}")


def _draw(out: Path, device: str) -> None:
    """Writes demo.png and overlays/ with predictions of the first scenes."""
    import numpy as np

    import perpixel
    from perpixel.data.datasets.synthetic import SyntheticStreets
    from perpixel.io.images import colorize, write_image

    predictor = perpixel.load(out / "checkpoints" / "model.safetensors", device=device)
    scenes = SyntheticStreets("val")
    rows = []
    for index in range(_NUM_IMAGES):
        result = predictor.predict(scenes.image(index))
        truth = colorize(scenes.label(index), result.palette)
        rows.append(np.hstack([result.image, truth, colorize(result.mask, result.palette)]))
        write_image(out / "overlays" / Path(scenes.sample_id(index)).name, result.overlay())
    sheet = np.vstack([np.hstack(rows[start : start + 2]) for start in range(0, len(rows), 2)])
    write_image(out / "demo.png", np.ascontiguousarray(sheet))
