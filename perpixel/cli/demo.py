"""`perpixel demo`."""

from pathlib import Path
from typing import Annotated

import typer

from perpixel.cli import options
from perpixel.errors import Interrupted

_PICTURES = 12


def demo(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where run and pictures go.")
    ] = Path("runs/demo"),
    device: options.Device = "auto",
) -> None:
    """Train a small network on built-in scenes, score it on others, and draw what it sees.

    Takes one to seven minutes on two cores, by the processor. A demo that was cut short goes on
    where it stopped.
    """
    import numpy as np

    import perpixel
    from perpixel.data.scenes import Scenes
    from perpixel.images import colourise, write_image

    recipe = perpixel.recipe("scenes/semantic_fpn_r18")
    try:
        run = perpixel.train(recipe, out=out, resume="if-begun", device=device)
    except Interrupted as error:
        raise Interrupted(f"{error}: go on with the same command") from error
    predictor = perpixel.load(out, device=device)
    scenes = Scenes("val")
    rows = []
    for index in range(_PICTURES):
        result = predictor.predict(scenes.image(index))
        truth = colourise(scenes.label(index), result.palette)
        rows.append(np.hstack([result.image, truth, colourise(result.classes, result.palette)]))
        write_image(out / "overlays" / Path(scenes.name(index)).name, result.overlay())
    sheet = np.vstack([np.hstack(rows[at : at + 2]) for at in range(0, len(rows), 2)])
    write_image(out / "demo.png", np.ascontiguousarray(sheet))
    typer.echo(
        f"mIoU {run.scores.miou:.1f} on {run.scores.images} scenes not trained on.\n"
        f"Look at {out / 'demo.png'} (picture, truth, prediction; two scenes a row) and "
        f"{out / 'overlays'}"
    )
