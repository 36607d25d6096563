"""Files that are there as a whole or not at all, and what nobody is to read."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from perpixel.errors import PerpixelError


@contextmanager
def reraise_oserror(path: Path) -> Iterator[None]:
    """Raises PerpixelError that names `path` where the system refuses something inside."""
    try:
        yield
    except OSError as error:
        raise PerpixelError(f"{path}: cannot be written ({error.strerror})") from None


@contextmanager
def atomic_replace(path: Path) -> Iterator[Path]:
    """Where to write what takes `path`'s place at the end, or goes away with an error.

    What a crash leaves behind has a name of its own, which the next writing takes again.
    """
    path = path.resolve()  # a link stays a link
    part = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def atomic_write(path: Path, *content: bytes | memoryview) -> None:
    """Writes a file so that a reader, or a crash, sees the old content or the new, never a part.

    `content`'s pieces follow one another. Raises PerpixelError.
    """
    with reraise_oserror(path):
        if path.exists() and not path.is_file() and not path.is_dir():
            with path.open("wb") as file:  # a device or pipe is not ours to replace
                file.writelines(content)
            return
        with atomic_replace(path) as part, part.open("wb") as file:
            file.writelines(content)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.resolve().parent)


def sync_folder(folder: Path) -> None:
    """Returns when the names in a folder would survive a power cut; raises OSError."""
    if os.name == "nt":  # Windows opens no folder, and keeps names in a journal of its own
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def redirect_to_devnull(stream: IO[str]) -> None:
    """Makes a stream that nobody reads any more lead nowhere.

    Others write to it, too, and Python, which empties it at its end, would exit with a code of its
    own.
    """
    with suppress(OSError, ValueError):  # no file, or a closed one
        descriptor = stream.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        if nowhere != descriptor:  # which was closed, then
            os.dup2(nowhere, descriptor)
            os.close(nowhere)


@contextmanager
def mute_logger(library: str) -> Iterator[None]:
    """Inside, a library's logger tells of nothing less than errors."""
    logger = logging.getLogger(library)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
