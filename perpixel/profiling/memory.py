"""Measures the peak memory of a forward pass or a training step in a process of its own.

python -m perpixel.profiling.memory < REQUEST.json
"""

import subprocess
import sys
from dataclasses import dataclass
from functools import partial

import torch

from perpixel.acceleration.accelerate import accelerate
from perpixel.models.build import build
from perpixel.profiling.latency import inference_pass
from perpixel.recipes.base import Size, Spec
from perpixel.recipes.schema import Recipe
from perpixel.runtime.memory import can_measure_peak, peak_bytes
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
    if not can_measure_peak(torch.device(request.device)):
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


if __name__ == "__main__":
    request = Request.model_validate_json(sys.stdin.read())
    device = torch.device(request.device)
    torch.backends.cudnn.benchmark = request.training  # as training sets it
    print(peak_bytes(partial(_run, request, device), device))
