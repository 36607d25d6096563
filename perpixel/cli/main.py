"""The `perpixel` command. Each command's own file imports torch only when it runs."""

import sys

import typer

from perpixel import __version__
from perpixel.cli.convert import convert
from perpixel.cli.data import data
from perpixel.cli.demo import demo
from perpixel.cli.evaluate import evaluate
from perpixel.cli.predict import predict
from perpixel.cli.train import train
from perpixel.cli.zoo import zoo
from perpixel.errors import PerpixelError, UsageError

app = typer.Typer(
    help="Semantic segmentation baselines as recipes: train, evaluate, predict.",
    epilog="Any command takes --debug, which shows the traceback of an error.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo)
app.command()(train)
app.command("eval")(evaluate)
app.command()(predict)
app.command()(zoo)
app.command()(convert)
app.add_typer(data, name="data")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"perpixel {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and leave."
    ),
) -> None:
    pass


def main() -> None:
    """Runs a command: exit 0 when done, 1 when the work failed, 2 when the command was wrong."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(arguments, prog_name="perpixel")
    except PerpixelError as error:
        if debug:
            raise
        typer.echo(f"perpixel: {error}", err=True)
        sys.exit(2 if isinstance(error, UsageError) else 1)
