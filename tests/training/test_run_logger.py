"""What a run writes beside its weights, and what its progress line says."""

import json
import os
import pty
import re
import struct
import sys
import termios
import threading
import time
from contextlib import contextmanager, suppress
from fcntl import ioctl
from types import SimpleNamespace

import pytest
import torch
from test_run import TINY

import perpixel
from perpixel.errors import PerpixelError
from perpixel.recipes.overrides import flat_settings
from perpixel.training import run_logger as journals
from perpixel.training.checkpoint import Progress
from perpixel.training.loggers import open_loggers
from perpixel.training.run_logger import RunLogger, ThroughputMeter, bottleneck


def scalars(folder) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return {
        tag: [(event.step, event.value) for event in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


@contextmanager
def logger(folder, *, after=0, steps=4, loggers=(), quiet=False):
    recipe = perpixel.override(TINY, [f"train.steps={steps}"])
    folder.mkdir(exist_ok=True)
    with (
        open_loggers(loggers, folder, recipe, first_step=after, quiet=quiet) as write_row,
        RunLogger(
            folder, Progress(after), steps=steps, write_row=write_row, quiet=quiet
        ) as run_logger,
    ):
        yield run_logger


def test_event_files_hold_the_rows_and_a_resumed_run_replaces_them(tmp_path):
    pytest.importorskip("tensorboard")
    with logger(tmp_path, loggers=["tensorboard"]) as log:
        for step in (1, 2, 3):
            log.log_metrics({"step": step, "loss": step / 2}, "a line")
        log.log_metrics({"step": 3, "miou": 50.0}, "a line")
    assert scalars(tmp_path / "tensorboard") == {
        "loss": [(1, 0.5), (2, 1.0), (3, 1.5)], "miou": [(3, 50.0)],
    }  # fmt: skip
    with logger(tmp_path, after=2, loggers=["tensorboard"]) as log:
        log.log_metrics({"step": 3, "loss": 9.0}, "a line")
    assert scalars(tmp_path / "tensorboard")["loss"] == [(1, 0.5), (2, 1.0), (3, 9.0)]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]


class Wandb(SimpleNamespace):
    """A stand-in for the module wandb, as far as a run uses it."""

    def __init__(self) -> None:
        super().__init__(Settings=SimpleNamespace, runs=[], rows=[], axis=None)

    @contextmanager
    def init(self, **options):
        self.runs.append(options)
        yield SimpleNamespace(
            id=options["id"] or f"id{len(self.runs)}",
            log=self.rows.append,
            define_metric=lambda name, step_metric: setattr(self, "axis", (name, step_metric)),
        )


def test_wandb_gets_the_rows_and_the_recipe_and_a_resumed_run_is_the_same(tmp_path, monkeypatch):
    wandb = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    for after in (0, 2, 0):  # the last one starts anew
        with logger(tmp_path / "run", after=after, loggers=["wandb"]) as log:
            log.log_metrics({"step": after + 1, "loss": 0.5}, "a line")
    assert wandb.rows == [{"step": step, "loss": 0.5} for step in (1, 3, 1)]
    assert wandb.axis == ("*", "step")
    assert [run["id"] for run in wandb.runs] == [None, "id1", None]
    first = wandb.runs[0]
    assert (first["project"], first["name"], first["dir"]) == ("perpixel", "run", tmp_path / "run")
    assert first["config"]["train"]["steps"] == 4


class MlflowClient:
    """A stand-in for the class of this name, as far as a run uses it."""

    runs: dict[str, dict]  # of all clients
    address = ""

    def __init__(self, address: str) -> None:
        MlflowClient.address = address

    def get_experiment_by_name(self, name: str) -> None:
        assert name == "perpixel"

    def create_experiment(self, name: str) -> str:
        return f"of {name}"

    def create_run(self, experiment: str, run_name: str) -> SimpleNamespace:
        run = {"in": experiment, "name": run_name, "params": {}, "metrics": []}
        self.runs[f"id{len(self.runs)}"] = run
        return SimpleNamespace(info=SimpleNamespace(run_id=f"id{len(self.runs) - 1}"))

    def log_batch(self, run_id: str, metrics=(), params=()) -> None:
        assert len(params) <= 100  # MLflow's own limit
        self.runs[run_id]["params"] |= dict(params)
        self.runs[run_id]["metrics"] += [(name, value, step) for name, value, _, step in metrics]

    def update_run(self, run_id: str, status: str) -> None:
        self.runs[run_id]["status"] = status

    set_terminated = update_run


@pytest.fixture
def mlflow(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    entities = SimpleNamespace(Metric=lambda *values: values, Param=lambda *values: values)
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(MlflowClient=MlflowClient))
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    MlflowClient.runs = {}
    return MlflowClient


def test_mlflow_gets_the_rows_and_the_recipe_and_a_resumed_run_is_the_same(
    tmp_path, mlflow, monkeypatch
):
    folder = tmp_path / "run"
    with suppress(KeyboardInterrupt), logger(folder, loggers=["mlflow"]) as log:
        log.log_metrics({"step": 1, "loss": 0.5}, "a line")
        raise KeyboardInterrupt
    assert mlflow.address == f"sqlite:///{folder / 'mlflow.db'}"
    run = mlflow.runs["id0"]
    assert run["status"] == "FAILED"
    assert (run["in"], run["name"]) == ("of perpixel", "run")
    settings = flat_settings(perpixel.override(TINY, ["train.steps=4"]))
    assert run["params"] == {path: str(value) for path, value in settings.items()}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking")
    with logger(folder, after=1, loggers=["mlflow"]) as log:
        assert run["status"] == "RUNNING"
        log.log_metrics({"step": 2, "miou": 50.0}, "a line")
    assert (list(mlflow.runs), run["status"]) == (["id0"], "FINISHED")
    assert mlflow.address == "http://tracking"
    assert run["metrics"] == [("loss", 0.5, 1), ("miou", 50.0, 2)]


def test_a_run_goes_on_without_a_logger_that_fails(tmp_path, mlflow, monkeypatch, capsys):
    with logger(tmp_path, loggers=["mlflow"], quiet=True) as log:
        for request in ("log_batch", "set_terminated"):  # as if its server were gone
            monkeypatch.delattr(mlflow, request)
        for step in (1, 2):
            log.log_metrics({"step": step, "loss": 0.5}, "a line")
    err = capsys.readouterr().err
    assert err.startswith("--mlflow failed and gets no more rows: ")
    assert err.count("\n") == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    monkeypatch.delattr(mlflow, "create_run")
    with (
        pytest.raises(PerpixelError, match=r"--mlflow: .*create_run"),
        logger(tmp_path, loggers=["mlflow"]),
    ):
        pass


def test_real_wandb_keeps_a_run_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for after in (0, 2):
        with logger(tmp_path, after=after, loggers=["wandb"], quiet=True) as log:
            log.log_metrics({"step": after + 1, "loss": 0.5}, "a line")
    (name,) = {path.name.split("-")[3] for path in tmp_path.glob("wandb/offline-run-*")}
    assert name == (tmp_path / "wandb_run_id").read_text()


def test_real_mlflow_keeps_a_run_in_its_folder(tmp_path, monkeypatch):
    client = pytest.importorskip("mlflow").MlflowClient
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for after in (0, 2):
        with logger(tmp_path, after=after, loggers=["mlflow"]) as log:
            log.log_metrics({"step": after + 1, "loss": 0.5}, "a line")
    history = client(f"sqlite:///{tmp_path / 'mlflow.db'}").get_metric_history(
        (tmp_path / "mlflow_run_id").read_text(), "loss"
    )
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.5), (3, 0.5)]


def test_without_being_asked_for_there_are_none(tmp_path):
    with logger(tmp_path) as log:
        log.log_metrics({"step": 1, "loss": 1.0}, "a line")
    assert {path.name for path in tmp_path.iterdir()} == {
        "metrics.jsonl", "log.txt", "environment.json",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_extra_is_named(tmp_path, monkeypatch, name):
    for module in ("torch.utils.tensorboard", "wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, module, None)
    for given, message in (
        (name, rf"^--{name} needs .*perpixel\[{name}\]"),
        (f"x{name}", f"there is no logger 'x{name}'.*Did you mean {name}"),
    ):
        with pytest.raises(PerpixelError, match=message), logger(tmp_path, loggers=[given]):
            pass


@contextmanager
def terminal(monkeypatch, *, columns=80):
    """A terminal as stderr; yields a function that returns what was written to it, without
    colors."""
    reader, writer = pty.openpty()
    ioctl(writer, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("COLUMNS", "LINES", "NO_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    written = []

    def read() -> None:
        try:
            while chunk := os.read(reader, 4096):
                written.append(chunk)
        except OSError:  # how a terminal ends
            pass

    thread = threading.Thread(target=read)
    thread.start()
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(os, "get_terminal_size", lambda *_: os.terminal_size((columns, 24)))
        yield lambda: re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", b"".join(written).decode())
    thread.join()
    os.close(reader)


def test_at_80_columns_nothing_is_cut_and_all_lines_stay(tmp_path, monkeypatch):
    text = "step 16000  loss 0.1234  lr 1.00e-02  123.4 images/s  data 43%, bound by data"
    path = "/data/" + 9 * "long-folder-name/" + "model.safetensors"
    with terminal(monkeypatch) as screen, logger(tmp_path, after=15998, steps=160000) as log:
        for step in (15999, 16000):
            log.set_step(step)
            log._bar.refresh()
        log.log_metrics({"step": 16000, "loss": 0.1234}, text)
        log.show_evaluation(1, 5000)
        log._bar.refresh()
        log.show_evaluation(5000, 5000)
        log.info(f"the initial weights are those of the best of all the evaluations: {path}")
        log.set_step(16001)
        log._bar.refresh()
    shown = [line.rstrip() for line in screen().replace("\r", "\n").splitlines()]
    assert text in shown
    assert "the initial weights are those of the best of all the evaluations:" in shown
    assert path in shown  # one line, to be copied
    bars = [line for line in shown if "━" in line]
    assert any(
        re.match(r"train [━╸╺]{30,} +16000/160000 +\d+:\d\d:\d\d left", line) for line in bars
    )
    assert any(re.match(r"val   [━╸╺]{30,} +1/5000 +\d+:\d\d:\d\d left", line) for line in bars)
    assert all(len(line) <= 80 for line in bars)
    assert not any("…" in line for line in shown)
    assert not any(line.startswith("val") for line in shown[shown.index(path) :])


def test_a_run_says_how_long_it_takes_without_its_first_step(tmp_path, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    with logger(tmp_path, after=2, steps=102) as log:
        for step, seconds in enumerate((900, 60, 50, 70, 60, 60, 60), start=3):
            now[0] += seconds
            log.set_step(step)
            if step == 4:
                now[0] += 500
                log.show_evaluation(3, 3)
    assert capsys.readouterr().err == "about 95 minutes left, without evaluations\n"


def test_a_slow_run_writes_a_line_every_half_minute(tmp_path, monkeypatch, capsys):
    """Of its first step at once; an evaluation, too."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    due = []
    with logger(tmp_path, steps=5) as log:
        for step in (1, 2, 3, 4):
            now[0] += 20
            log.set_step(step)
            if log.is_line_due():
                due.append(step)
                log.info("a line")
        capsys.readouterr()
        for image in (1, 2, 3, 4):
            now[0] += 20
            log.show_evaluation(image, 4)
    assert due == [1, 3]
    assert capsys.readouterr().err == "evaluated 1 of 4 images\nevaluated 3 of 4 images\n"


def test_lines_in_between_are_no_rows(command, tmp_path, mini):
    small = [f"--set={path}={value}" for path, value in (
        ("train.steps", 4), ("train.batch_size", 2), ("train.log_every", 2),
        ("augment.crop_size", "32x32"), ("evaluate.every", "null"),
        ("model.backbone.base_channels", 8), ("model.head.channels", 8),
        ("model.head.fpn_channels", 8),
    )]  # fmt: skip
    words = ["train", "camvid/semantic_fpn_r18", "--data", mini, *small, "--device", "cpu"]
    code, _, err = command(*words, "--init", "none", "--out", tmp_path / "run")
    assert code == 0, err
    steps = [line.split()[1] for line in err.splitlines() if re.match(r"step \d+  loss", line)]
    assert steps == ["1", "2", "4"]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert [row["step"] for row in rows if "loss" in row] == [2, 4]

    code, _, err = command(*words, "--init", "none", "--out", tmp_path / "quiet", "--quiet")
    assert code == 0, err
    *warnings, last = err.splitlines()
    assert last.startswith("done: mIoU ")
    assert all("the masks show no" in line for line in warnings)
    logs = [(tmp_path / run / "log.txt").read_text() for run in ("run", "quiet")]
    assert len({len(log.splitlines()) for log in logs}) == 1


def test_the_environment_is_written_down(tmp_path):
    with logger(tmp_path, steps=1):
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
        with logger(tmp_path, steps=2) as log:
            log.log_metrics({"step": 1, "loss": 1.0}, "heard")
            os.close(reader)
            log.set_step(2)
            log.info("unheard")
            log.log_metrics({"step": 2, "loss": 1.0}, "unheard, too")
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
        with logger(tmp_path, steps=2) as log:
            os.close(reader)
            log._bar.live.refresh()
            time.sleep(0.3)  # it draws ten times a second
    assert failed == []
