"""torch's own defaults, whatever the calling program has set."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch


@contextmanager
def torch_defaults(device: torch.device) -> Iterator[None]:
    """Inside, new tensors are float32 and on the CPU, and nothing on `device` is autocast.

    The default dtype is the process's: a program that set another uses one thread at a time.
    """
    dtype, moved = torch.get_default_dtype(), torch.get_default_device().type != "cpu"
    with (
        torch.autocast(device.type, enabled=False),
        torch.device("cpu") if moved else nullcontext(),
    ):
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
