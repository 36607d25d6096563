"""torch's own defaults, whatever the calling program has set."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_defaults(device: torch.device) -> Iterator[None]:
    """Inside, new tensors are float32 and on the CPU, and nothing on `device` is autocast."""
    dtype, usual = torch.get_default_dtype(), torch.get_default_device()
    moved = usual.type != "cpu"
    with torch.autocast(device.type, enabled=False):
        torch.set_default_dtype(torch.float32)
        if moved:
            torch.set_default_device(None)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            if moved:
                torch.set_default_device(usual)
