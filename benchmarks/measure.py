"""What benchmarks share: alternating timings, memory, processes, what is printed and kept of them.

Run a benchmark from the repository's root: `python benchmarks/NAME.py`. Each prints a table and
writes benchmarks/results/NAME.json, with the machine's description. A benchmark says which device
it measures: that a machine has a GPU does not mean that it was used.
"""

import ctypes
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import TypeVar
from unittest.mock import patch

import torch

RESULTS = Path(__file__).parent / "results"
UNITS = {
    "seconds": (1e3, "ms"),
    "bytes": (1e-9, "GB"),
    "rate": (1e-9, "GFLOP/s"),
    "share": (100, "%"),
    "per_second": (1, "images/s"),
    "miou": (1, "mIoU"),
    "ratio": (1, ""),
}
"""How the units of a result file are shown: a factor, and the unit after it."""

Found = TypeVar("Found")


def machine(device: torch.device | str) -> dict[str, object]:
    """Processor, cores, memory, GPU if it is the device, and the versions that decide speed."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(memory / 2**30, 1),
        "gpu": torch.cuda.get_device_name(device) if _on_gpu(device) else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def alternating(
    ways: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of every way, round after round in turn, so that a slow moment hits all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(warm_up + rounds):
        for name, way in ways.items():
            wait_for_gpu()
            start = time.perf_counter()
            way()
            wait_for_gpu()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def apart(work: Callable[..., Found], *given: object, **environment: str) -> Found:
    """What `work`, a module's function, returns in a process of its own with this environment."""
    with (
        patch.dict(os.environ, environment),
        ProcessPoolExecutor(1, get_context("spawn")) as process,
    ):
        return process.submit(work, *given).result()


def wait_for_gpu() -> None:
    if torch.cuda.is_initialized():  # work on the CPU alone starts no GPU
        torch.cuda.synchronize()


def extra_memory(work: Callable[[], object], device: torch.device | str) -> float:
    """Bytes that `work` holds at most beyond what is held already."""
    reset_peak_memory(device)
    before = peak_memory(device)
    work()
    return peak_memory(device) - before


def reset_peak_memory(device: torch.device | str) -> None:
    """Lets the peak of this process begin anew (CUDA's, or Linux's peak resident memory)."""
    if _on_gpu(device):
        torch.cuda.reset_peak_memory_stats(device)
        return
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before is not to be used again unseen
    Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device | str) -> int:
    """Bytes of the peak since the reset; on CUDA of its tensors."""
    return torch.cuda.max_memory_allocated(device) if _on_gpu(device) else proc_status("VmHWM")


def proc_status(key: str, process: int | str = "self") -> int:
    """Bytes of a process as Linux tells them: VmRSS is what it has now, VmHWM the peak."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))


def record(
    title: str,
    unit: str,
    values: Mapping[str, Sequence[float]],
    *,
    against: str = "mmsegmentation",
) -> dict[str, object]:
    """What a result file holds of one measurement. Prints the medians and how many times less each
    is than that of `against`, if it is among them.
    """
    scale, shown = UNITS[unit]
    print(title)
    for name, several in values.items():
        middle = median(several)
        less = f"{median(values[against]) / middle:8.2f} times less" if against in values else ""
        print(f"  {name:34} {digits(middle * scale):>10} {shown}{less}", flush=True)
    found = {"title": title, "unit": unit, "values": values}
    return found if against == "mmsegmentation" else {**found, "against": against}


def digits(value: float) -> str:
    """At least three digits of a number, and no more behind the point than that takes."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def write_result(
    name: str,
    result: Mapping[str, object],
    *,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
) -> Path:
    """Keeps what the device did with the machine's description and the command, as some measure a
    part alone; a GPU's in a file named after it. Of absolute paths, which mean nothing elsewhere,
    the names. `folder` takes the place of benchmarks/results.
    """
    described = machine(device)
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    command = shlex.join([f"benchmarks/{Path(sys.argv[0]).name}", *words])
    gpu = described["gpu"]
    suffix = f"-{str(gpu).lower().replace(' ', '-')}" if gpu else ""
    path = (folder or RESULTS) / f"{name}{suffix}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": described, "command": command, **result}
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path


def _on_gpu(device: torch.device | str) -> bool:
    return torch.device(device).type == "cuda"


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
