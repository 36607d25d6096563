"""`perpixel data`."""

from pathlib import Path
from typing import Annotated

import typer

data = typer.Typer(help="Look after data sets.", no_args_is_help=True)


@data.callback()
def _group() -> None:
    pass


@data.command()
def init(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Holds your pictures and their masks.")
    ],
) -> None:
    """Look at your pictures and masks and write FOLDER/dataset.toml, explaining each guess.

    Read it, mend it, then: perpixel train folder/semantic_fpn_r18 --data FOLDER --out RUN
    """
    from perpixel.data.propose import propose, write_proposal

    proposal = propose(folder)
    written = write_proposal(folder, proposal)
    for note in proposal.notes:
        typer.echo(note)
    typer.echo(f"written: {', '.join(str(path) for path in written)}")


@data.command()
def download(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="A data set's name.")],
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="The folder to put it into.")],
) -> None:
    """Fetch and unpack a data set: pascal_voc (with SBD), ade20k, camvid or pascal_context.

    Broken off, the same command goes on. Example: perpixel data download camvid datasets
    """
    from perpixel.data import sources

    sources.download(dataset, root)
    typer.echo(f"{dataset} is in {root}; use it with --data {root}")
