"""Turns allocators' errors into OutOfMemoryError."""

from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import torch

from perpixel.errors import OutOfMemoryError


@contextmanager
def memory_for(what: str, *, fix: str) -> Iterator[None]:
    """Raises OutOfMemoryError, "`what`: too little memory; `fix`", where an allocator gives up.

    For some of their errors torch and OpenCV have no class of their own.
    """
    try:
        yield
    except (MemoryError, RuntimeError, cv2.error) as error:
        signs = ("DefaultCPUAllocator", "Insufficient memory")
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and not any(sign in str(error) for sign in signs):
            raise
        raise OutOfMemoryError(f"{what}: too little memory; {fix}") from None
