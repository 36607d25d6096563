"""The lock on a folder that one run trains in."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from perpixel.distributed import Ranks
from perpixel.errors import PerpixelError
from perpixel.writing import writing


@contextmanager
def alone_in(out: Path, own: Ranks) -> Iterator[None]:
    """Holds the run's folder for its ranks, so that no second run can train in it.

    Raises PerpixelError when another does, or when the folder cannot be written.
    """
    if not own.main:
        yield
        return
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        # A lost machine's lock may live on for a while on a shared file system.
        lock = FileLock(out / ".lock", timeout=120 if own.world > 1 else 0)
        try:
            lock.acquire()
        except Timeout:
            raise PerpixelError(f"{out}: another process is training there") from None
    try:
        yield
    finally:
        lock.release()
