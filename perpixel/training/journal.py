"""What a run writes down: metrics.jsonl for programs, log.txt and a live line for people."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from perpixel.checkpoint import write_whole
from perpixel.errors import PerpixelError


class Journal:
    """The records of one run folder; a context manager, so that the live line is put away.

    Rows of steps at or after `first_step`, left by an interrupted run, are dropped.
    """

    def __init__(self, folder: Path, *, first_step: int, steps: int) -> None:
        self._metrics = folder / "metrics.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            kept = rows(self._metrics, up_to=first_step) if self._metrics.exists() else []
            write_whole(self._metrics, "".join(json.dumps(row) + "\n" for row in kept).encode())
            self._log = (folder / "log.txt").open("a")
        except OSError as error:
            raise PerpixelError(f"{folder}: cannot be written ({error.strerror})") from None
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task(
            "train", total=steps, completed=first_step, status="starting"
        )

    def __enter__(self) -> "Journal":
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()
        self._log.close()

    def advance(self, step: int, status: str | None = None) -> None:
        """Moves the live line to `step`."""
        if status is None:
            self._progress.update(self._task, completed=step)
        else:
            self._progress.update(self._task, completed=step, status=status)

    def record(self, row: Mapping[str, float | int], line: str) -> None:
        """Appends a row to metrics.jsonl and its line to log.txt (and to a plain terminal)."""
        with self._metrics.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.say(line, quiet=self._console.is_terminal)

    def say(self, line: str, *, quiet: bool = False) -> None:
        """Writes a line to log.txt and, unless `quiet`, to the terminal."""
        self._log.write(f"{time.strftime('%H:%M:%S')} {line}\n")
        self._log.flush()
        if not quiet:
            self._console.print(line, highlight=False, soft_wrap=True, markup=False)


class Clock:
    """Pictures per second, and the share of the time spent waiting for them."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._waited = 0.0
        self._pictures = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time inside as time without pictures."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def count(self, pictures: int) -> None:
        """Counts pictures that went through the network."""
        self._pictures += pictures

    def read(self) -> tuple[float, float]:
        """(pictures per second, share of the time waiting) since the last reading."""
        now = time.perf_counter()
        elapsed = max(now - self._start, 1e-9)
        found = self._pictures / elapsed, min(self._waited / elapsed, 1.0)
        self._start, self._waited, self._pictures = now, 0.0, 0
        return found


def rows(path: Path, *, up_to: int) -> list[dict[str, float | int]]:
    """The rows of a metrics.jsonl whose step is at most `up_to`; a torn last line is left out."""
    found = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if row["step"] <= up_to:
            found.append(row)
    return found
