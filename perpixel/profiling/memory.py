"""Measures the peak memory of a forward pass or a training step in a process of its own.

    python -m perpixel.profiling.memory < REQUEST.json

On CUDA it is `torch.cuda.max_memory_allocated`, weights included. On a CPU it is the rise of the
process's resident memory from before the model is built to its peak, on Linux only.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.functional import conv2d

from perpixel.acceleration.accelerate import accelerate
from perpixel.models.build import build
from perpixel.profiling.latency import inference_pass
from perpixel.recipes.base import Size, Spec
from perpixel.recipes.schema import Recipe
from perpixel.runtime.heap import keep_freed
from perpixel.training.step import make_train_state, train_step

TOO_LITTLE = "too little memory"


class Request(Spec):
    """What to measure; `training` runs two steps, as the second one has the optimizer's state."""

    recipe: Recipe
    num_classes: int
    size: Size
    batch: int
    device: str
    dtype: str
    training: bool


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak; or None, and the reason in `note`."""

    bytes: int | None
    note: str = ""


def peak_memory(request: Request) -> Memory:
    """Measures in a new process, so that running out of memory does not end this one."""
    if not Path("/proc/self/status").exists() and request.device == "cpu":
        return Memory(None, "memory on a CPU is measured on Linux only")
    process = subprocess.run(
        [sys.executable, "-m", "perpixel.profiling.memory"],
        input=request.model_dump_json(),
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode == 0:
        return Memory(int(process.stdout.split()[-1]))
    reason = (process.stderr.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
    if "alloc" in reason or "out of memory" in reason or process.returncode < 0:
        reason = TOO_LITTLE
    return Memory(None, reason)


def _measure(request: Request) -> int:
    device = torch.device(request.device)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = request.training  # as training sets it
        _run(request, device)
        return torch.cuda.max_memory_allocated(device)
    keep_freed()  # as the commands do
    # Libraries load code at their first use: this memory is not the model's.
    small = conv2d(torch.ones(1, 3, 8, 8, requires_grad=True), torch.ones(8, 3, 3, 3))
    torch.autograd.backward(small.sum())
    _limit_to_free_memory()
    before = _kilobytes("/proc/self/status", "VmRSS")
    _run(request, device)
    return 1024 * (_kilobytes("/proc/self/status", "VmHWM") - before)


def _run(request: Request, device: torch.device) -> None:
    recipe, dtype = request.recipe, getattr(torch, request.dtype)
    model = build(recipe.model, num_classes=request.num_classes)
    if not request.training:
        model = accelerate(model, device=device, dtype=dtype, training=False)
        images = torch.ones(request.batch, 3, *request.size, device=device)
        images = images.contiguous(memory_format=torch.channels_last)
        inference_pass(model, images, dtype=dtype)()
        return
    train_state = make_train_state(model, recipe, device=device, dtype=dtype)
    count = request.batch * recipe.train.grad_accum_steps  # micro-batches of `batch`
    images = torch.zeros(count, *request.size, 3, dtype=torch.uint8)
    labels = torch.zeros(count, *request.size, dtype=torch.uint8)
    for step in range(2):
        train_step(train_state, images, labels, recipe, step=step)


def _limit_to_free_memory() -> None:
    """Makes allocations beyond the free memory fail, rather than swap or have a process killed."""
    import resource  # not on Windows, where this is not called

    free = _kilobytes("/proc/meminfo", "MemAvailable") + _kilobytes("/proc/self/status", "VmData")
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = 1024 * free if hard == resource.RLIM_INFINITY else min(1024 * free, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _kilobytes(file: str, key: str) -> int:
    for line in Path(file).read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    raise AssertionError(f"{file} has no {key}")


if __name__ == "__main__":
    print(_measure(Request.model_validate_json(sys.stdin.read())))
