"""torch's own defaults, whatever the calling program has set."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_defaults(device: torch.device) -> Iterator[None]:
    """Inside, new tensors are float32 and on the CPU, and nothing on `device` is autocast.

    The random numbers drawn inside, on the CPU or `device`, are as if they had not been, after.
    """
    dtype, usual = torch.get_default_dtype(), torch.get_default_device()
    moved = usual.type != "cpu"
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        torch.autocast(device.type, enabled=False),
    ):
        torch.set_default_dtype(torch.float32)
        if moved:
            torch.set_default_device(None)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            if moved:
                torch.set_default_device(usual)
