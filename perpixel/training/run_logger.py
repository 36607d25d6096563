"""A run's logs: metrics.jsonl, log.txt, TensorBoard files and the progress line."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from perpixel.errors import PerpixelError, StopTraining, needs_extra
from perpixel.io.atomic import atomic_write, redirect_to_devnull, reraise_oserror
from perpixel.runtime.environment import environment_info
from perpixel.runtime.timing import Mark, mark, seconds_between
from perpixel.training.checkpoint import Progress

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_ENVIRONMENT = "environment.json"

_MUCH = 0.2
"""A run that waits for images for more of its time than this is slowed by them."""


class RunLogger:
    """Writes the logs of a run folder; a context manager that ends the progress line.

    On resume, rows after step `done.step` are dropped, and that step's scores unless they were
    saved. Every row goes to metrics.jsonl, to `on_log` if given, and with `tensorboard` to event
    files. `data_root` goes to environment.json, for `read_data_root`. A `silent` logger, as on all
    ranks but the main one, writes nothing.
    """

    def __init__(
        self,
        folder: Path,
        done: Progress,
        *,
        steps: int,
        data_root: Path | None = None,
        tensorboard: bool = False,
        silent: bool = False,
        on_log: Callable[[dict[str, float | int]], None] | None = None,
    ) -> None:
        self.finish_requested = False
        """Whether `on_log` has raised StopTraining."""
        self._on_log = on_log
        self._folder = folder
        self._silent = silent
        self._metrics = folder / "metrics.jsonl"
        self._events = None
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
            if tensorboard:
                self._events = _event_files(folder / "tensorboard", done.step)
        self._console = _Console(stderr=True, quiet=silent)
        self._bar = Bar(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=silent or not self._console.is_terminal,
        )
        self._task = self._bar.add_task(
            "train", total=steps, completed=done.step, status="starting"
        )

    def __enter__(self) -> "RunLogger":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        if self._events is not None:
            self._events.close()

    def set_step(self, step: int) -> None:
        """Moves the progress line to `step`."""
        self._bar.update(self._task, completed=step)

    def log_metrics(self, row: Mapping[str, float | int], line: str, *, status: str = "") -> None:
        """Appends a row to metrics.jsonl and its line to log.txt (and to a plain terminal).

        `status` stands in the live line from now on.
        """
        if status:
            self._bar.update(self._task, status=status)
        self._append(self._metrics, json.dumps(row))
        if self._events is not None:
            for name in row.keys() - {"step"}:
                self._events.add_scalar(name, row[name], int(row["step"]))
            self._events.flush()
        self.info(line, quiet=self._console.is_terminal)
        if self._on_log is not None and not self._silent:
            try:
                self._on_log(dict(row))
            except StopTraining:
                self.finish_requested = True

    def info(self, line: str, *, quiet: bool = False) -> None:
        """Writes a line to log.txt and, unless `quiet`, to the terminal."""
        self._append(self._folder / "log.txt", f"{time.strftime('%H:%M:%S')} {line}")
        if not quiet:
            self._console.print(line, highlight=False, soft_wrap=True, markup=False)

    def _append(self, path: Path, line: str) -> None:
        if not self._silent:
            with reraise_oserror(self._folder), path.open("ab") as file:
                file.write(f"{line}\n".encode(errors="surrogateescape"))  # names of any bytes


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


def _event_files(folder: Path, first_step: int) -> "SummaryWriter":
    with needs_extra("--tensorboard", "tensorboard"):
        from torch.utils.tensorboard import SummaryWriter
    return SummaryWriter(folder, purge_step=first_step + 1)


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
