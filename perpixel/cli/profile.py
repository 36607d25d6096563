"""`perpixel profile`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perpixel.cli import options
from perpixel.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from perpixel.profiling.profile import Profile
    from perpixel.recipes.schema import Published, PublishedProfile, Recipe


def profile(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A recipe; or a run folder, or a checkpoint.")
    ],
    size: Annotated[
        list[str], typer.Option(metavar="HxW", help="The input's size; may be given several times.")
    ],
    num_classes: Annotated[
        int | None,
        typer.Option(
            "--classes",
            min=1,
            metavar="N",
            help="How many classes, where the data set does not say.",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images at once.")] = 1,
    seconds: Annotated[
        float,
        typer.Option(min=0, help="How long a trial may take; 0 counts, and runs nothing."),
    ] = 10,
    per_module: Annotated[
        bool, typer.Option("--per-module", help="List the layers, with their shares.")
    ] = False,
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a Chrome trace of one pass: .json, .json.gz."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures as JSON.")
    ] = None,
    device: options.Device = "auto",
    precision: options.Precision = "float32",
) -> None:
    """Count and time a model: parameters, multiply-adds, latency, images/s, peak memory.

    A trial is up to 300 passes after 10 to warm up; images/s are by the best of three, p50 and p90
    of all single passes. Example: perpixel profile runs/camvid --size 360x480
    """
    from rich.console import Console

    from perpixel.io.atomic import atomic_write
    from perpixel.profiling.flops import CONVENTIONS
    from perpixel.profiling.profile import profile as run
    from perpixel.runtime.device import resolve_device
    from perpixel.runtime.dtype import resolve_dtype, uses_tf32

    sizes = [options.read_size(text, "--size") for text in size]
    if trace is not None and (len(sizes) > 1 or seconds == 0):
        raise UsageError("--trace is of one pass: give one --size, and --seconds above 0")
    for file in filter(None, (json_file, trace)):
        options.require_writable(file)
    recipe, number = _model(model, num_classes)
    used = resolve_device(device)
    dtype = resolve_dtype(precision, used)
    about = {
        "recipe": recipe.name,
        "classes": number,
        "device": str(used),
        "precision": "tf32" if uses_tf32(used) else str(dtype).removeprefix("torch."),
        "batch": batch,
    }
    console = Console(highlight=False, soft_wrap=True)
    console.print(", ".join(f"{name} {value}" for name, value in about.items()), markup=False)
    rows = []
    for each in sizes:
        measured = run(
            recipe,
            num_classes=number,
            size=each,
            batch=batch,
            device=used,
            dtype=dtype,
            seconds=seconds,
            trace=trace,
        )
        if per_module:
            _print_layers(measured)
        theirs = next((row for row in recipe.published.profiles if row.size == each), None)
        _print(console, measured, theirs)
        rows.append(measured.as_json(layers=per_module, published=theirs))
    _print_meanings(console, recipe.published)
    if json_file is not None:
        # The first size's figures, and under "sizes" every size's.
        content = about | {"conventions": CONVENTIONS} | rows[0] | {"sizes": rows}
        atomic_write(json_file, json.dumps(content, indent=2).encode())


def _model(source: str, num_classes: int | None) -> tuple["Recipe", int]:
    """The recipe that `source` is or was trained by, and the number of its classes."""
    import perpixel
    from perpixel.checkpoints import zoo
    from perpixel.data import registry

    if (source in perpixel.recipes() or ".py" in source) and not Path(source).exists():
        recipe = perpixel.recipe(source)
        own = registry.classes(recipe.data.name)
        if num_classes is None and own is None:
            raise UsageError(
                f"{source} is for any data set: say how many classes, with --classes N"
            )
        return recipe, num_classes or len(own or ())
    checkpoint = zoo.find(source)
    if num_classes not in (None, len(checkpoint.class_names)):
        raise UsageError(
            f"--classes {num_classes}: the checkpoint {source} has {len(checkpoint.class_names)}"
        )
    return checkpoint.recipe, len(checkpoint.class_names)


def _print(console: "Console", measured: "Profile", theirs: "PublishedProfile | None") -> None:
    from rich.table import Table

    height, width = measured.size
    table = Table(f"{height}x{width}", "", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    published = {}
    if theirs is not None:
        table.add_column(f"published, {theirs.machine}", justify="right")
        published = {
            "parameters": [f"{theirs.mparams:.2f} M"],
            "  twice, in GFLOPs": [f"{theirs.gflops:.2f}"],
            "images/s": [f"{theirs.fps:.2f}"],
        }
    count, taken = measured.count, measured.latency
    rows = {"parameters": f"{count.params:,}"}
    if count.params_auxiliary:
        rows["  in the auxiliary head"] = f"{count.params_auxiliary:,}"
    rows["multiply-adds"] = f"{count.macs:,}"
    rows["  twice, in GFLOPs"] = f"{2 * count.macs / 1e9:.2f}"
    rows["  of convolutions"] = f"{count.macs_convolutions:,}"
    if taken is not None:
        rows["ms a pass, best trial"] = f"{taken.best:.2f}"
        rows["  p50, p90"] = f"{taken.p50:.2f}, {taken.p90:.2f}"
        rows["images/s"] = f"{measured.images_per_second:.2f}"
    memories = {"inference": measured.inference, "training": measured.training}
    for kind, memory in memories.items():
        if memory is not None:
            shown = "-" if memory.bytes is None else f"{memory.bytes / 2**30:.2f}"
            rows[f"peak memory in {kind}, GiB"] = shown
    for name, figure in rows.items():
        table.add_row(name, figure, *published.get(name, []))
    console.print(table)
    if taken is not None:
        passes = ", ".join(str(number) for number in taken.passes)
        console.print(f"Trials of {passes} passes.")
    for kind, memory in memories.items():
        if memory is not None and memory.bytes is None:
            console.print(f"Memory in {kind} was not measured: {memory.note}", markup=False)
    console.print()


def _print_layers(measured: "Profile") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("module", "kind", "output", "parameters", "multiply-adds", "", box=None)
    for column in table.columns[3:]:
        column.justify = "right"
    for layer in measured.count.layers:
        share = f"{layer.macs / measured.count.macs:.1%}"
        shape = "x".join(str(side) for side in layer.output)
        table.add_row(layer.name, layer.kind, shape, f"{layer.params:,}", f"{layer.macs:,}", share)
    # A line that is too long for the window may wrap there; a name cut short is no use.
    Console(width=Console(width=500).measure(table).maximum).print(table)


def _print_meanings(console: "Console", published: "Published") -> None:
    from perpixel.profiling.flops import CONVENTIONS

    console.print(f"multiply-adds: {CONVENTIONS['macs']}.")
    console.print(f"of convolutions: {CONVENTIONS['macs_convolutions']}.")
    figures = ("GB in training", published.memory_gb), ("images/s in testing", published.fps)
    parts = [f"{value:g} {unit}" for unit, value in figures if value is not None]
    if parts:
        theirs = f"Its source prints {' and '.join(parts)}"
        console.print(f"{theirs}, for its own batch, test sizes and machine.")
