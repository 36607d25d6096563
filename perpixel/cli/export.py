"""`perpixel export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perpixel.cli import options

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
        typer.Option(metavar="HxW", help="The images' size; by default the training crop."),
    ] = None,
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="Images of any size from 33x33 on, any number.")
    ] = False,
    logits: Annotated[
        bool, typer.Option("--logits", help="The model alone: normalized images to logits.")
    ] = False,
    check_on: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="An image, or a folder of which 8, to compare on; else scenes."
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0, help="How long each of three timed trials may take.")
    ] = 1,
) -> None:
    """Write a file for other programs: images in, masks out, with classes and palette in it.

    The file is run and compared with PyTorch before it is kept; where an image's classes or
    logits differ, nothing is written. Example: perpixel export runs/camvid camvid.onnx --dynamic
    """
    import perpixel

    options.require_writable(out)
    done = perpixel.export(
        model,
        out,
        size=None if size is None else options.read_size(size, "--size"),
        dynamic=dynamic,
        logits=logits,
        check_on=check_on,
        seconds=seconds,
    )
    _print(done)


def _print(done: "ExportResult") -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    table = Table("image", "size", "largest difference", "pixels that agree", box=None)
    for one in done.comparisons:
        table.add_row(
            one.image,
            f"{one.size[0]}x{one.size[1]}",
            f"{one.difference:.2g} of {one.largest:.3g}",
            f"{one.agreement:.3%}",
        )
    console.print(table)
    console.print()
    runtime = "ONNX Runtime" if done.path.suffix == ".onnx" else "exported program"
    table = Table("size", f"{runtime}, ms", "p50, p90", "PyTorch, ms", "p50, p90", box=None)
    for timing in done.timings:
        cells = []
        for taken in (timing.file, timing.torch):
            cells += [f"{taken.best:.1f}", f"{taken.p50:.1f}, {taken.p90:.1f}"]
        table.add_row(f"{timing.size[0]}x{timing.size[1]}", *cells)
    console.print(table)
    for note in done.notes:
        console.print(note, markup=False)
    console.print(f"{done.path}: written.", markup=False)
