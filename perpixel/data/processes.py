"""Processes that read pictures: how many are of use, and whether they can be started at all."""

import os
import sys
from multiprocessing.context import BaseContext

from perpixel.errors import PerpixelError


def cores() -> int:
    """How many processor cores this process may use; the machine may have more."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def require_startable(context: BaseContext) -> None:
    """Raises PerpixelError where processes of `context` die as they start.

    Those that are not forked import the running script first. A script that starts processes when
    it is imported kills them so, and its own process would wait for ever.
    """
    if context.get_start_method() == "fork":
        return
    process = context.Process(target=int)  # type: ignore[attr-defined]
    process.start()
    process.join()
    if process.exitcode != 0:
        raise PerpixelError(
            f"a process that was to read pictures has died as it started (exit code "
            f"{process.exitcode}): a script that starts any has its work below "
            f'`if __name__ == "__main__":`, and is a file, as every process imports it'
        )
