"""Memory: allocators' errors as OutOfMemoryError, and the peak of what a function uses."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import torch
from torch.nn.functional import conv2d

from perpixel.errors import OutOfMemoryError
from perpixel.runtime.heap import keep_freed


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


def can_measure_peak(device: torch.device) -> bool:
    """Whether `peak_bytes` can measure on this device: on a CPU it needs Linux."""
    return device.type == "cuda" or Path("/proc/self/status").exists()


def peak_bytes(run: Callable[[], None], device: torch.device) -> int:
    """Returns the peak memory of `run`, in a process that has not used the device before.

    On CUDA it is `torch.cuda.max_memory_allocated`. On a CPU it is the rise of the process's
    resident memory from before `run` to its peak; more than the free memory is refused from here on
    (MemoryError or RuntimeError), rather than swapped.
    """
    if device.type == "cuda":
        run()
        return torch.cuda.max_memory_allocated(device)
    keep_freed()  # as the commands do
    # Libraries load code at their first use: this memory is not that of `run`.
    small = conv2d(torch.ones(1, 3, 8, 8, requires_grad=True), torch.ones(8, 3, 3, 3))
    torch.autograd.backward(small.sum())
    _limit_to_free_memory()
    before = _kilobytes("/proc/self/status", "VmRSS")
    run()
    return 1024 * (_kilobytes("/proc/self/status", "VmHWM") - before)


def _limit_to_free_memory() -> None:
    """Makes allocations beyond the free memory fail, rather than swap or have a process killed."""
    import resource  # not on Windows, where this is not called

    free = _kilobytes("/proc/meminfo", "MemAvailable") + _kilobytes("/proc/self/status", "VmData")
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = 1024 * free if hard == resource.RLIM_INFINITY else min(1024 * free, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _kilobytes(file: str, key: str) -> int:
    for line in Path(file).read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    raise AssertionError(f"{file} has no {key}")
