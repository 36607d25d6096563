"""Other toolkits beside perpixel: their environment, and processes that run rounds on demand.

    python benchmarks/peers.py install

makes .peers, a virtual environment with mmsegmentation, torchvision and
segmentation_models_pytorch as requirements/peers.txt pins them. Nothing of theirs is in this
repository: benchmarks/subjects/with_NAME.py says how each is asked to do a case.

A worker is a process of its own, perpixel's too. It prepares a case and then runs it once for every
"run", so that a benchmark can let the toolkits take turns: what slows the machine down for a while
slows them all.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

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


@contextmanager
def worker(subject: str, *, threads: int | None = None) -> Iterator[Callable[..., float]]:
    """A toolkit in a process of its own: a file with_SUBJECT.py, perpixel's in this environment.

    Yields `ask`: ask("make", what=FUNCTION, case=CASE) prepares a case for a function of that file,
    ask("run") are the seconds of a round of it, and ask("memory") the most bytes so far, of the
    process or on a GPU of PyTorch's tensors; there ask("reset") begins to count them anew.
    """
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
    command = [sys.executable if ours else str(PYTHON), str(HERE / "worker.py"), subject]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=settings) as process:

        def ask(do: str, **order: object) -> float:
            print(json.dumps({"do": do, **order}), file=process.stdin, flush=True)
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"{subject}: the process ended; what it said stands above")
            answer = json.loads(line)
            if "error" in answer:
                raise SystemExit(f"{subject}: {answer['error']}")
            return float(answer["value"])

        yield ask


def take_turns(
    what: str, cases: Mapping[str, tuple[str, Case]], *, rounds: int, threads: int | None = None
) -> dict[str, list[float]]:
    """Seconds of each round of each of `cases`, (subject, case) by a title, one after another.

    Every title has a process of its own; one round warms up and is not counted.
    """
    seconds: dict[str, list[float]] = {title: [] for title in cases}
    with ExitStack() as stack:
        workers = {
            title: stack.enter_context(worker(subject, threads=threads))
            for title, (subject, _) in cases.items()
        }
        for title, ask in workers.items():
            ask("make", what=what, case=cases[title][1])
            ask("run")
        for _ in range(rounds):
            for title, ask in workers.items():
                seconds[title].append(ask("run"))
    return seconds


if __name__ == "__main__":
    if sys.argv[1:] != ["install"]:
        raise SystemExit(__doc__)
    install()
