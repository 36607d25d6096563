"""What a run writes beside its weights, and what its progress line says."""

import json
import os
import pty
import sys
import threading
import time

import pytest
import torch

from perpixel.errors import PerpixelError
from perpixel.training import run_logger as journals
from perpixel.training.checkpoint import Progress
from perpixel.training.run_logger import RunLogger, ThroughputMeter, bottleneck


def scalars(folder) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return {
        tag: [(event.step, event.value) for event in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def test_event_files_hold_the_rows_and_a_resumed_run_replaces_them(tmp_path):
    pytest.importorskip("tensorboard")
    with RunLogger(tmp_path, Progress(0), steps=4, tensorboard=True) as logger:
        for step in (1, 2, 3):
            logger.log_metrics({"step": step, "loss": step / 2}, "a line")
        logger.log_metrics({"step": 3, "miou": 50.0}, "a line")
    assert scalars(tmp_path / "tensorboard") == {
        "loss": [(1, 0.5), (2, 1.0), (3, 1.5)], "miou": [(3, 50.0)],
    }  # fmt: skip
    with RunLogger(tmp_path, Progress(2), steps=4, tensorboard=True) as logger:
        logger.log_metrics({"step": 3, "loss": 9.0}, "a line")
    assert scalars(tmp_path / "tensorboard")["loss"] == [(1, 0.5), (2, 1.0), (3, 9.0)]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]


def test_without_being_asked_for_there_are_none(tmp_path):
    with RunLogger(tmp_path, Progress(0), steps=1) as logger:
        logger.log_metrics({"step": 1, "loss": 1.0}, "a line")
    assert not (tmp_path / "tensorboard").exists()


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(PerpixelError, match=r"perpixel\[tensorboard\]"):
        RunLogger(tmp_path, Progress(0), steps=1, tensorboard=True)


def test_the_environment_is_written_down(tmp_path):
    with RunLogger(tmp_path, Progress(0), steps=1):
        pass
    found = json.loads((tmp_path / "environment.json").read_text())
    assert found["torch"] == torch.__version__
    assert found["cores"] == os.cpu_count()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["system"]


def test_the_clock_tells_waiting_from_working(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock = ThroughputMeter(torch.device("cpu"), images=2)
    for _ in range(4):
        with clock.waiting():
            now[0] += 0.3
        now[0] += 0.7
    assert clock.read() == pytest.approx((2.0, 0.3))
    now[0] += 1
    assert clock.read() == pytest.approx((0.0, 0.0))  # since the last reading


def test_on_a_gpu_only_its_own_idle_time_counts(monkeypatch):
    """The GPU is still busy for 2 s when the program begins to wait for 3 s."""
    now, busy_until = [100.0], [0.0]

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: None) -> None:
            self.at = max(now[0], busy_until[0])

        def synchronize(self) -> None:
            now[0] = max(now[0], self.at)

        def elapsed_time(self, other: "Event") -> float:
            return 1000 * (other.at - self.at)

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    clock = ThroughputMeter(torch.device("cuda"), images=1)
    busy_until[0] = 102.0
    with clock.waiting():
        now[0] += 3
    now[0] += 1
    assert clock.read() == pytest.approx((0.25, 0.25))  # idle from 102 to 103, of 4 s
    busy_until[0] = 200.0
    with clock.waiting():  # images come while it still computes
        now[0] += 50
    assert clock.read()[1] == 0


def test_the_bottleneck_is_said_in_words():
    assert bottleneck(0.034) == "data 3%, bound by compute"
    assert bottleneck(0.43) == "data 43%, bound by data"
    assert 0 < journals._MUCH < 0.5


@pytest.mark.parametrize("ends", [os.pipe, pty.openpty], ids=["pipe", "terminal"])
def test_it_goes_on_when_nobody_reads_what_it_says(tmp_path, monkeypatch, ends):
    reader, writer = ends()
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with RunLogger(tmp_path, Progress(0), steps=2) as logger:
            logger.log_metrics({"step": 1, "loss": 1.0}, "heard")
            os.close(reader)
            logger.set_step(2)
            logger.info("unheard")
            logger.log_metrics({"step": 2, "loss": 1.0}, "unheard, too")
        print("what others write there", file=stream, flush=True)
    log = (tmp_path / "log.txt").read_text()
    assert [line.split(maxsplit=1)[1] for line in log.splitlines()] == [
        "heard", "unheard", "unheard, too",
    ]  # fmt: skip


def test_a_terminal_that_goes_away_stops_no_live_line(tmp_path, monkeypatch):
    """It is drawn by a thread of its own, whose end would be told at length."""
    reader, writer = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    failed = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with RunLogger(tmp_path, Progress(0), steps=2) as logger:
            os.close(reader)
            logger._bar.live.refresh()
            time.sleep(0.3)  # it draws ten times a second
    assert failed == []
