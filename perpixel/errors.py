"""The errors a user meets. Everything else that escapes is a bug and keeps its traceback."""

from collections.abc import Iterator
from contextlib import contextmanager


class PerpixelError(Exception):
    """The work failed for a reason the user can fix: a file, a value, a machine. Exit code 1."""


class UsageError(PerpixelError):
    """The request itself was wrong: an unknown recipe, setting or flag value. Exit code 2."""


class CorruptFileError(PerpixelError):
    """A file cannot be read as what it should be: it is cut off, changed, or missing in a cache.

    Exit code 1.
    """


class OutOfMemoryError(PerpixelError):
    """Too little memory for the request; a smaller one may fit. Exit code 1."""


class StopTraining(Exception):
    """Raised by a function given to `perpixel.train` as `on_log`: the run ends in good order."""


class Interrupted(PerpixelError):
    """A signal asked the run to stop; it is saved and can be resumed. Exit code 75."""


def plural(count: int, noun: str) -> str:
    """Returns a count and its noun for a message: "1 image", "2 images", "2 classes"."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count} {noun}{ending}"


@contextmanager
def needs_extra(what: str, extra: str) -> Iterator[None]:
    """Context that turns a failed import into a PerpixelError that says what to install."""
    try:
        yield
    except ImportError as error:
        raise PerpixelError(f'{what} needs {error.name}: pip install "perpixel[{extra}]"') from None
