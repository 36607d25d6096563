"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

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
    str, typer.Option(help="float32, bfloat16, or auto: bfloat16 where the device has it.")
]
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A run folder, a checkpoint, or a recipe whose weights `perpixel zoo fetch` got.",
    ),
]
