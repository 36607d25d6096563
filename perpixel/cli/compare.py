"""`perpixel compare`."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from perpixel.cli import completion, options
from perpixel.errors import Interrupted, PerpixelError, UsageError, plural

if TYPE_CHECKING:
    from perpixel.comparison.compare import Comparison
    from perpixel.recipes.schema import Recipe
    from perpixel.training.train import Run


def compare(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A name from `perpixel zoo`, or file.py:name.",
            metavar="RECIPE",
            autocompletion=completion.recipe_names,
        ),
    ],
    backbones: Annotated[
        str,
        typer.Option(
            "--backbones",
            metavar="NAME,NAME,...",
            help="resnet18, resnet34, resnet50 or resnet101, with the recipe's own stem if it has "
            "a ResNet, or any names of timm's; all at the recipe's output stride.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="DIR", help="The folder of the comparison, and of a run per backbone."
        ),
    ],
    data: options.Data = None,
    dataset: options.Dataset = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PATH=VALUE",
            autocompletion=completion.settings,
            help="Change the recipe for all backbones, e.g. train.steps=100. May be repeated.",
        ),
    ] = None,
    init: Annotated[
        Literal["imagenet", "none"] | None,
        typer.Option(
            metavar="imagenet|none",
            help="imagenet: start from the weights that torchvision or timm publishes for each "
            "backbone, with their mean and std; none: from random weights. By default what the "
            "recipe says.",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="HxW",
            help="The size of the image for latency and multiply-adds; by default the last "
            "training crops'.",
        ),
    ] = None,
    device: options.Device = "auto",
    workers: options.Workers = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print warnings, final scores and the table only.")
    ] = False,
) -> None:
    """Train a recipe on several backbones; write a table and a plot of mIoU against cost.

    Head, schedule, data and seed are the same for all. Backbones that the recipe cannot have are
    refused before the first training. Each run is DIR/NAME; the same command resumes them, trains
    none that is finished, and takes more backbones beside those before. In the end the latency of
    all models is measured in a row, and DIR gets comparison.md, comparison.png and comparison.json.

    Example: perpixel compare folder/balanced --backbones resnet18,mobilenetv2_100,pvt_v2_b0 --data
    photos --out runs/backbones
    """
    import perpixel
    from perpixel.comparison import table
    from perpixel.comparison.backbones import check_folder, fetch_weights, plan
    from perpixel.comparison.compare import compare as run
    from perpixel.data.registry import open_dataset
    from perpixel.runtime.device import resolve_device
    from perpixel.runtime.distributed import get_dist_info
    from perpixel.runtime.environment import describe_device

    if get_dist_info().world_size > 1:
        raise UsageError(
            "compare is one process: train each backbone with torchrun -m perpixel train into "
            "DIR/NAME, and then run compare, which takes finished runs as they are"
        )
    names = _read_names(backbones)
    if (out / "checkpoints").exists():
        raise UsageError(f"{out} holds a single run: name another folder with --out")
    options.require_writable(out, folder=True)
    torch_device = resolve_device(device)
    base = perpixel.recipe(recipe)
    base = perpixel.override(base, [*options.dataset_settings(dataset, base), *(settings or [])])
    if size is None and not base.crop_sizes:
        raise UsageError(f"{base.name} trains on whole images: give the size to measure by --size")
    measured = base.last_crop_size if size is None else options.read_size(size, "--size")
    train_dataset, eval_dataset = (
        open_dataset(base.data.name, data, split)
        for split in (base.data.train_split, base.data.eval_split)
    )
    planned = plan(
        base,
        names,
        pretrained=init == "imagenet" or (init is None and base.train.pretrained is not None),
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        size=measured,
    )
    check_folder(out, planned)
    fetch_weights([(changed, out / name) for name, (changed, _) in planned.items()])

    def train(changed: "Recipe", folder: Path) -> "Run":
        return perpixel.train(
            changed, data=data, out=folder, resume="auto", device=device, workers=workers,
            quiet=quiet,
        )  # fmt: skip

    try:
        comparison = run(
            planned,
            out=out,
            size=measured,
            device=torch_device,
            train=train,
            announce=partial(typer.echo, err=True),
        )
    except Interrupted as error:
        raise Interrupted(f"{error}: resume it with the same command") from error
    if comparison.rows:
        first, _ = planned[comparison.rows[0].backbone]
        table.write(
            out,
            comparison,
            first,
            images=len(eval_dataset),
            size=measured,
            machine=describe_device(torch_device),
        )
        _print(comparison)
        typer.echo(f"Look at {out / 'comparison.png'} and {out / 'comparison.md'}")
    if comparison.failed:
        reasons = "".join(f"\n  {name}: {reason}" for name, reason in comparison.failed.items())
        raise PerpixelError(
            f"{len(comparison.failed)} of {plural(len(planned), 'backbone')} failed; the same "
            f"command tries again, and leaves finished runs as they are:{reasons}"
        )


def _read_names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if "" in names:
        raise UsageError(f"--backbones {text!r}: write names separated by commas")
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise UsageError(f"--backbones {text!r}: {', '.join(twice)} is there twice")
    return names


def _print(comparison: "Comparison") -> None:
    from rich.table import Table

    from perpixel.comparison.table import HEADINGS, cells

    table = Table(box=None, pad_edge=False)
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading, no_wrap=True, justify="right" if number else "left")
    for row in comparison.rows:
        table.add_row(*cells(row))
    options.print_table(table)
