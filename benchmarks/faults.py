"""Runs that are killed, told to stop, starved of disk and fed with corrupt files.

    python benchmarks/faults.py [kills stop nodes disk mutations] [--kills 300] [--mutations 10000]
        [--stops 2] [--steps 40] [--seed 0] [--write]

prints a table of what was done and what came of it; a promise that was broken ends it with an
error. It needs no data set and no GPU. `--write` keeps the table in benchmarks/results. `disk`
mounts small file systems in memory, and is left out where that is not allowed.
"""

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from measure import write_result
from mutations import mutations

import perpixel.training.train
from perpixel.checkpoints.format import read_tensors

Row = tuple[str, int, str]
"""What was done, how often, and what came of it."""

RECIPE = "scenes/fcn_r18-d8"
SETTINGS = (
    "train.batch_size=2",
    "augment.crop_size=32x32",
    "train.log_every=1",
    "train.save_every=1",
    "train.precision=float32",
    "evaluate.every=null",
    "model.head.channels=8",
    "model.backbone.output_stride=32",
)
STEPS = 40
TORCHRUN = ("-m", "torch.distributed.run")
TWO_RANKS = (*TORCHRUN, "--standalone", "--nproc-per-node=2")


def kills(folder: Path, asked: argparse.Namespace) -> list[Row]:
    """A run that saves every step, killed at random moments until it has had `--kills` of them.

    Every child is forked from here, before torch has any thread, so that it starts at once.
    """
    torch.set_num_threads(1)  # a child has none of its parent's threads, and would wait for them
    torch.optim.SGD([torch.zeros(1)], lr=1.0)  # imports what children need not import then
    rng = random.Random(asked.seed)
    straight = folder / "straight"
    began = time.perf_counter()
    _succeeds(_forked(straight, asked.steps))
    undisturbed = time.perf_counter() - began
    done, runs, resumed = 0, 0, set[int]()
    while done < asked.kills:
        runs += 1
        run = folder / f"run-{runs}"
        while True:
            child = _forked(run, asked.steps)
            if done < asked.kills and _alive_after(child, rng.uniform(0, undisturbed)):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                done += 1
                continue
            _succeeds(child)
            break
        _require_same_run(run, straight)
        resumed |= _resumed_steps(run)
        shutil.rmtree(run)
    what = f"SIGKILL of a run that saves every step (seed {asked.seed})"
    outcome = f"{runs} runs ended bit-identical, resumed after {len(resumed)} different steps"
    return [(what, done, outcome)]


def stop(folder: Path, asked: argparse.Namespace) -> list[Row]:
    """SIGTERM to one of two ranks; both save and leave, and the resumed run is the same."""
    straight = folder / "straight"
    _started(straight, asked.steps, launch=TWO_RANKS).wait()
    for turn in range(asked.stops):
        run = folder / f"run-{turn}"
        process = _started(run, asked.steps, launch=TWO_RANKS)
        _wait_for(lambda run=run, turn=turn: _steps(run) >= 1 + turn % (asked.steps // 2), process)
        os.kill(_rank(process.pid, turn % 2), signal.SIGTERM)
        said = process.communicate()[1]
        _require(process.returncode == 1, said)
        _require(said.count("exitcode  : 75") == 2, said)
        _require(said.count("the run is saved") == 1, said)
        again = _started(run, asked.steps, "--resume", launch=TWO_RANKS)
        said = again.communicate()[1]
        _require(again.returncode == 0, said)
        _require_same_run(run, straight)
    return [("SIGTERM to one of 2 ranks", asked.stops, "both left with 75; resumed bit-identical")]


def nodes(folder: Path, _: argparse.Namespace) -> list[Row]:
    """Two nodes on loopback, one killed: the other goes on alone, from the last state."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    elastic = [
        *TORCHRUN, "--nnodes=1:2", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}",
        "--rdzv-id=faults", "--max-restarts=3", "--local-addr=127.0.0.1",
        "--rdzv-conf=last_call_timeout=5,join_timeout=120",
    ]  # fmt: skip
    run = folder / "run"
    first = _started(run, 30, "--resume auto", launch=elastic)
    time.sleep(3)  # the first hosts the meeting
    second = _started(run, 30, "--resume auto", launch=elastic)
    _wait_for(lambda: _steps(run) >= 5, first)
    for process in (*_below(second.pid), second.pid):
        os.kill(process, signal.SIGKILL)
    second.wait()
    said = first.communicate(timeout=400)[1]
    _require(first.returncode == 0, said)
    log = (run / "log.txt").read_text()
    _require("2 ranks" in log and "resumed after step" in log, log)
    _require(_steps(run) == 30, log)
    resumed = log.rsplit("resumed after step ", 1)[1].split()[0]
    outcome = f"restarted by torchrun, resumed after step {resumed}, completed 30 steps"
    return [("one of two nodes killed (loopback)", 1, outcome)]


def disk(folder: Path, _: argparse.Namespace) -> list[Row]:
    """A full disk, a read-only one, and a `last` that is cut off."""
    rows: list[Row] = []
    straight = folder / "straight"
    _succeeds(_forked(straight))
    for what, options, says in (
        ("full disk", "size=200m", "No space left on device"),
        ("read-only folder", "size=1g", "Read-only file system"),
    ):
        place = folder / what.replace(" ", "-")
        place.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place]).returncode:
            rows.append((what, 0, "left out: this machine does not let us mount"))
            continue
        try:
            if what == "read-only folder":
                _succeeds(_forked(place / "run", 2))
                subprocess.run(["mount", "-o", "remount,ro", place], check=True)
            before = _states(place / "run")
            process = _started(place / "run", STEPS, "--resume auto", "--allow-config-change")
            said = process.communicate()[1]
            _require(process.returncode == 1 and says in said and "Traceback" not in said, said)
            after = _states(place / "run")
            _require(len(after) > 0 and before.items() <= after.items(), said)
            for path in after:
                read_tensors(path)
            if what == "full disk":  # with room again, it goes on
                shutil.copytree(place / "run", folder / "rescued")
                _succeeds(_forked(folder / "rescued"))
                _require_same_run(folder / "rescued", straight)
            rows.append((what, 1, f"exit 1, {said.strip().splitlines()[-1][-60:]!r}; states whole"))
        finally:
            subprocess.run(["umount", place], check=True)
    run = folder / "cut"
    shutil.copytree(folder / "straight", run)
    last = run / "checkpoints" / "last.safetensors"
    last.write_bytes(last.read_bytes()[:-1000])
    _succeeds(_forked(run))
    _require_same_run(run, straight)
    _require("going on from an older state" in (run / "log.txt").read_text(), "no word of it")
    return [*rows, ("truncated `last`", 1, "said so, resumed from the one before, bit-identical")]


def _states(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (run / "checkpoints").glob("last*.safetensors")}


def _forked(run: Path, steps: int = STEPS) -> int:
    """A child process that trains into `run`, or resumes there; exits with 0 when done."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 2)
        recipe = perpixel.override(perpixel.recipe(RECIPE), [*SETTINGS, f"train.steps={steps}"])
        perpixel.train(recipe, out=run, resume="auto", allow_config_change=True, device="cpu")
        code = 0
    except BaseException as error:
        print(f"{run}: {error!r}", flush=True)
    finally:
        os._exit(code)


def _alive_after(child: int, seconds: float) -> bool:
    time.sleep(seconds)
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def _succeeds(child: int) -> None:
    _, status = os.waitpid(child, 0)
    _require(status == 0, f"exit {status}")


def _require_same_run(run: Path, other: Path) -> None:
    """Weights and the losses of all steps, bit for bit."""
    a, b = (
        read_tensors(folder / "checkpoints" / "model.safetensors")[1] for folder in (run, other)
    )
    _require(a.keys() == b.keys() and all(a[key].equal(b[key]) for key in a), "other weights")
    _require(_losses(run) == _losses(other), "other losses")


def _losses(run: Path) -> list[tuple[int, float]]:
    rows = (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
    return [(row["step"], row["loss"]) for row in rows if "loss" in row]


def _steps(run: Path) -> int:
    path = run / "metrics.jsonl"
    return sum('"loss"' in line for line in path.open()) if path.exists() else 0


def _resumed_steps(run: Path) -> set[int]:
    lines = (run / "log.txt").read_text().splitlines()
    return {int(line.rsplit(" ", 1)[1]) for line in lines if "resumed after step" in line}


def _started(
    run: Path, steps: int, *options: str, launch: Sequence[str] = ()
) -> subprocess.Popen[str]:
    settings = [f"--set={setting}" for setting in (*SETTINGS, f"train.steps={steps}")]
    command = [
        sys.executable, *launch, "-m", "perpixel", "train", RECIPE, *settings,
        "--out", run, "--device", "cpu", *options,
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def _below(pid: int) -> list[int]:
    """The processes that a process started, and those that they did."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        if parent == pid:
            child = int(path.parent.name)
            found += [child, *_below(child)]
    return found


def _rank(launcher: int, rank: int) -> int:
    for pid in _below(launcher):
        if f"\0RANK={rank}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes():
            return pid
    raise SystemExit(f"rank {rank} is not to be found")


def _wait_for(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not happened():
        _require(process.poll() is None, "ended early")
        time.sleep(0.1)


def _require(kept: bool, said: str) -> None:
    if not kept:
        raise SystemExit(f"a promise was broken: {said}")


WAYS = {"kills": kills, "stop": stop, "nodes": nodes, "disk": disk, "mutations": mutations}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*WAYS, []], default=list(WAYS))
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--stops", type=int, default=2)
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    rows: list[Row] = []
    print(f"{'what':<62}{'times':>7}{'seconds':>9}  outcome")
    for name in asked.parts:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="perpixel-faults-") as folder:
            found = WAYS[name](Path(folder), asked)
        seconds = time.perf_counter() - start
        for what, times, outcome in found:
            print(f"{what:<62}{times:>7}{seconds / len(found):>9.0f}  {outcome}", flush=True)
        rows += found
    if asked.write:
        write_result("faults", {"rows": [list(row) for row in rows]})


if __name__ == "__main__":
    main()
