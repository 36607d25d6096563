"""What benchmarks share: the machine's description, alternating timings, peak memory, results.

Run a benchmark from the repository's root: `python benchmarks/NAME.py`. Each prints a table and
writes benchmarks/results/NAME.json, with the machine's description. A benchmark says which device
it measures: that a machine has a GPU does not mean that it was used.
"""

import ctypes
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


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
            _wait_for_gpu()
            start = time.perf_counter()
            way()
            _wait_for_gpu()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def median(values: list[float]) -> float:
    """The middle of several measurements."""
    return statistics.median(values)


def peak_memory(script: str, *arguments: str) -> dict[str, float]:
    """Runs a Python script in a process of its own; the JSON object that it prints last."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], check=True, capture_output=True, text=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def reset_peak_memory(device: torch.device | str) -> None:
    """Lets the peak of this process begin anew (CUDA's, or Linux's peak resident memory)."""
    if _on_gpu(device):
        torch.cuda.reset_peak_memory_stats(device)
        return
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before is not to be used again unseen
    Path("/proc/self/clear_refs").write_text("5")


def memory_above(before: float, device: torch.device | str) -> float:
    """Bytes of the peak since the reset, less `before`; on CUDA of its tensors."""
    if _on_gpu(device):
        return torch.cuda.max_memory_allocated(device) - before
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024 - before
    raise RuntimeError("Linux says nothing of this process's peak memory")


def write_result(
    name: str, result: Mapping[str, object], *, device: torch.device | str = "cpu"
) -> Path:
    """Keeps what the device did with the machine's description and the command, as some measure a
    part alone; a GPU's in a file named after it. Of absolute paths, which mean nothing elsewhere,
    the names.
    """
    described = machine(device)
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    command = shlex.join([f"benchmarks/{Path(sys.argv[0]).name}", *words])
    gpu = described["gpu"]
    suffix = f"-{str(gpu).lower().replace(' ', '-')}" if gpu else ""
    path = RESULTS / f"{name}{suffix}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": described, "command": command, **result}
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path


def _on_gpu(device: torch.device | str) -> bool:
    return torch.device(device).type == "cuda"


def _wait_for_gpu() -> None:
    if torch.cuda.is_initialized():  # work on the CPU alone starts no GPU
        torch.cuda.synchronize()


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
