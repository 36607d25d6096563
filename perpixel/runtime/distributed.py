"""The machine a run finds itself on: device, number format, and the other processes of the run."""

import logging
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor
from torch import distributed as dist

from perpixel.errors import PerpixelError, UsageError

_LOG = logging.getLogger(__name__)
_PATIENCE = timedelta(days=1)
"""How long a rank waits for others that have more to do; a lost one is torchrun's to notice."""


@dataclass(frozen=True)
class DistInfo:
    """This process among those that torchrun started; `local_rank` counts those of one machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that speaks and writes."""
        return self.rank == 0


def get_dist_info() -> DistInfo:
    """torchrun's environment; a process of its own is rank 0 of 1."""
    said = os.environ.get
    return DistInfo(
        int(said("RANK", "0")), int(said("WORLD_SIZE", "1")), int(said("LOCAL_RANK", "0"))
    )


@contextmanager
def process_group(device: torch.device) -> Iterator[DistInfo]:
    """The ranks, joined for the time inside: NCCL on CUDA, gloo on CPUs. One rank joins nothing.

    Raises PerpixelError when another rank cannot be reached, as after its end.
    """
    dist_info = get_dist_info()
    if dist_info.world_size == 1 or dist.is_initialized():
        yield dist_info
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
        yield dist_info
    except (dist.DistError, RuntimeError) as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise PerpixelError(
                f"rank {dist_info.rank} cannot reach the other ranks; if one of them has ended, "
                f"its error is the one to fix ({_first_and_last_line(error)})"
            ) from error
        raise
    # After an error the group is left alone: to take it down would wait for ranks that are stuck.
    dist.destroy_process_group()


def _first_and_last_line(error: Exception) -> str:
    """Where it happened, and NCCL's reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ... ".join(dict.fromkeys([*lines[:1], *lines[-1:]]))


def all_reduce_sum(values: Tensor) -> Tensor:
    """The sum of every rank's `values`, on every rank; the same tensor where there is one rank."""
    if dist.is_available() and dist.is_initialized():
        total = values.clone()
        dist.all_reduce(total)
        return total
    return values


def all_gather_text(text: str) -> list[str]:
    """Every rank's `text`, on every rank, in their order."""
    content = text.encode(errors="surrogateescape")  # file names may be of any bytes
    size = int(all_gather_ints([len(content)]).max())
    rows = all_gather_ints(list(content.ljust(size, b"\0"))).tolist()
    return [bytes(row).rstrip(b"\0").decode(errors="surrogateescape") for row in rows]


def all_gather_ints(row: Sequence[int]) -> Tensor:
    """Every rank's row of as many numbers, on every rank: int64 [ranks, numbers]."""
    dist_info = get_dist_info()
    on_gpu = dist.is_initialized() and dist.get_backend() == "nccl"
    rows = torch.zeros(
        dist_info.world_size, len(row), dtype=torch.int64, device="cuda" if on_gpu else "cpu"
    )
    rows[dist_info.rank] = torch.tensor(row, dtype=torch.int64)
    return all_reduce_sum(rows)


def barrier() -> None:
    """Returns when every rank has come here."""
    all_gather_ints([0])


def resolve_device(name: str = "auto") -> torch.device:
    """The device called `name`; "auto" is CUDA where there is one, else the CPU.

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
        found = torch.device(name)
        there = torch.empty(0, device=found).device  # with its number
        if there.type == "cuda":
            torch.cuda.set_device(there)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"device {name!r} cannot be used here: {reason}") from None
    return found


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The number format of a recipe's `precision` on this device.

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


@contextmanager
def no_tf32(device: torch.device) -> Iterator[None]:
    """Inside, float32 numbers are multiplied exactly there."""
    if not uses_tf32(device):
        yield
        return
    _use_tf32(False)
    try:
        yield
    finally:
        _use_tf32(True)


def uses_tf32(device: torch.device) -> bool:
    """Whether float32 numbers are multiplied as TF32 there."""
    return device.type == "cuda" and torch.backends.cuda.matmul.fp32_precision == "tf32"


def _use_tf32(wanted: bool) -> None:
    # The older interface alone would leave convolutions what the newer one says of all operations.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = wanted
    for part in ("conv", "rnn"):
        getattr(torch.backends.cudnn, part).fp32_precision = "tf32" if wanted else "ieee"


@contextmanager
def cudnn_mode(*, deterministic: bool) -> Iterator[None]:
    """Inside, CUDA's fastest kernels for tensors of one size, or those of the same bits every time.

    Where torch has no such kernel it warns. On a CPU every kernel here gives the same bits.
    """
    benchmark = torch.backends.cudnn.benchmark
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not deterministic
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


def environment_info() -> dict[str, str | int | None]:
    """What a run's figures depend on beside its recipe: versions, processor, cores and GPU."""
    packages = ("perpixel", "numpy", "opencv-python-headless", "pillow")
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,  # with its build, such as +cu130
        **{name: _version(name) for name in packages},
        "CUDA": torch.version.cuda,
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "ranks": get_dist_info().world_size,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # installed under another name, or not installed but on the path
        return None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            found = next(line for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
    return found.partition(":")[2].strip()


def _cpu_has(name: str) -> bool:
    """Whether oneDNN multiplies bfloat16 or float16 here; True where torch is built without it."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return True
    if name == "float16":
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _fastest(device: torch.device) -> torch.dtype:
    """The precision "auto" on a device."""
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16
        volta = (7, 0)  # the first with tensor cores
        return torch.float16 if torch.cuda.get_device_capability(device) >= volta else torch.float32
    # Private names, but the only ones that torch 2.10 to 2.13 share. Intel's AVX-512 multiplies
    # bfloat16 no faster than float32 (benchmarks/networks.py); its AMX and AMD's AVX-512 do.
    wide = torch.cpu._is_avx512_bf16_supported() and "Intel" not in _processor()
    return torch.bfloat16 if torch.cpu._is_amx_tile_supported() or wide else torch.float32
