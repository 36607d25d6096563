"""`perpixel report`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perpixel.cli import options
from perpixel.errors import UsageError, needs_extra

if TYPE_CHECKING:
    from perpixel.reporting.reading import Source
    from perpixel.reporting.report import Gallery


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN_OR_EVAL...",
            help="Run folders and what `eval --out` or `--json` wrote; several are compared.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE.html",
            help="The file to write; by default report.html in the first folder.",
        ),
    ] = None,
    data: options.Data = None,
    dataset: options.Dataset = None,
    split: options.Split = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="The model of an evaluation outside its run's folder."),
    ] = None,
    images: Annotated[
        int,
        typer.Option(min=0, max=100, help="How many of the worst and of the best images to show."),
    ] = 6,
    device: options.Device = "auto",
    precision: options.Precision = "float32",
) -> None:
    """Write runs or evaluations as one self-contained HTML file: curves, classes, confusion, the
    worst and best images (with --data), recipe, environment.

    Needs the extra `report`. Example: perpixel report runs/a runs/b --data CamVid --out ab.html
    """
    with needs_extra("report", "report"):
        from perpixel.reporting.report import name_sources, render
    from perpixel.io.atomic import atomic_write
    from perpixel.reporting.reading import read_source

    sources = name_sources([read_source(path) for path in runs])
    if model is not None and all(_has_weights(source.path) for source in sources.values()):
        raise UsageError(
            f"--model {model}: every run has weights of its own; --model is for an evaluation that "
            f"`eval --out` wrote outside its run's folder"
        )
    file = out or (runs[0] if runs[0].is_dir() else runs[0].parent) / "report.html"
    options.require_writable(file)
    galleries, notes = _galleries(
        sources,
        images,
        data=data,
        dataset=dataset,
        split=split,
        model=model,
        device=device,
        precision=precision,
    )
    atomic_write(file, render(sources, galleries, notes).encode(errors="replace"))
    typer.echo(f"{file}: {file.stat().st_size / 2**20:.1f} MiB")


def _galleries(
    sources: "dict[str, Source]",
    count: int,
    *,
    data: Path | None,
    dataset: str | None,
    split: str | None,
    model: str | None,
    device: str,
    precision: str,
) -> "tuple[list[Gallery], list[str]]":
    """Returns the first source's worst and best images as every source's model predicts them, and
    notes that say what is missing to show them."""
    import perpixel
    from perpixel.data.registry import open_dataset
    from perpixel.evaluation.visualization import worst_and_best
    from perpixel.inference.exported import require_checkpoint
    from perpixel.io.images import hex_color, readable_palette
    from perpixel.reporting.report import Gallery
    from perpixel.reporting.samples import take_samples

    mious = next((source.images for source in sources.values() if source.images), None)
    if mious is None or count == 0:
        return [], []
    predictors = {
        name: require_checkpoint(
            perpixel.load(weights, device=device, precision=precision), "a report"
        )
        for name, source in sources.items()
        if (weights := source.path if _has_weights(source.path) else model) is not None
    }
    if not predictors:
        return [], ["The images themselves: no model in the folder; name it with --model MODEL."]
    recipe_data = next(iter(predictors.values())).recipe.data
    dataset = dataset or recipe_data.name
    if data is None and dataset != "scenes":
        return [], [f"The images themselves: name the folder of {dataset} with --data ROOT."]
    opened = open_dataset(dataset, data, split or recipe_data.eval_split)
    palette = readable_palette(opened.classes.palette)
    notes = [options.REPLACED_COLORS] if palette != opened.classes.palette else []
    colors = [
        (name, hex_color(color)) for name, color in zip(opened.classes.names, palette, strict=True)
    ]
    worst, best = worst_and_best(mious, count)
    return [
        Gallery(title, colors, take_samples(names, opened, predictors))
        for title, names in (("Worst images", worst), ("Best images", best))
        if names
    ], notes


def _has_weights(folder: Path) -> bool:
    return any(
        (folder / "checkpoints" / f"{name}.safetensors").is_file() for name in ("model", "best")
    )
