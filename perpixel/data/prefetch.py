"""Reads images in threads, ahead of their use, or writes them behind."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """The number of processor cores that this process may use; the machine may have more."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def read_ahead(
    read: Callable[[Item], Result], items: Iterable[Item], *, threads: int
) -> Iterator[Result]:
    """Yields `read(item)` for every item in order, at most `threads` results ahead.

    So `read` may also write an item while `items` makes the next. Errors are raised in order, too.
    0 threads read each item when it is needed. Decoding and encoding release the GIL, so threads
    suffice.
    """
    if threads == 0:
        yield from map(read, items)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="read")
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
