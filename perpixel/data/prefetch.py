"""Images read in threads, ahead of the work on them."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")


def cores() -> int:
    """How many processor cores this process may use; the machine may have more."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def read_ahead(
    read: Callable[[Item], Read], items: Iterable[Item], *, threads: int
) -> Iterator[Read]:
    """`read` of every item in turn; at most `threads` results wait. An error comes in its turn.

    Decoding leaves Python's lock, so threads are enough. 0 threads read when asked.
    """
    if threads == 0:
        yield from map(read, items)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="read")
    waiting: deque[Future[Read]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
