"""Measures latency by pytorch-auto-drive's protocol, with percentiles of the single passes.

Its tools/profiling.py runs 10 warm-up passes, then three trials of 300, and prints the best mean.
Here a trial has as many passes as fit into `seconds`, as 300 of a large model take an hour on a
CPU; the number of passes is part of the result.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from perpixel.models.segmenter import Segmenter
from perpixel.runtime.dtype import autocast
from perpixel.runtime.timing import mark, seconds_between, synchronize

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

    The device marks the time between passes and is synchronized only at both ends of a trial, as
    in the protocol.
    """
    warm_up = 0.0
    for index in range(WARM_UP):
        start = time.perf_counter()
        run()
        synchronize(device)
        elapsed = time.perf_counter() - start
        warm_up += elapsed
        if index > 0 and warm_up >= seconds:  # the first pass initializes much
            break
    count = min(PASSES, max(1, int(seconds / elapsed)))
    trials = [_trial(run, device, count) for _ in range(TRIALS)]
    p50, p90 = np.percentile(np.concatenate(trials), [50, 90], method="inverted_cdf").tolist()
    return Latency(
        best=min(float(np.mean(trial)) for trial in trials),
        p50=p50,
        p90=p90,
        passes=tuple(len(trial) for trial in trials),
    )


def write_trace(run: Callable[[], object], device: torch.device, path: Path) -> None:
    """Writes a Chrome trace of one pass, after a warm-up."""
    run()
    synchronize(device)
    activities = torch.profiler.supported_activities()  # type: ignore[no-untyped-call]
    with torch.profiler.profile(activities=activities, record_shapes=True) as profiler:
        run()
        synchronize(device)
    path.parent.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(path))


def _trial(run: Callable[[], object], device: torch.device, count: int) -> list[float]:
    """Times the `count` passes of one trial, in milliseconds."""
    marks = [mark(device)]
    for _ in range(count):
        run()
        marks.append(mark(device))
    synchronize(device)
    return [1000 * seconds_between(start, end) for start, end in pairwise(marks)]
