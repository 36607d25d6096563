"""Versions and hardware, which a run's figures depend on."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from perpixel.errors import plural
from perpixel.runtime.distributed import get_dist_info


def environment_info() -> dict[str, str | int | None]:
    """Returns versions, processor, cores and GPU, as a run records them."""
    packages = ("perpixel", "timm", "numpy", "opencv-python-headless", "pillow")
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,  # with its build, such as +cu130
        **{name: _version(name) for name in packages},
        "CUDA": torch.version.cuda,
        "system": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "ranks": get_dist_info().world_size,
    }


def describe_device(device: torch.device) -> str:
    """Returns what a device is, for tables: the GPU's name, or the processor's and its threads."""
    if device != torch.device("cpu"):
        return torch.cuda.get_device_name(device)
    return f"{processor()}, {plural(torch.get_num_threads(), 'thread')}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # installed under another name, or not installed but on the path
        return None


def processor() -> str:
    """The processor's name."""
    try:
        with open("/proc/cpuinfo") as file:
            line = next(line for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
    return line.partition(":")[2].strip()
