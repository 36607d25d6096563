"""`perpixel export`."""

from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Annotated

import typer

from perpixel.cli import completion, options
from perpixel.errors import UsageError, plural

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
        bool,
        typer.Option(
            "--dynamic",
            help="Take any number of images of any size from 33x33 (ConvNeXt: 65x65) on.",
        ),
    ] = False,
    logits: Annotated[
        bool, typer.Option("--logits", help="Export the model alone: normalized images to logits.")
    ] = False,
    check_on: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="An image, or a folder, of which up to 8, to compare on; by default images of "
            "--data, or built-in scenes.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="ROOT",
            help="A labeled data set's root folder: compare mIoU with `predict` on the evaluation "
            "split; --int8 calibrates on the training split.",
        ),
    ] = None,
    calibrate: Annotated[
        Path | None, typer.Option(metavar="ROOT", help="--int8: another name of --data.")
    ] = None,
    dataset: options.Dataset = None,
    int8: Annotated[
        bool,
        typer.Option("--int8", help="Quantize the network to 8 bits; needs --data, and ONNX."),
    ] = False,
    miou_tolerance: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="POINTS",
            help="How much lower, of 100, mIoU on --data may be; by default 0.1, with --int8 1.0.",
        ),
    ] = None,
    half: Annotated[
        bool, typer.Option("--half", help="Store weights in float16: half the size. ONNX alone.")
    ] = False,
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

    With --int8 the file is smaller and faster, and classes may differ: it is written if mIoU
    falls by no more than --miou-tolerance. Example: perpixel export runs/camvid camvid.onnx --int8
    --data CamVid

    With --half the file is half as large, and computes as before; at least 99% of an image's pixels
    must agree then, in place of 99.9%.
    """
    import perpixel

    if calibrate is not None:
        if not int8 or data is not None:
            raise UsageError("--calibrate ROOT belongs to --int8, and is --data ROOT: give one")
        data = calibrate
    options.require_writable(out)
    with options.progress_bar("export") as update:
        result = perpixel.export(
            model,
            out,
            size=None if size is None else options.read_size(size, "--size"),
            dynamic=dynamic,
            logits=logits,
            check_on=check_on,
            data=data,
            dataset=dataset,
            int8=int8,
            miou_tolerance=miou_tolerance,
            half=half,
            settings=settings or (),
            seconds=seconds,
            progress=update,
        )
    origin = "built-in scenes" if result.miou is None else "the evaluation split"
    _print(result, origin if check_on is None else str(check_on))


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
    if result.miou is not None:
        console.print(
            f"mIoU on {plural(result.miou.images, 'labeled image')}: predict "
            f"{result.miou.predict:.2f}, file {result.miou.file:.2f}"
        )
    agreements = [comparison.agreement for comparison in result.comparisons]
    images = plural(len({comparison.image for comparison in result.comparisons}), "image")
    console.print(
        f"{result.path}: written. It gives {mean(agreements):.3%} of the pixels of {images} "
        f"({origin}) the class that `predict` gives, and at least {min(agreements):.3%} of each.",
        markup=False,
    )
