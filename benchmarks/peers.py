"""Other toolkits beside perpixel: their environment, and processes that run rounds on demand.

    python benchmarks/peers.py install

makes .peers, a virtual environment with mmsegmentation, torchvision and
segmentation_models_pytorch as requirements/peers.txt pins them. Nothing of theirs is in this
repository: benchmarks/subjects/with_NAME.py says how each is asked to do a case.

A `Worker` is a process of its own, perpixel's too. It prepares a case and then runs it once for
every `run()`, so that a benchmark can let the toolkits take turns: what slows the machine down for
a while slows them all.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from measure import median

HERE = Path(__file__).parent
ROOT = HERE.parent
ENVIRONMENT = ROOT / ".peers"
PYTHON = ENVIRONMENT / "bin" / "python"

Case = Mapping[str, object]


def install() -> None:
    """Makes the peers' environment; packages come without what they ask for beyond the list.

    torch alone comes with what it asks for, at the list's versions: built for CUDA it needs
    libraries that the list, made beside a CPU's, does not have.
    """
    subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
    listed = str(ROOT / "requirements" / "peers.txt")
    for what in (["--constraint", listed, "torch"], ["--no-deps", "-r", listed]):
        subprocess.run([str(PYTHON), "-m", "pip", "install", *what], check=True)
    subprocess.run([str(PYTHON), str(HERE / "worker.py"), "mmseg"], check=True, input=b"")
    print(f"{ENVIRONMENT} is ready")


class Worker:
    """A toolkit in a process of its own; a context manager, which ends the process."""

    def __init__(self, subject: str, *, threads: int | None = None) -> None:
        """`subject` names a file with_SUBJECT.py; "perpixel" alone runs in this environment."""
        self.subject = subject
        ours = subject == "perpixel"
        if not ours and not PYTHON.exists():
            raise SystemExit("no peers here: python benchmarks/peers.py install")
        settings = {**os.environ, "PYTHONWARNINGS": "ignore"}
        if ours:
            settings["PYTHONPATH"] = str(ROOT)
        else:
            settings.pop("PYTHONPATH", None)
        if threads is not None:
            settings["OMP_NUM_THREADS"] = str(threads)
        self._process = subprocess.Popen(
            [sys.executable if ours else str(PYTHON), str(HERE / "worker.py"), subject],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=settings,
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def make(self, what: str, case: Case) -> None:
        """Prepares `case` for `what`, a function of the subject's file."""
        self._ask({"do": "make", "what": what, "case": dict(case)})

    def run(self) -> float:
        """Seconds of one round of what was prepared."""
        return float(self._ask({"do": "run"}))

    def memory(self) -> int:
        """The most memory so far, in bytes: of the process, or on a GPU of PyTorch's tensors."""
        return int(self._ask({"do": "memory"}))

    def _ask(self, order: Mapping[str, object]) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.subject}: the process ended; what it said stands above")
        answer = json.loads(line)
        if "error" in answer:
            raise SystemExit(f"{self.subject}: {answer['error']}")
        return float(answer["value"])


def take_turns(
    what: str, cases: Mapping[str, tuple[str, Case]], *, rounds: int, threads: int | None = None
) -> dict[str, list[float]]:
    """Seconds of each round of each of `cases`, (subject, case) by a title, one after another.

    Every title has a process of its own; one round warms up and is not counted.
    """
    workers = {title: Worker(subject, threads=threads) for title, (subject, _) in cases.items()}
    seconds: dict[str, list[float]] = {title: [] for title in cases}
    try:
        for title, worker in workers.items():
            worker.make(what, cases[title][1])
            worker.run()
        for _ in range(rounds):
            for title, worker in workers.items():
                seconds[title].append(worker.run())
    finally:
        for worker in workers.values():
            worker.__exit__(None, None, None)
    return seconds


def show(title: str, values: Mapping[str, Sequence[float]], *, unit: str, scale: float) -> None:
    """Prints medians, and how many times less than mmsegmentation's, the first, each is."""
    first = median(list(next(iter(values.values()))))
    print(title)
    for name, several in values.items():
        middle = median(list(several))
        times = f"{first / middle:.2f} times less" if "mmsegmentation" in values else ""
        print(f"  {name:28} {middle * scale:10.2f} {unit}   {times}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:] != ["install"]:
        raise SystemExit(__doc__)
    install()
