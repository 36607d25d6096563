"""The `perpixel` command. Each command's own file imports torch only when it runs."""

import io
import multiprocessing
import os
import sys
from contextlib import suppress
from typing import NoReturn

import typer

from perpixel import __version__
from perpixel.cli.compare import compare
from perpixel.cli.completion import join_words_of_bash
from perpixel.cli.convert import convert
from perpixel.cli.data import data
from perpixel.cli.demo import demo
from perpixel.cli.evaluate import evaluate
from perpixel.cli.export import export
from perpixel.cli.predict import predict
from perpixel.cli.profile import profile
from perpixel.cli.report import report
from perpixel.cli.serve import serve
from perpixel.cli.train import train
from perpixel.cli.zoo import zoo
from perpixel.errors import Interrupted, PerpixelError, UsageError
from perpixel.io.atomic import redirect_to_devnull
from perpixel.runtime.heap import keep_freed

# Commands whose tensors are allocated in huge pages on Linux: faster, but training would need more
# memory (docs/performance.md).
_HUGE_PAGE_COMMANDS = {"eval", "predict", "serve"}

_EXIT_CODES: dict[type[PerpixelError], int] = {UsageError: 2, Interrupted: 75}

app = typer.Typer(
    help="Semantic segmentation baselines as recipes: train, evaluate, predict.",
    epilog="Any command takes --debug, which shows the traceback of an error.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo)
app.command()(train)
app.command()(compare)
app.command("eval")(evaluate)
app.command()(predict)
app.command()(report)
app.command()(serve)
app.command()(zoo)
app.command()(convert)
app.command()(profile)
app.command()(export)
app.add_typer(data, name="data")


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"perpixel {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False,
        "--version",
        callback=_print_version,
        is_eager=True,
        help="Print the version and exit.",
    ),
) -> None:
    pass


def main() -> None:
    """Runs a command.

    Exit code 0: done; 1: the work failed; 2: the command was wrong; 75 (sysexits.h: "temporary
    failure"): a signal stopped a run that can be resumed.
    """
    debug = "--debug" in sys.argv
    arguments = _with_resume_value([word for word in sys.argv[1:] if word != "--debug"])
    if arguments[:1] and arguments[0] in _HUGE_PAGE_COMMANDS:
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch reads it at its first tensor
    join_words_of_bash()
    keep_freed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # so that printing any file name succeeds
            stream.reconfigure(errors="backslashreplace")
    try:
        app(arguments, prog_name="perpixel")
    except SystemExit as end:  # how Typer ends a command, with its exit code
        if not isinstance(end.code, int):
            raise
        _exit("", end.code)
    except PerpixelError as error:
        if debug:
            raise
        # All ranks are interrupted, so the main one prints it.
        silent = isinstance(error, Interrupted) and os.environ.get("RANK", "0") != "0"
        _exit("" if silent else str(error), _EXIT_CODES.get(type(error), 1))
    except OSError as error:  # for example a folder without permission to read it
        if debug or error.filename is None:
            raise
        _exit(f"{error.filename}: {error.strerror}", 1)


def _with_resume_value(words: list[str]) -> list[str]:
    """Replaces a bare --resume by --resume=must, as Typer has no options with an optional value."""
    return [
        "--resume=must"
        if word == "--resume" and following not in ("never", "auto", "must")
        else word
        for word, following in zip(words, [*words, ""][1:], strict=True)
    ]


def _exit(message: str, code: int) -> NoReturn:
    """Prints a message, if any, to stderr and exits.

    A rank of several exits without Python's finalization, in which gloo's threads may abort the
    process with an exit code of their own (PyTorch's pull request 179291): after an error the
    process group still exists, and even a destroyed one was seen to abort, once in many runs.
    """
    if message:
        try:
            typer.echo(f"perpixel: {message}", err=True)
        except OSError:  # a closed pipe
            redirect_to_devnull(sys.stderr)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        for worker in multiprocessing.active_children():
            worker.terminate()
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
