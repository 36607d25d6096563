"""`perpixel data`."""

import json
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perpixel.cli import completion, options
from perpixel.errors import PerpixelError, plural

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from perpixel.data.check import Report, Split

data = typer.Typer(help="Prepare, download, cache and check data sets.", no_args_is_help=True)

_MAX_FINDINGS = 8
"""How many findings of a kind the terminal lists; the JSON file has all."""

_COLORS = {"error": "red", "warning": "yellow", "note": "cyan"}


Name = Annotated[
    str,
    typer.Argument(
        metavar="DATASET",
        autocompletion=completion.dataset_names,
        help="camvid, folder, ...: as recipes name it.",
    ),
]
Root = Annotated[Path, typer.Argument(metavar="ROOT", help="The data set's root folder.")]
Splits = Annotated[
    list[str] | None,
    typer.Option("--split", metavar="NAME", help="Use this split only. May be repeated."),
]


@data.command()
def init(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Holds your images and their masks.")
    ],
    names: options.ClassNames = None,
) -> None:
    """Read your images and masks and write FOLDER/dataset.toml, with a comment for each guess.

    Check and correct it, then: perpixel data check folder FOLDER
    """
    from perpixel.data.class_names import parse_names
    from perpixel.data.init import propose, write_proposal

    proposal = propose(folder, names=None if names is None else parse_names(names))
    written = write_proposal(folder, proposal)
    for note in proposal.notes:
        typer.echo(note)
    typer.echo(f"written: {', '.join(str(path) for path in written)}")


@data.command()
def convert(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Holds your images and their annotations.")
    ],
    only: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="coco|labelme|yolo|masks",
            help="The annotations to read, where FOLDER holds several kinds.",
        ),
    ] = None,
) -> None:
    """Draw annotations that are no masks, and write FOLDER/dataset.toml.

    Reads COCO JSON (polygons and RLE), LabelMe JSON, YOLO segmentation text with its data.yaml, and
    a mask per class: masks/CLASS/IMAGE.png or IMAGE_CLASS.png. The masks are written to
    FOLDER/perpixel-masks; images stay where they are. Names such as instances_train.json or val/
    divide the images. Example: perpixel data convert coco

    Check the result: perpixel data check folder FOLDER
    """
    from perpixel.data import convert

    with options.progress_bar("convert") as progress:
        lines = convert.convert(folder, only=only, progress=progress)
    for line in lines:
        typer.echo(line)


@data.command()
def download(
    dataset: Name,
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="The folder to write it to.")],
) -> None:
    """Download and unpack a data set: pascal_voc (with SBD), ade20k, camvid or pascal_context.

    The same command resumes a download. Example: perpixel data download camvid datasets
    """
    from perpixel.data import download

    download.download(dataset, root)
    typer.echo(f"{dataset} is in {root}; use it with --data {root}")


@data.command()
def cache(
    dataset: Name,
    root: Root,
    out: Annotated[
        Path, typer.Option(metavar="CACHE", help="The folder to write; on a fast local disk.")
    ],
    split: Splits = None,
) -> None:
    """Decode all images and masks once, so that training need not; use it with --data CACHE.

    It takes four bytes per pixel. The same command resumes an interrupted one, and updates what has
    changed. Example:
    perpixel data cache camvid CamVid --out camvid-cache
    """
    from perpixel.data import registry
    from perpixel.data.cache import write_cache

    pairs = {
        name: registry.open_pairs(dataset, root, name)
        for name in split or registry.splits(dataset, root)
    }
    with options.progress_bar("cache") as progress:
        write_cache(out, dataset, pairs, say=typer.echo, progress=progress)
    typer.echo(f"written; use it with --data {out}")


@data.command()
def check(
    dataset: Name,
    root: Root,
    split: Splits = None,
    crop: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="The training crop size to compare the images with."),
    ] = None,
    json_file: options.JsonFile = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png",
            help="Draw up to a dozen images with their masks over them, and the classes' colors.",
        ),
    ] = None,
) -> None:
    """Read every image and mask and report all problems; the exit code is 1 if there is an error.

    Reports missing, corrupt and unused files, sizes, label values, classes and their weights, and
    duplicate images; --sheet shows whether masks and class names are right. Example:
    perpixel data check camvid CamVid --crop 360x480 --sheet labels.png
    """
    from rich.console import Console

    from perpixel.data import check
    from perpixel.io.atomic import atomic_write

    options.require_writable(json_file, sheet)
    size = None if crop is None else options.read_size(crop, "--crop")
    with options.progress_bar("check") as progress:
        report = check.check(dataset, root, only=split or (), crop=size, progress=progress)
    try:
        _print(report, Console(highlight=False, soft_wrap=True))
    finally:  # the file is written even if stdout is a closed pipe
        if json_file is not None:
            atomic_write(json_file, (json.dumps(report.as_json(), indent=2) + "\n").encode())
    if sheet is not None:
        _draw(report, sheet)
    if report.count("error"):
        raise typer.Exit(1)


def _draw(report: "Report", file: Path) -> None:
    """Writes the sheet of a report's examples; raises PerpixelError where there are none."""
    from perpixel.data.dataset import read_pair
    from perpixel.data.label_sheet import label_sheet
    from perpixel.io.images import write_image

    if not report.examples:
        raise PerpixelError(f"{file}: not written, as no image with an intact mask was found")
    samples = (
        (*read_pair(pairs, index), pairs.sample_id(index)) for pairs, index in report.examples
    )
    write_image(file, label_sheet(samples, report.examples[0][0].classes))
    typer.echo(f"{file}: {plural(len(report.examples), 'image')} with their masks")


def _print(report: "Report", console: "Console") -> None:
    from rich.markup import escape

    for split in report.splits:
        console.print(escape(_describe(split)))
    if report.balance is not None:
        console.print(_class_table(report))
    for kind, group in groupby(report.findings, key=lambda finding: finding.kind):
        findings = list(group)
        color = _COLORS[kind.severity]
        console.print(f"\n[bold {color}]{kind.severity}[/]: {kind.title}: {len(findings)}")
        for finding in findings[:_MAX_FINDINGS]:
            parts = dict.fromkeys((finding.split, finding.subject, finding.detail))
            console.print("  " + escape("  ".join(part for part in parts if part)))
        if len(findings) > _MAX_FINDINGS:
            console.print(f"  ... and {len(findings) - _MAX_FINDINGS} more; --json FILE lists all")
    if report.balance is not None:
        _print_weights(report.balance, console)
        if report.balance.mean is not None:
            console.print(
                f"\nMean and std of the chosen bands in {report.balance.name}, for dataset.toml:\n"
                f"  mean = {list(report.balance.mean)}\n  std = {list(report.balance.std or ())}",
                markup=False,
            )
    pairs = sum(split.pairs for split in report.splits)
    counts = ", ".join(f"{severity}s: {report.count(severity)}" for severity in _COLORS)
    console.print(f"\nchecked {plural(pairs, 'pair')}; {counts}")


def _print_weights(split: "Split", console: "Console") -> None:
    title = f"\nClass weights from {split.name}, in case rare classes are missed:"
    console.print(title, markup=False)
    for kind, weights in (("median frequency", split.median_frequency), ("ENet", split.enet)):
        numbers = json.dumps(weights, separators=(",", ":"))
        console.print(f"  {kind}: --set loss.class_weights={numbers}", markup=False)


def _describe(split: "Split") -> str:
    text = f"{split.name}: {plural(split.pairs, 'pair')}"
    pixels = sum(split.pixels) + split.void
    if pixels:
        text += f", {split.void / pixels:.1%} of the pixels without a label"
    if split.sizes:
        (smallest, _), (largest, _) = split.sizes[0], split.sizes[-1]
        most_frequent, count = max(split.sizes, key=lambda item: item[1])
        text += ", images {}x{}".format(*most_frequent)
        if len(split.sizes) > 1:
            text += " ({} of them), from {}x{} to {}x{}".format(count, *smallest, *largest)
    return text


def _class_table(report: "Report") -> "Table":
    """Returns a table of each class's share of the labeled pixels and its number of images."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("class")
    for split in report.splits:
        table.add_column(f"{escape(split.name)}: share", justify="right")
        table.add_column("images", justify="right")
    for index, name in enumerate(report.classes):
        cells = []
        for split in report.splits:
            cells += [f"{split.shares[index]:.2%}", str(split.images[index])]
        table.add_row(escape(name), *cells)
    return table
