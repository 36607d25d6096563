"""What the C library does with memory that is freed."""

import ctypes
import os
import sys

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # malloc.h
_OVERRIDES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed() -> None:
    """Has this process keep what it frees for what it allocates next: glibc's heap, on Linux.

    A step or a pass frees tensors of tens of MB and asks for them again; glibc gives blocks above
    32 MB back to the system, which hands them out again page by page, zeroed. Blocks of 1 GiB and
    more still go back. Does nothing elsewhere, or where the user has set glibc's own variables.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _OVERRIDES):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        if not mallopt(_MMAP_THRESHOLD, 1 << 30):
            mallopt(_MMAP_THRESHOLD, 32 << 20)  # the most that glibc before 2.35 takes
        mallopt(_TRIM_THRESHOLD, -1)  # never
