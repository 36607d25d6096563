"""The number format that a run computes in."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from perpixel.errors import UsageError
from perpixel.runtime.environment import processor

_LOG = logging.getLogger(__name__)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Returns the dtype of a recipe's `precision` on this device.

    "auto" is bfloat16 where the hardware multiplies it faster than float32, float16 on GPUs whose
    tensor cores know nothing else (V100, T4, RTX 20xx), and float32 elsewhere. From here on CUDA
    multiplies float32 numbers as TF32 if it is "tf32", and exactly otherwise: torch's own default
    for convolutions is TF32, with 10 bits of fraction. What a CPU is ill suited to is logged as a
    warning. Raises UsageError for a name there is not.
    """
    if name not in ("auto", "float32", "tf32", "bfloat16", "float16"):
        raise UsageError(f"precision {name!r}: there are float32, tf32, bfloat16, float16 and auto")
    if device.type == "cuda":
        _use_tf32(name == "tf32")
    elif name == "tf32":
        _LOG.warning("tf32 is a format of CUDA's: this CPU computes in float32 in its place")
    elif name in ("bfloat16", "float16") and not _cpu_has(name):
        _LOG.warning(
            f"this CPU has no instructions for {name}, and is many times slower in it than in "
            f"float32; the precision auto goes by the machine"
        )
    if name == "auto":
        return _fastest(device)
    dtypes = {"bfloat16": torch.bfloat16, "float16": torch.float16}
    return dtypes.get(name, torch.float32)


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """torch's autocast to `dtype`, switched off for float32.

    Without its cache: torch clears that only when the outermost autocast ends. Inside a caller's
    own autocast the cached casts of the first step's weights would serve every later step.
    """
    return torch.autocast(
        device.type, dtype=dtype, enabled=dtype != torch.float32, cache_enabled=False
    )


@contextmanager
def no_tf32(device: torch.device) -> Iterator[None]:
    """Context in which CUDA multiplies float32 exactly, not as TF32."""
    if not uses_tf32(device):
        yield
        return
    _use_tf32(False)
    try:
        yield
    finally:
        _use_tf32(True)


def uses_tf32(device: torch.device) -> bool:
    """Whether the device multiplies float32 as TF32."""
    return device.type == "cuda" and torch.backends.cuda.matmul.fp32_precision == "tf32"


def _use_tf32(enabled: bool) -> None:
    # The older interface alone would leave convolutions what the newer one says of all operations.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = enabled
    for part in ("conv", "rnn"):
        getattr(torch.backends.cudnn, part).fp32_precision = "tf32" if enabled else "ieee"


@contextmanager
def no_kernel_search() -> Iterator[None]:
    """Context in which cuDNN does not time its kernels, as it would for every new image size."""
    benchmark = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = benchmark


@contextmanager
def cudnn_mode(*, deterministic: bool, one_size: bool = True) -> Iterator[None]:
    """Context in which cuDNN searches the fastest kernels, or only deterministic ones are used.

    The search is for inputs of `one_size`: it would begin anew with every other.

    Where torch has no such kernel it warns. On a CPU every kernel here gives the same bits.
    """
    benchmark = torch.backends.cudnn.benchmark
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = one_size and not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by cuBLAS's first call
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = benchmark
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


def _cpu_has(name: str) -> bool:
    """Whether oneDNN multiplies bfloat16 or float16 here; True where torch is built without it."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return True
    if name == "float16":
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _fastest(device: torch.device) -> torch.dtype:
    """Returns the dtype of precision "auto" on a device."""
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16
        volta = (7, 0)  # the first with tensor cores
        return torch.float16 if torch.cuda.get_device_capability(device) >= volta else torch.float32
    # Private names, but the only ones that torch 2.10 to 2.13 share. Intel's AVX-512 multiplies
    # bfloat16 no faster than float32 (benchmarks/networks.py); its AMX and AMD's AVX-512 do.
    wide = torch.cpu._is_avx512_bf16_supported() and "Intel" not in processor()
    return torch.bfloat16 if torch.cpu._is_amx_tile_supported() or wide else torch.float32
