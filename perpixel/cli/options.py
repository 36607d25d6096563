"""Options that several commands share."""

import os
from pathlib import Path
from typing import Annotated

import typer

from perpixel.errors import PerpixelError, UsageError

Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="ROOT", help="The data set's root folder (none for scenes)."),
]
Dataset = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        metavar="NAME",
        help="Another data set than the recipe's: cityscapes, pascal_voc, folder, ...",
    ),
]
Device = Annotated[
    str, typer.Option(help="auto, cpu, cuda or cuda:N; auto takes CUDA where there is one.")
]
Precision = Annotated[
    str,
    typer.Option(
        help="float32, tf32 (CUDA), bfloat16, float16, or auto: the fastest of bfloat16, float16 "
        "(GPUs without bfloat16) and float32."
    ),
]
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A run folder, a checkpoint, a recipe whose weights `perpixel zoo fetch` got, or "
        "OWNER/NAME on the Hugging Face Hub.",
    ),
]
Mode = Annotated[
    str | None,
    typer.Option(
        "--mode",
        metavar="whole|slide|blend",
        help="whole; slide: overlapping windows of the training crop, averaged; or blend: such "
        "windows weighted so that no border shows.",
    ),
]
Scales = Annotated[
    str | None, typer.Option(help="Scale factors to average over, e.g. 0.5,0.75,1,1.25,1.5.")
]
Flip = Annotated[
    bool | None, typer.Option("--flip/--no-flip", help="Average over the mirrored image.")
]
Batch = Annotated[
    int,
    typer.Option(min=1, help="Images of one size that go through the model together."),
]
WindowBatch = Annotated[
    int, typer.Option(min=1, help="Windows of an image that go through the model together.")
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile", help="torch.compile the model: faster after the first image of each size."
    ),
]


def inference(mode: str | None, scales: str | None, flip: bool | None) -> list[str]:
    """The changes of a recipe's `inference` that a command asks for."""
    changes = []
    if mode is not None:
        changes.append(f"inference.mode={mode}")
    if scales is not None:
        try:
            changes.append(f"inference.scales={[float(part) for part in scales.split(',')]}")
        except ValueError:
            raise UsageError(
                f"--scales {scales!r}: write numbers with commas between them, as 0.5,1,1.5"
            ) from None
    if flip is not None:
        changes.append(f"inference.flip={str(flip).lower()}")
    return changes


def require_writable(path: Path, *, folder: bool = False) -> None:
    """Raises PerpixelError now, not after the work, when a file, or files in a folder, cannot be
    written later."""
    place = path if folder else path.parent
    while not place.exists():
        place = place.parent
    taken = path.is_dir() and not folder
    device = path.exists() and not path.is_dir() and not path.is_file()
    can = os.access(path, os.W_OK) if device else place.is_dir() and os.access(place, os.W_OK)
    if taken or not can:
        what = "folder" if folder else "file"
        raise PerpixelError(f"{path}: cannot be written there; name another {what}")


def read_size(text: str, option: str) -> tuple[int, int]:
    """A text such as 512x1024 as (height, width); raises UsageError that names the option."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise UsageError(f"{option} {text!r}: write it as HEIGHTxWIDTH, for example 512x1024")
    return int(height), int(width)
