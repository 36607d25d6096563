"""`perpixel profile`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perpixel.cli import completion, options
from perpixel.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from perpixel.profiling.profile import Profile
    from perpixel.recipes.schema import PublishedProfile, Recipe


def profile(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            autocompletion=completion.recipe_names,
            help="A recipe, a run folder or a checkpoint.",
        ),
    ],
    size: Annotated[
        list[str], typer.Option(metavar="HxW", help="The size of the input; may be repeated.")
    ],
    num_classes: Annotated[
        int | None,
        typer.Option(
            "--classes",
            min=1,
            metavar="N",
            help="The number of classes, for a recipe without a data set of its own.",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images in a forward pass.")] = 1,
    seconds: Annotated[
        float,
        typer.Option(min=0, help="The longest time of a trial; 0 only counts."),
    ] = 10,
    per_module: Annotated[
        bool,
        typer.Option(
            "--per-module", help="List the layers with their fractions of the multiply-adds."
        ),
    ] = False,
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a Chrome trace of a pass: .json or .json.gz."),
    ] = None,
    json_file: options.JsonFile = None,
    device: options.Device = "auto",
    precision: options.Precision = "float32",
) -> None:
    """Measure a model: parameters, multiply-adds, latency, images/s, peak memory.

    The best of three trials of up to 300 passes, after 10 warm-up passes, gives images/s; p50 and
    p90 are over all passes. Example: perpixel profile runs/camvid --size 360x480
    """
    from rich.console import Console

    from perpixel.io.atomic import atomic_write
    from perpixel.profiling.flops import CONVENTIONS
    from perpixel.profiling.profile import profile as run
    from perpixel.runtime.device import resolve_device
    from perpixel.runtime.dtype import resolve_dtype, uses_tf32

    sizes = [options.read_size(text, "--size") for text in size]
    if trace is not None and (len(sizes) > 1 or seconds == 0):
        raise UsageError("--trace writes one pass: give one --size, and --seconds above 0")
    options.require_writable(json_file, trace)
    recipe, num_classes = _find_recipe(model, num_classes)
    torch_device = resolve_device(device)
    dtype = resolve_dtype(precision, torch_device)
    setup = {
        "recipe": recipe.name,
        "classes": num_classes,
        "device": str(torch_device),
        "precision": "tf32" if uses_tf32(torch_device) else str(dtype).removeprefix("torch."),
        "batch": batch,
    }
    console = Console(highlight=False, soft_wrap=True)
    console.print(", ".join(f"{name} {value}" for name, value in setup.items()), markup=False)
    rows = []
    for height_and_width in sizes:
        result = run(
            recipe,
            num_classes=num_classes,
            size=height_and_width,
            batch=batch,
            device=torch_device,
            dtype=dtype,
            seconds=seconds,
            trace=trace,
        )
        if per_module:
            _print_layers(result)
        published = next(
            (row for row in recipe.published.profiles if row.size == height_and_width), None
        )
        _print(console, result, published)
        rows.append(result.as_json(layers=per_module, published=published))
    console.print(f"multiply-adds: {CONVENTIONS['macs']}.")
    console.print(f"of convolutions: {CONVENTIONS['macs_convolutions']}.")
    figures = {
        "GB in training": recipe.published.memory_gb,
        "images/s in testing": recipe.published.fps,
    }
    for name, value in figures.items():
        if value is not None:
            console.print(f"published, with its own batch, sizes and machine: {value:g} {name}.")
    if json_file is not None:
        # The first size's figures at the top level, and under "sizes" those of every size.
        content = setup | {"conventions": CONVENTIONS} | rows[0] | {"sizes": rows}
        atomic_write(json_file, json.dumps(content, indent=2).encode())


def _find_recipe(source: str, num_classes: int | None) -> tuple["Recipe", int]:
    """Returns the recipe of that name or of a trained model, and its number of classes."""
    import perpixel
    from perpixel.checkpoints import zoo
    from perpixel.data import registry

    if (source in perpixel.recipes() or ".py" in source) and not Path(source).exists():
        recipe = perpixel.recipe(source)
        classes = registry.classes(recipe.data.name)
        if num_classes is None and classes is None:
            raise UsageError(
                f"{source} is for any data set: give the number of classes with --classes N"
            )
        return recipe, num_classes or len(classes or ())
    checkpoint = zoo.find(source)
    if num_classes not in (None, len(checkpoint.class_names)):
        raise UsageError(
            f"--classes {num_classes}: the checkpoint {source} has {len(checkpoint.class_names)}"
        )
    return checkpoint.recipe, len(checkpoint.class_names)


def _print(console: "Console", result: "Profile", published: "PublishedProfile | None") -> None:
    from rich.table import Table

    height, width = result.size
    table = Table(f"{height}x{width}", "", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    published_rows = {}
    if published is not None:
        table.add_column(f"published, {published.machine}", justify="right")
        published_rows = {
            "parameters": f"{published.mparams:.2f} M",
            "  twice, in GFLOPs": f"{published.gflops:.2f}",
            "images/s": f"{published.fps:.2f}",
        }
    count, latency = result.count, result.latency
    rows = {"parameters": f"{count.params:,}"}
    if count.params_auxiliary:
        rows["  in the auxiliary head"] = f"{count.params_auxiliary:,}"
    rows["multiply-adds"] = f"{count.macs:,}"
    rows["  twice, in GFLOPs"] = f"{2 * count.macs / 1e9:.2f}"
    rows["  of convolutions"] = f"{count.macs_convolutions:,}"
    if latency is not None:
        rows["ms a pass, best trial"] = f"{latency.best:.2f}"
        rows["  p50, p90"] = f"{latency.p50:.2f}, {latency.p90:.2f}"
        rows["images/s"] = f"{result.images_per_second:.2f}"
    notes = []
    for phase, memory in (("inference", result.inference), ("training", result.training)):
        if memory is not None and memory.bytes is not None:
            rows[f"peak memory in {phase}, GiB"] = f"{memory.bytes / 2**30:.2f}"
        elif memory is not None:
            notes.append(f"Peak memory in {phase} was not measured: {memory.note}")
    for name, figure in rows.items():
        table.add_row(name, figure, *[published_rows.get(name)] * (published is not None))
    console.print(table)
    if latency is not None:
        console.print(f"Trials of {', '.join(map(str, latency.passes))} passes.")
    for note in notes:
        console.print(note, markup=False)
    console.print()


def _print_layers(result: "Profile") -> None:
    from rich.table import Table

    table = Table("module", "kind", "output", "parameters", "multiply-adds", "", box=None)
    for column in table.columns[3:]:
        column.justify = "right"
    for layer in result.count.layers:
        fraction = f"{layer.macs / result.count.macs:.1%}"
        shape = "x".join(str(side) for side in layer.output)
        table.add_row(
            layer.name, layer.kind, shape, f"{layer.params:,}", f"{layer.macs:,}", fraction
        )
    options.print_table(table)
