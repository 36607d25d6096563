"""Atomic file writes; helpers that silence streams and loggers."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from perpixel.errors import PerpixelError


@contextmanager
def reraise_oserror(path: Path) -> Iterator[None]:
    """Raises PerpixelError that names `path` in place of an OSError."""
    try:
        yield
    except OSError as error:
        raise PerpixelError(f"{path}: cannot be written ({error.strerror})") from None


@contextmanager
def atomic_replace(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """Yields a temporary path whose file replaces `path` at the end, or is deleted on an error.

    sync: flush the file and its folder to the disk, so that both survive a power cut. The temporary
    name depends on `path` alone: the next write replaces what a crash leaves behind.
    """
    path = path.resolve()  # a symbolic link stays one
    part = path.with_name(f".{path.name[-48:]}.part")  # file systems allow 255 bytes
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
        if sync:
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        part.replace(path)
        if sync:
            sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def atomic_write(path: Path, content: bytes) -> None:
    """Writes a file so that a reader, or a crash, sees the old content or the new, never a part.

    A device or a pipe is written to in place. Raises PerpixelError.
    """
    with reraise_oserror(path):
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_bytes(content)
            return
        with atomic_replace(path, sync=True) as part:
            part.write_bytes(content)


def sync_folder(folder: Path) -> None:
    """Flushes a folder's entries to the disk (does nothing on Windows); raises OSError."""
    if os.name == "nt":  # Windows opens no folder, and journals its entries itself
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def redirect_to_devnull(stream: IO[str]) -> None:
    """Redirects a stream whose reader is gone to the null device.

    Libraries write to it, too, and Python flushes it at exit and would change the exit code.
    """
    with suppress(OSError, ValueError):  # the stream is no file, or closed
        descriptor = stream.fileno()
        devnull = os.open(os.devnull, os.O_WRONLY)
        if devnull != descriptor:  # equal where the descriptor was closed
            os.dup2(devnull, descriptor)
            os.close(devnull)


@contextmanager
def mute_logger(library: str) -> Iterator[None]:
    """Hides a library's log messages below the level of errors."""
    logger = logging.getLogger(library)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
