"""Measures latency by pytorch-auto-drive's protocol, with percentiles of the single passes.

Its tools/profiling.py runs 10 warm-up passes, then three trials of 300, and prints the best mean.
Here a trial ends early after `seconds`, as 300 passes of a large model would take an hour on a CPU;
the number of passes is part of the result.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from perpixel.models.segmenter import Segmenter
from perpixel.runtime.dtype import autocast

TRIALS, WARM_UP, PASSES = 3, 10, 300


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a pass: the mean of the best trial, and percentiles over all trials.

    `passes` is the number of passes of every trial.
    """

    best: float
    p50: float
    p90: float
    passes: tuple[int, ...]


def inference_pass(model: Segmenter, images: Tensor, *, dtype: torch.dtype) -> Callable[[], Tensor]:
    """Returns a function that runs the model on `images`, normalized [N, 3, H, W].

    It returns logits [N, num_classes, H, W]: in the protocol upsampling is part of the time.
    """
    align_corners, size = model.spec.align_corners, images.shape[-2:]

    @torch.inference_mode()
    def run() -> Tensor:
        with autocast(images.device, dtype):
            logits = model(images).logits
        return interpolate(logits.float(), size=size, mode="bilinear", align_corners=align_corners)

    return run


def latency(run: Callable[[], object], device: torch.device, *, seconds: float = 10) -> Latency:
    """Times `run`, which computes on `device`; every trial has at least one pass.

    On CUDA, events in the stream time the single passes, and the device is synchronized only at
    both ends of a trial, as in the protocol.
    """
    for _ in _repeat(WARM_UP, seconds):
        run()
        _synchronize(device)
    trials = [
        _cuda_trial(run, device, seconds) if device.type == "cuda" else _trial(run, seconds)
        for _ in range(TRIALS)
    ]
    p50, p90 = np.percentile(np.concatenate(trials), [50, 90], method="inverted_cdf").tolist()
    return Latency(
        best=min(float(np.mean(trial)) for trial in trials),
        p50=p50,
        p90=p90,
        passes=tuple(len(trial) for trial in trials),
    )


def write_trace(run: Callable[[], object], device: torch.device, path: Path) -> None:
    """Writes a Chrome trace of one pass, after a warm-up."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    run()
    _synchronize(device)
    with torch.profiler.profile(activities=activities, record_shapes=True) as profiler:
        run()
        _synchronize(device)
    path.parent.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(path))


def _trial(run: Callable[[], object], seconds: float) -> list[float]:
    marks = [time.perf_counter()]
    for _ in _repeat(PASSES, seconds):
        run()
        marks.append(time.perf_counter())
    return [1000 * (after - before) for before, after in pairwise(marks)]


def _cuda_trial(run: Callable[[], object], device: torch.device, seconds: float) -> list[float]:
    def mark() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(device))
        return event

    _synchronize(device)
    # Passes are queued long before they are computed: one pass tells how many fit into `seconds`.
    start = time.perf_counter()
    run()
    _synchronize(device)
    count = min(PASSES, max(1, int(seconds / (time.perf_counter() - start))))
    marks = [mark()]
    for _ in range(count):
        run()
        marks.append(mark())
    _synchronize(device)
    return [before.elapsed_time(after) for before, after in pairwise(marks)]


def _repeat(count: int, seconds: float) -> Iterator[None]:
    """Yields `count` times, or as often as fits into `seconds`, and at least once."""
    start = time.perf_counter()
    for index in range(count):
        if index > 0 and time.perf_counter() - start >= seconds:
            return
        yield


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
