"""What a run's figures depend on beside its recipe."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from perpixel.runtime.distributed import get_dist_info


def environment_info() -> dict[str, str | int | None]:
    """What a run's figures depend on beside its recipe: versions, processor, cores and GPU."""
    packages = ("perpixel", "numpy", "opencv-python-headless", "pillow")
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


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # installed under another name, or not installed but on the path
        return None


def processor() -> str:
    """The processor's name."""
    try:
        with open("/proc/cpuinfo") as file:
            found = next(line for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
    return found.partition(":")[2].strip()
