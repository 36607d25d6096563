"""The machine a run finds itself on: device and number format."""

import os

import torch

from perpixel.errors import UsageError


def device(name: str = "auto") -> torch.device:
    """The device called `name`; "auto" is CUDA where there is one, else the CPU.

    Raises UsageError for a name torch does not know or a device that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"device {name!r} cannot be used here: {reason}") from None
    return found


def precision(name: str, where: torch.device) -> torch.dtype:
    """The number format of a recipe's `precision` on this device.

    "auto" is bfloat16 where the hardware multiplies it natively, else float32. Raises UsageError
    for a name there is not.
    """
    match name:
        case "auto":
            return torch.bfloat16 if _native_bfloat16(where) else torch.float32
        case "float32":
            return torch.float32
        case "bfloat16":
            return torch.bfloat16
        case _:
            raise UsageError(f"precision {name!r}: there are float32, bfloat16 and auto")


def refuse_ranks() -> None:
    """Raises UsageError under torchrun with several ranks, which training does not know yet."""
    ranks = os.environ.get("WORLD_SIZE", "1")
    if ranks != "1":
        raise UsageError(
            f"training on several ranks (WORLD_SIZE={ranks}) is not there yet: start one process"
        )


def _native_bfloat16(where: torch.device) -> bool:
    if where.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if where.type == "cpu":
        # Private names, but the only ones that torch 2.10 to 2.13 share.
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False
