"""`perpixel export`."""

from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Annotated

import typer

from perpixel.cli import completion, options
from perpixel.errors import plural

if TYPE_CHECKING:
    from perpixel.exporting.export import ExportResult


def export(
    model: options.Model,
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="The file to write: .onnx, or .pt2 of torch.export."),
    ],
    size: Annotated[
        str | None,
        typer.Option(
            metavar="HxW", help="The size of the images; by default the training crop size."
        ),
    ] = None,
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="Take any number of images of any size from 33x33 on.")
    ] = False,
    logits: Annotated[
        bool, typer.Option("--logits", help="Export the model alone: normalized images to logits.")
    ] = False,
    check_on: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="An image, or a folder, of which up to 8, to compare on; by default scenes.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PATH=VALUE",
            autocompletion=completion.settings,
            help="Change how the recipe sees images, e.g. inference.scales=[1] "
            "inference.flip=false. May be repeated.",
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0, help="The longest time of each of three timed trials.")
    ] = 1,
) -> None:
    """Export a model for other programs: images to masks, with classes and palette as metadata.

    The file is run and compared with `predict` first; if classes or logits of an image differ,
    nothing is written. Example: perpixel export runs/camvid camvid.onnx --dynamic
    """
    import perpixel

    options.require_writable(out)
    result = perpixel.export(
        model,
        out,
        size=None if size is None else options.read_size(size, "--size"),
        dynamic=dynamic,
        logits=logits,
        check_on=check_on,
        settings=settings or (),
        seconds=seconds,
    )
    _print(result, "built-in scenes" if check_on is None else str(check_on))


def _print(result: "ExportResult", origin: str) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    table = Table("image", "size", "largest difference", "pixels that agree", box=None)
    for comparison in result.comparisons:
        table.add_row(
            comparison.image,
            f"{comparison.size[0]}x{comparison.size[1]}",
            f"{comparison.difference:.2g} of {comparison.largest:.3g}",
            f"{comparison.agreement:.3%}",
        )
    console.print(table)
    console.print()
    runtime = "ONNX Runtime" if result.path.suffix == ".onnx" else "exported program"
    table = Table("size", f"{runtime}, ms", "p50, p90", "PyTorch, ms", "p50, p90", box=None)
    for timing in result.timings:
        cells = []
        for latency in (timing.file, timing.torch):
            cells += [f"{latency.best:.1f}", f"{latency.p50:.1f}, {latency.p90:.1f}"]
        table.add_row(f"{timing.size[0]}x{timing.size[1]}", *cells)
    console.print(table)
    agreements = [comparison.agreement for comparison in result.comparisons]
    images = plural(len({comparison.image for comparison in result.comparisons}), "image")
    console.print(
        f"{result.path}: written. It gives {mean(agreements):.3%} of the pixels of {images} "
        f"({origin}) the class that `predict` gives, and at least {min(agreements):.3%} of each.",
        markup=False,
    )
