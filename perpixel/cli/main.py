"""The `perpixel` command. Each command's own file imports torch only when it runs."""

import io
import multiprocessing
import os
import sys
from contextlib import suppress
from typing import NoReturn

import typer

from perpixel import __version__
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

# Linux gives these commands' tensors pages of 2 MB: faster, but training would need more memory
# (docs/performance.md).
_HUGE_PAGES = {"eval", "predict", "serve"}

_CODES: dict[type[PerpixelError], int] = {UsageError: 2, Interrupted: 75}

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
app.command()(report)
app.command()(serve)
app.command()(zoo)
app.command()(convert)
app.command()(profile)
app.command()(export)
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
    """Runs a command.

    Exit 0 when done, 1 when the work failed, 2 when the command was wrong, and 75 (sysexits.h:
    "temporary failure") when a signal stopped a run that can be resumed.
    """
    debug = "--debug" in sys.argv
    arguments = _with_resume_value([word for word in sys.argv[1:] if word != "--debug"])
    if arguments[:1] and arguments[0] in _HUGE_PAGES:
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch reads it at its first tensor
    keep_freed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that it cannot write ends no work
            stream.reconfigure(errors="backslashreplace")
    try:
        app(arguments, prog_name="perpixel")
    except PerpixelError as error:
        if debug:
            raise
        if not isinstance(error, Interrupted) or os.environ.get("RANK", "0") == "0":
            _say(str(error))  # of what all ranks say, one says enough
        _leave(_CODES.get(type(error), 1))
    except OSError as error:  # as where a folder may not be looked into
        if debug or error.filename is None:
            raise
        _say(f"{error.filename}: {error.strerror}")
        _leave(1)


def _with_resume_value(words: list[str]) -> list[str]:
    """The words of a command, in which --resume alone means --resume must."""
    found = []
    for word, following in zip(words, [*words[1:], ""], strict=True):
        bare = word == "--resume" and following not in ("never", "auto", "must")
        found.append("--resume=must" if bare else word)
    return found


def _say(text: str) -> None:
    try:
        typer.echo(f"perpixel: {text}", err=True)
    except OSError:  # nobody reads it; the exit code still tells
        redirect_to_devnull(sys.stderr)


def _leave(code: int) -> NoReturn:
    """Ends this process. One rank of several ends without Python's taking down: after an error the
    group is still there, and threads of gloo's may abort a Python that is half gone, with a code of
    their own (PyTorch's pull request 179291).
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        for worker in multiprocessing.active_children():
            worker.terminate()
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
