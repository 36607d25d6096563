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
        typer.Option("--out", metavar="FILE.html", help="By default report.html in the first."),
    ] = None,
    data: options.Data = None,
    dataset: options.Dataset = None,
    split: Annotated[
        str | None, typer.Option(help="The split that was scored; by default the recipe's.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="The model of an evaluation outside its run's folder."),
    ] = None,
    images: Annotated[
        int, typer.Option(min=0, max=100, help="So many of the worst and of the best images.")
    ] = 6,
    device: options.Device = "auto",
    precision: options.Precision = "float32",
) -> None:
    """Write one HTML file of runs or evaluations, which needs no network: curves, classes,
    confusion, the worst and best images (with --data), recipe, environment.

    Needs the extra `report`. Example: perpixel report runs/a runs/b --data CamVid --out ab.html
    """
    with needs_extra("report", "report"):
        from perpixel.reporting.report import named, render
    from perpixel.io.atomic import atomic_write
    from perpixel.reporting.reading import read_source

    sources = [read_source(path) for path in runs]
    if model is not None and all(_has_weights(source.path) for source in sources):
        raise UsageError(
            f"--model {model}: the runs have weights of their own; it is for what `eval --out` "
            f"wrote elsewhere"
        )
    first = runs[0]
    file = out or (first if first.is_dir() else first.parent) / "report.html"
    options.require_writable(file)
    galleries, notes = _galleries(
        named(sources),
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
    """The first source's worst and best images as every source's model sees them; or a note
    that says what they lack."""
    import perpixel
    from perpixel.data.registry import open_dataset
    from perpixel.reporting.report import Gallery
    from perpixel.reporting.samples import take_samples, worst_and_best

    mious = next((source.images for source in sources.values() if source.images), None)
    if mious is None or count == 0:
        return [], []
    models = {
        name: source.path if _has_weights(source.path) else model
        for name, source in sources.items()
    }
    used = {name: found for name, found in models.items() if found is not None}
    if not used:
        return [], ["The images themselves: no model in the folder; name it with --model MODEL."]
    predictors = [
        perpixel.load(found, device=device, precision=precision) for found in used.values()
    ]
    chosen = predictors[0].recipe.data
    name = dataset or chosen.name
    if data is None and name != "scenes":
        return [], [f"The images themselves: name the folder of {name} with --data ROOT."]
    opened = open_dataset(name, data, split or chosen.eval_split)
    colors = [
        (name, "#" + bytes(color).hex())
        for name, color in zip(opened.classes.names, opened.classes.palette, strict=True)
    ]
    worst, best = worst_and_best(mious, count)
    return [
        Gallery(title, colors, tuple(used), take_samples(names, opened, predictors))
        for title, names in (("Worst images", worst), ("Best images", best))
        if names
    ], []


def _has_weights(folder: Path) -> bool:
    return any(
        (folder / "checkpoints" / f"{name}.safetensors").is_file() for name in ("model", "best")
    )
