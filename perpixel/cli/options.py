"""Options and helper functions that several commands share."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perpixel.cli.completion import dataset_names, model_names
from perpixel.errors import PerpixelError, UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from perpixel.recipes.schema import Recipe

Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="ROOT", help="The data set's root folder (none for scenes)."),
]
Dataset = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        metavar="NAME",
        autocompletion=dataset_names,
        help="A data set in place of the recipe's: cityscapes, pascal_voc, folder, ...",
    ),
]
ClassNames = Annotated[
    str | None,
    typer.Option(
        "--names",
        metavar="NAMES|FILE",
        help="Class names, as in road,car,sky, or a file that lists them (labelmap.txt, ...).",
    ),
]
Split = Annotated[
    str | None, typer.Option(help="The split to evaluate; by default the recipe's, often val.")
]
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the results as JSON.")
]
Device = Annotated[
    str, typer.Option(help="auto, cpu, cuda or cuda:N; auto is CUDA if there is a GPU.")
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=0, help="Processes that load images; they do not change a run."),
]
Precision = Annotated[
    str,
    typer.Option(
        autocompletion=lambda: ["auto", "float32", "tf32", "bfloat16", "float16"],
        help="float32, tf32 (CUDA), bfloat16, float16, or auto: the fastest of bfloat16, float16 "
        "(GPUs without bfloat16) and float32.",
    ),
]
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        autocompletion=model_names,
        help="A run folder (its best weights), a checkpoint file, a recipe whose weights are "
        "shipped or `perpixel zoo fetch` downloaded, or OWNER/NAME on the Hugging Face Hub.",
    ),
]
ModelOrExported = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        autocompletion=model_names,
        help="A run folder (its best weights), a checkpoint file, a .onnx file of `perpixel "
        "export`, a recipe whose weights are shipped or `perpixel zoo fetch` downloaded, or "
        "OWNER/NAME on the Hugging Face Hub.",
    ),
]
Mode = Annotated[
    str | None,
    typer.Option(
        "--mode",
        metavar="whole|slide|blend",
        autocompletion=lambda: ["whole", "slide", "blend"],
        help="whole; slide: overlapping windows of the training crop size, averaged; or blend: "
        "such windows, weighted so that no seam is visible.",
    ),
]
Scales = Annotated[
    str | None, typer.Option(help="Scale factors to average over, e.g. 0.5,0.75,1,1.25,1.5.")
]
Flip = Annotated[
    bool | None, typer.Option("--flip/--no-flip", help="Average with the mirrored image.")
]
Batch = Annotated[
    int,
    typer.Option(min=1, help="Images of one size in a forward pass."),
]
WindowBatch = Annotated[int, typer.Option(min=1, help="Windows of an image in a forward pass.")]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile", help="torch.compile the model: faster after the first image of each size."
    ),
]

REPLACED_COLORS = (
    "The model's colors include some that look the same or black; results are shown in others. "
    "The class indices in masks are unchanged."
)


def inference_settings(mode: str | None, scales: str | None, flip: bool | None) -> list[str]:
    """Returns --mode, --scales and --flip as settings of a recipe's `inference`."""
    settings = []
    if mode is not None:
        settings.append(f"inference.mode={mode}")
    if scales is not None:
        try:
            settings.append(f"inference.scales={[float(part) for part in scales.split(',')]}")
        except ValueError:
            raise UsageError(
                f"--scales {scales!r}: write numbers separated by commas, for example 0.5,1,1.5"
            ) from None
    if flip is not None:
        settings.append(f"inference.flip={str(flip).lower()}")
    return settings


def dataset_settings(dataset: str | None, recipe: "Recipe") -> list[str]:
    """Returns --dataset as settings of `recipe`: the name, and the splits that it usually has."""
    from perpixel.data import registry

    if dataset is None:
        return []
    settings = [f"data.name={dataset}"]
    if dataset != recipe.data.name:  # the recipe's splits may be its own data set's alone
        train_split, eval_split = registry.usual_splits(dataset)
        settings += [f"data.train_split={train_split}", f"data.eval_split={eval_split}"]
    return settings


def require_writable(*paths: Path | None, folder: bool = False) -> None:
    """Raises PerpixelError, before the work starts, if files, or files in a folder, cannot be
    written at its end; None is no file."""
    for path in filter(None, paths):
        if path.exists() and not path.is_file() and not folder:
            writable = not path.is_dir() and os.access(path, os.W_OK)  # a device, as /dev/stdout
        else:
            parent = path if folder else path.parent
            while not parent.exists():
                parent = parent.parent
            writable = parent.is_dir() and os.access(parent, os.W_OK)
        if not writable:
            raise PerpixelError(
                f"{path}: cannot be written; name another {'folder' if folder else 'file'}"
            )


def read_size(text: str, option: str) -> tuple[int, int]:
    """Parses a size such as 512x1024 as (height, width); raises UsageError naming the option."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise UsageError(f"{option} {text!r}: write it as HEIGHTxWIDTH, for example 512x1024")
    return int(height), int(width)


def print_table(table: "Table") -> None:
    """Prints a table as wide as its content, as a shortened name is of no use.

    A terminal may wrap its lines.
    """
    from rich.console import Console

    Console(width=Console(width=500).measure(table).maximum).print(table)


@contextmanager
def progress_bar(description: str, *, disable: bool = False) -> Iterator[Callable[..., None]]:
    """Shows a progress bar on stderr if that is a terminal.

    Yields a function that sets it to (done, total, text="").
    """
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    columns = *Progress.get_default_columns(), MofNCompleteColumn()
    console = Console(stderr=True)
    disable = disable or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=disable) as bar:
        task = bar.add_task(description, total=None)

        def update(done: int, total: int, text: str = "") -> None:
            bar.update(
                task, completed=done, total=total, description=f"{description} {text}".strip()
            )

        yield update
