"""A run's logs: metrics.jsonl, log.txt, and what a terminal shows of a run."""

import json
import math
import textwrap
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from statistics import mean

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from perpixel.errors import PerpixelError, StopTraining, plural
from perpixel.io.atomic import atomic_write, redirect_to_devnull, reraise_oserror
from perpixel.runtime.environment import environment_info
from perpixel.runtime.timing import Mark, mark, seconds_between
from perpixel.training.checkpoint import Progress
from perpixel.training.loggers import Row

_ENVIRONMENT = "environment.json"

_MUCH = 0.2
"""A run that waits for images for more of its time than this is slowed by them."""

_LINE_EVERY = 30
"""Seconds after which a run whose lines are further apart writes one in between."""


class RunLogger:
    """Writes the logs of a run folder; a context manager that ends the progress bar.

    On resume, rows after step `done.step` are dropped, and that step's scores unless they were
    saved. Every row goes to metrics.jsonl, to `on_log` if given, and to `write_row`, which returns
    lines about failures. `data_root` goes to environment.json, for `read_data_root`. A `quiet`
    logger prints only the lines that are `always` printed; a `silent` one, as on all ranks but the
    main one, writes nothing.
    """

    def __init__(
        self,
        folder: Path,
        done: Progress,
        *,
        steps: int,
        data_root: Path | None = None,
        write_row: Callable[[Row], Iterable[str]] = lambda _: (),
        quiet: bool = False,
        silent: bool = False,
        on_log: Callable[[dict[str, float | int]], None] | None = None,
    ) -> None:
        self.finish_requested = False
        """Whether `on_log` has raised StopTraining."""
        self._on_log = on_log
        self._folder = folder
        self._write_row = write_row
        self._quiet = quiet
        self._silent = silent
        self._metrics = folder / "metrics.jsonl"
        if not silent:
            earlier = rows(self._metrics, up_to=done.step) if self._metrics.exists() else []
            if not done.is_scored:
                earlier = [row for row in earlier if row["step"] < done.step or "miou" not in row]
            text = "".join(json.dumps(row) + "\n" for row in earlier)
            atomic_write(self._metrics, text.encode())
            facts = environment_info()
            if data_root is not None:
                facts["data_root"] = str(data_root.absolute())
            atomic_write(folder / _ENVIRONMENT, json.dumps(facts, indent=2).encode())
        self._console = _Console(stderr=True, quiet=silent)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(style="dim", complete_style="green", finished_style="green"),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            console=self._console,
            transient=True,
            disable=silent or quiet or not self._console.is_terminal,
        )
        self._steps = steps
        self._train = self._bar.add_task("train", total=steps, completed=done.step, left="starting")
        self._images = self._bar.add_task("val", visible=False, left="")
        self._first_step = done.step + 1
        self._step_seconds: deque[float] = deque(maxlen=50)
        self._work_start = self._last_line = time.perf_counter()

    def __enter__(self) -> "RunLogger":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def set_step(self, step: int) -> None:
        """Moves the progress bar to `step`; says once how long the run takes, if that is long."""
        now = time.perf_counter()
        self._bar.update(self._train, completed=step)
        if step == self._first_step:  # it warms up, and gets a line at once
            self._last_line = -math.inf
        else:
            self._step_seconds.append(now - self._work_start)
            left = (self._steps - step) * mean(self._step_seconds)
            self._bar.update(self._train, left=f"{timedelta(seconds=round(left))} left")
            if step == self._first_step + 4 and left > 10:
                self.info(f"about {_rounded(left)} left, without evaluations")
        self._work_start = now

    def show_evaluation(self, done: int, total: int) -> None:
        """Moves the bar of an evaluation to `done` of `total` images; off a terminal, a line."""
        self._show_images("val", done, total, line="evaluated")

    def show_features(self, done: int, total: int) -> None:
        """Moves the bar of a frozen backbone's features, as `show_evaluation` does its own."""
        self._show_images("features", done, total, line="cached features of")

    def _show_images(self, name: str, done: int, total: int, *, line: str) -> None:
        now = time.perf_counter()
        seconds = round((now - self._work_start) / done * (total - done))
        left = f"{timedelta(seconds=seconds)} left"
        self._bar.update(
            self._images, description=name, completed=done, total=total, left=left,
            visible=done < total,
        )  # fmt: skip
        if done == total:
            self._bar.refresh()
            self._work_start = now
        elif self._bar.disable and self.is_line_due():
            self.info(f"{line} {done} of {plural(total, 'image')}")

    def is_line_due(self) -> bool:
        """Whether this was the first step, or the last line is half a minute old."""
        return time.perf_counter() - self._last_line > _LINE_EVERY

    def log_metrics(self, row: Row, line: str, *, always: bool = False) -> None:
        """Appends a row to metrics.jsonl, and its line as `info` does."""
        self._append(self._metrics, json.dumps(row))
        self.info(line, always=always)
        for failure in self._write_row(row):
            self.info(failure, always=True)
        if self._on_log is not None and not self._silent:
            try:
                self._on_log(dict(row))
            except StopTraining:
                self.finish_requested = True

    def info(self, line: str, *, always: bool = False) -> None:
        """Writes a line to log.txt and, unless the logger is quiet or `always`, to stderr."""
        self._last_line = time.perf_counter()
        self._append(self._folder / "log.txt", f"{time.strftime('%H:%M:%S')} {line}")
        if always or not self._quiet:
            if self._console.is_terminal:  # at spaces: a path stays whole, to be copied
                width = self._console.width
                line = textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
            self._console.print(line, highlight=False, soft_wrap=True, markup=False)

    def _append(self, path: Path, line: str) -> None:
        if not self._silent:
            with reraise_oserror(self._folder), path.open("ab") as file:
                file.write(f"{line}\n".encode(errors="surrogateescape"))  # names of any bytes


def _rounded(seconds: float) -> str:
    """Returns a duration in a unit that makes it a number of at least 2, as "3 hours"."""
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * size:
            return plural(round(seconds / size), unit)
    return plural(round(seconds), "second")


class _Console(Console):
    """A console that stops printing when its terminal or pipe is closed; the run goes on."""

    def __exit__(self, *error: object) -> None:
        """Writes the buffered output; rich calls this for every print and refresh."""
        try:
            super().__exit__(*error)
        except OSError:
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        """Stops printing; rich's default would end the process."""
        self.quiet = True
        redirect_to_devnull(self.file)


class ThroughputMeter:
    """Measures images per second, and the share of time in which `device` waited for images.

    Every step waits once, for `images` images.
    """

    def __init__(self, device: torch.device, *, images: int) -> None:
        self._device = device
        self._images = images
        self._start = time.perf_counter()
        self._waits: list[tuple[Mark, Mark]] = []

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Context whose duration counts as waiting for images."""
        start = mark(self._device)
        yield
        self._waits.append((start, mark(self._device)))

    def read(self) -> tuple[float, float]:
        """Returns (images per second, share of time spent waiting) since the last call."""
        waited = sum(seconds_between(*marks) for marks in self._waits)
        now = time.perf_counter()
        elapsed = max(now - self._start, 1e-9)
        images = len(self._waits) * self._images
        self._start, self._waits = now, []
        return images / elapsed, min(waited / elapsed, 1.0)


def bottleneck(waiting: float) -> str:
    """Says whether data or compute limits a run's speed, from its share of waiting time."""
    return f"data {waiting:.0%}, bound by {'data' if waiting > _MUCH else 'compute'}"


def rows(path: Path, *, up_to: int) -> list[dict[str, float | int]]:
    """Reads the rows of metrics.jsonl up to step `up_to`; an incomplete last line is left out."""
    parsed = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # brackets without end, for one
            break
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            break
        if row["step"] <= up_to:
            parsed.append(row)
    return parsed


def read_data_root(folder: Path) -> Path | None:
    """Reads where the data set of the run in `folder` was; None where that is not recorded.

    Raises PerpixelError when it is not there now.
    """
    path = folder / _ENVIRONMENT
    try:
        root = Path(json.loads(path.read_text())["data_root"])
    except (OSError, ValueError, TypeError, KeyError):  # a built-in one, or of version 0.2
        return None
    if not root.exists():
        raise PerpixelError(
            f"{path}: the run's data set was in {root}, which does not exist now; name its folder "
            f"with --data"
        )
    return root
