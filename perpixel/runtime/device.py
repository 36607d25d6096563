"""The device that a run uses."""

import os
from typing import TypeVar

import torch
from torch import nn

from perpixel.errors import UsageError
from perpixel.runtime.distributed import get_dist_info
from perpixel.runtime.memory import oom_message

Module = TypeVar("Module", bound=nn.Module)


def resolve_device(name: str = "auto") -> torch.device:
    """Returns the device called `name`; "auto" is CUDA if there is a GPU, else the CPU.

    "auto" and "cuda" give every rank of a machine a GPU of its own. A GPU is CUDA's current device
    from here on. Raises UsageError for another name, or a device that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.partition(":")[0] not in ("cpu", "cuda"):
        raise UsageError(f"device {name!r}: there are auto, cpu, cuda and cuda:N")
    if name.startswith("cuda") and get_dist_info().world_size > 1:
        if name != "cuda":
            raise UsageError(f"device {name!r} would be every rank's: cuda gives each its own")
        name = f"cuda:{get_dist_info().local_rank}"
    try:
        device = torch.device(name)
        actual = torch.empty(0, device=device).device  # with its number
        if actual.type == "cuda":
            torch.cuda.set_device(actual)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"device {name!r} cannot be used here: {reason}") from None
    return device


def copies_pinned(device: torch.device) -> bool:
    """Whether tensors in pinned memory are copied to the device faster."""
    return device.type == "cuda"


def default_workers(device: torch.device) -> int:
    """Returns how many processes load data by default: on a CPU none, else a rank's share, 1..8."""
    if device.type != "cuda":
        return 0
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min((os.cpu_count() or 1) // ranks_here, 8))


def to_device(model: Module, device: torch.device | str) -> Module:
    """Moves the model to a device, its convolutions laid out channels-last (faster there).

    Raises OutOfMemoryError where the device has no room for it.
    """
    with oom_message(f"the model on {device}", hint="another process may be using it"):
        return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
