"""Turns allocators' errors into OutOfMemoryError."""

from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import torch

from perpixel.errors import OutOfMemoryError


@contextmanager
def oom_message(what: str, *, hint: str) -> Iterator[None]:
    """Context that raises OutOfMemoryError "`what`: too little memory; `hint`" if memory runs out.

    Some errors of torch and OpenCV that mean this have no class of their own.
    """
    try:
        yield
    except (MemoryError, RuntimeError, cv2.error) as error:
        signs = ("DefaultCPUAllocator", "Insufficient memory")
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and not any(sign in str(error) for sign in signs):
            raise
        raise OutOfMemoryError(f"{what}: too little memory; {hint}") from None
