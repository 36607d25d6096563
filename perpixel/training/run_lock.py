"""A lock on the run folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from perpixel.errors import PerpixelError
from perpixel.io.atomic import reraise_oserror
from perpixel.runtime.distributed import DistInfo


@contextmanager
def run_lock(out: Path, dist_info: DistInfo) -> Iterator[None]:
    """Locks the run folder, so that no second run can train in it.

    Raises PerpixelError when another does, or when the folder cannot be written.
    """
    if not dist_info.is_main:
        yield
        return
    with reraise_oserror(out):
        out.mkdir(parents=True, exist_ok=True)
        # A lost machine's lock may live on for a while on a shared file system.
        lock = FileLock(out / ".lock", timeout=120 if dist_info.world_size > 1 else 0)
        try:
            lock.acquire()
        except Timeout:
            raise PerpixelError(f"{out}: another process is training there") from None
    try:
        yield
    finally:
        lock.release()
