"""How long a pass takes: pytorch-auto-drive's protocol, and the single passes' distribution.

Its tools/profiling.py runs 10 passes to warm up, then takes the mean of 300, three times over, and
prints the best mean. Here a trial ends early when it has lasted `seconds`, as 300 passes of a large
model would take an hour on a CPU; how many were run is part of the result.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from perpixel.errors import PerpixelError
from perpixel.models.segmenter import Segmenter
from perpixel.runtime.dtype import autocast

TRIALS, WARM_UP, PASSES = 3, 10, 300


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a pass: the best trial's mean; half, and nine in ten, take at most p50, p90.

    `passes` counts those of every trial; p50 and p90 are over all of them.
    """

    best: float
    p50: float
    p90: float
    passes: tuple[int, ...]


def inference_pass(model: Segmenter, images: Tensor, *, dtype: torch.dtype) -> Callable[[], Tensor]:
    """A function that runs the model on `images`, normalized [N, 3, H, W], when it is called.

    It returns logits [N, classes, H, W]: in the protocol upsampling them is part of the time.
    """
    align, size = model.spec.align_corners, images.shape[-2:]

    @torch.inference_mode()
    def run() -> Tensor:
        with autocast(images.device, dtype):
            logits = model(images).logits
        return interpolate(logits.float(), size=size, mode="bilinear", align_corners=align)

    return run


def latency(run: Callable[[], object], device: torch.device, *, seconds: float = 10) -> Latency:
    """Times `run`, which works on `device`; every trial makes at least one pass.

    On CUDA the single passes are told apart by events in its stream, and waited for only at both
    ends of a trial, as the protocol asks.
    """
    for _ in _turns(WARM_UP, seconds):
        run()
        _wait(device)
    trials = [
        _cuda_trial(run, device, seconds) if device.type == "cuda" else _trial(run, seconds)
        for _ in range(TRIALS)
    ]
    single = sorted(value for values in trials for value in values)
    return Latency(
        best=min(statistics.fmean(values) for values in trials),
        p50=_at(single, 0.5),
        p90=_at(single, 0.9),
        passes=tuple(len(values) for values in trials),
    )


def write_trace(run: Callable[[], object], device: torch.device, path: Path) -> None:
    """Writes one warmed-up pass as a Chrome trace (.json or .json.gz); raises PerpixelError."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    run()
    _wait(device)
    with torch.profiler.profile(activities=activities, record_shapes=True) as profiler:
        run()
        _wait(device)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()  # the profiler itself says nothing of a file that it cannot write
        profiler.export_chrome_trace(str(path))
    except OSError as error:
        raise PerpixelError(f"{path}: cannot be written ({error.strerror})") from None


def _trial(run: Callable[[], object], seconds: float) -> list[float]:
    marks = [time.perf_counter()]
    for _ in _turns(PASSES, seconds):
        run()
        marks.append(time.perf_counter())
    return [1000 * (after - before) for before, after in pairwise(marks)]


def _cuda_trial(run: Callable[[], object], device: torch.device, seconds: float) -> list[float]:
    def mark() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(device))
        return event

    _wait(device)
    # Passes are queued long before they are done: how many fit into `seconds`, one of them tells.
    start = time.perf_counter()
    run()
    _wait(device)
    count = min(PASSES, max(1, int(seconds / (time.perf_counter() - start))))
    marks = [mark()]
    for _ in range(count):
        run()
        marks.append(mark())
    _wait(device)
    return [before.elapsed_time(after) for before, after in pairwise(marks)]


def _turns(most: int, seconds: float) -> Iterator[None]:
    """`most` turns, or as many as begin within `seconds`, and at least one."""
    start = time.perf_counter()
    for turn in range(most):
        if turn > 0 and time.perf_counter() - start >= seconds:
            return
        yield


def _at(ordered: list[float], share: float) -> float:
    """The smallest of the sorted values that `share` of them do not exceed."""
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
