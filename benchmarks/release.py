"""Checks before a release: real commands on this machine, every figure beside what is expected.

    python benchmarks/release.py [--only demo camvid eval export ranks] [--camvid FOLDER]

`demo` trains the demo's recipe in every precision that this machine has instructions for, on CUDA
too where there is a GPU; `camvid` trains 200 steps and compares losses and mIoU with the recorded
ones; `eval` scores the weights in benchmarks/results/camvid; `export` writes them as ONNX and
compares ONNX Runtime with PyTorch; `ranks` trains on two ranks and on one. A check that this
machine cannot run is skipped, and says why. Exit code 1 when a figure is not as expected.
CamVid is looked for in ../shared/data/camvid.

    python benchmarks/release.py --record

records benchmarks/results/release.json anew, from a training in float32 on the CPU.
"""

import argparse
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import mean
from typing import Any, get_args

import torch
from measure import RESULTS, write_result

from perpixel.errors import UsageError
from perpixel.recipes.schema import Train
from perpixel.runtime.dtype import resolve_dtype

ROOT = Path(__file__).parents[1]
CAMVID = ROOT.parent / "shared" / "data" / "camvid"
WEIGHTS = RESULTS / "camvid" / "fast.safetensors"

DEMO_MIOU = 83.0
"""The demo's recipe ends at 84 to 87 (README.md)."""

CAMVID_STEPS = (
    "train.steps=200",
    "train.batch_size=8",
    "augment.crop_size=128x176",
    "train.final_phase=null",
    "train.ema_decay=0.9",
    "train.log_every=1",
    "model.head.fpn_channels=64",
    "model.head.channels=64",
    "optimizer.lr=0.02",
    "schedule.warmup=0.1",
    "evaluate.every=null",
)
WINDOW = 50
"""Losses are compared as means over so many steps: those of single steps are noise."""
LOSS_TOLERANCE = 0.15
"""As a share of the recorded loss: other processors and precisions round differently."""
MIOU_TOLERANCE = 5.0
"""Trainings of so few steps that differ in their seed alone lie 4 points apart (docs/camvid.md)."""

WEIGHTS_MIOU = 73.65
"""What docs/camvid.md says of the weights."""
AGREEMENT = 99.9

RANKS_STEPS = (
    "train.steps=4",
    "train.batch_size=8",
    "augment.crop_size=64x64",
    "train.log_every=1",
    "train.precision=float32",
    "optimizer.lr=0.001",
    "model.head.dropout=0",
    "evaluate.every=null",
)
RANKS_TOLERANCE = 0.001
"""The largest relative difference of a step's loss. Sums are taken in another order: 2e-5 was seen
(`python benchmarks/release.py --only ranks`). Without shared batch norm it is 0.01 at once.
"""


@dataclass(frozen=True)
class Row:
    """One line of the table. `passed` is None for a check that was skipped; `note` says why."""

    check: str
    value: str
    expected: str
    passed: bool | None
    note: str = ""


class CommandError(Exception):
    """A command that ended with another exit code than 0; its last words."""


def demo(folder: Path, _: argparse.Namespace) -> Iterator[Row]:
    """Trains the demo's recipe, `scenes/semantic_fpn_r18`, in every precision."""
    for device in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
        for precision in get_args(Train.model_fields["precision"].annotation):
            check, expected = f"demo, {device}, {precision}", f"mIoU >= {DEMO_MIOU:.1f}"
            if precision == "auto":  # is one of the others
                continue
            if reason := unsuited(precision, device):
                yield Row(check, "-", expected, None, reason)
                continue
            run = folder / f"demo-{device}-{precision}"
            settings = [f"train.precision={precision}"]
            try:
                train(run, "scenes/semantic_fpn_r18", settings, device=device)
            except CommandError as error:  # the other precisions are still to be seen
                yield Row(check, "-", expected, False, str(error))
                continue
            miou = read_scores(run / "evaluate.json")["miou"]
            yield Row(check, f"mIoU {miou:.2f}", expected, miou >= DEMO_MIOU)


def camvid(folder: Path, asked: argparse.Namespace) -> Iterator[Row]:
    """Trains 200 steps in the precision `auto`, on the device `auto`."""
    if asked.camvid is None:
        yield Row("camvid", "-", "the recorded curve", None, "no CamVid here")
        return
    run = folder / "camvid"
    train(run, "camvid/semantic_fpn_r18", CAMVID_STEPS, data=asked.camvid)
    yield from compare_curve(curve(run), json.loads((RESULTS / "release.json").read_text()))


def record(folder: Path, data: Path) -> Path:
    """Trains CamVid in float32 on the CPU, and keeps its curve."""
    run = folder / "camvid"
    settings = (*CAMVID_STEPS, "train.precision=float32")
    train(run, "camvid/semantic_fpn_r18", settings, data=data, device="cpu")
    return write_result("release", {"settings": settings, **curve(run)})


def curve(run: Path) -> dict[str, Any]:
    """Mean losses over windows of steps, and the mIoU at the end."""
    losses = read_losses(run)
    windows = sorted({(step - 1) // WINDOW for step in losses})
    means = [mean(losses[s] for s in losses if (s - 1) // WINDOW == each) for each in windows]
    return {"losses": means, "miou": read_scores(run / "evaluate.json")["miou"]}


def compare_curve(found: dict[str, Any], recorded: dict[str, Any]) -> Iterator[Row]:
    """A row for every window of steps, and one for the mIoU."""
    for number, (loss, usual) in enumerate(zip(found["losses"], recorded["losses"], strict=True)):
        check = f"camvid, steps {number * WINDOW + 1} to {(number + 1) * WINDOW}"
        margin = LOSS_TOLERANCE * usual
        expected = f"loss {usual:.3f} +- {margin:.3f}"
        yield Row(check, f"loss {loss:.3f}", expected, abs(loss - usual) <= margin)
    least = recorded["miou"] - MIOU_TOLERANCE
    expected = f"mIoU >= {least:.2f} (recorded {recorded['miou']:.2f})"
    yield Row("camvid, val", f"mIoU {found['miou']:.2f}", expected, found["miou"] >= least)


def evaluate(folder: Path, asked: argparse.Namespace) -> Iterator[Row]:
    """`perpixel eval` of the weights in the repository."""
    expected = f"mIoU {WEIGHTS_MIOU} +- 0.05"
    if asked.camvid is None:
        yield Row("eval", "-", expected, None, "no CamVid here")
        return
    file = folder / "scores.json"
    perpixel("eval", WEIGHTS, "--data", asked.camvid, "--json", file)
    miou = read_scores(file)["miou"]
    yield Row("eval", f"mIoU {miou:.2f}", expected, abs(miou - WEIGHTS_MIOU) <= 0.05)


def export(folder: Path, _: argparse.Namespace) -> Iterator[Row]:
    """`perpixel export` of the weights in the repository; the image that agrees least."""
    expected = f">= {AGREEMENT} % of pixels"
    if missing := [name for name in ("onnx", "onnxruntime", "onnxscript") if not find_spec(name)]:
        yield Row("export", "-", expected, None, f"no {', '.join(missing)} here")
        return
    file = folder / "camvid.onnx"
    printed = perpixel("export", WEIGHTS, file, "--size", "360x480", "--seconds", "0.1")
    agreements = [float(share) for share in re.findall(r"([\d.]+)%", printed)]
    least = min(agreements, default=0.0)
    yield Row("export", f"{least:.3f} %", expected, file.is_file() and least >= AGREEMENT)


def ranks(folder: Path, _: argparse.Namespace) -> Iterator[Row]:
    """The same run on one rank and on two: on GPUs where there are two, else on the CPU."""
    device = "cuda" if torch.cuda.device_count() > 1 else "cpu"
    curves = []
    for count in (1, 2):
        run = folder / f"ranks-{count}"
        train(run, "scenes/semantic_fpn_r18", RANKS_STEPS, device=device, ranks=count)
        curves.append(read_losses(run))
    yield compare_ranks(*curves, device=device)


def compare_ranks(one: dict[int, float], two: dict[int, float], *, device: str) -> Row:
    """The largest relative difference of two runs' losses, step by step."""
    apart = max(abs(two[step] / one[step] - 1) for step in one.keys() & two.keys())
    passed = one.keys() == two.keys() and apart <= RANKS_TOLERANCE
    expected = f"losses apart <= {RANKS_TOLERANCE:.1%}"
    return Row(f"two ranks, {device}", f"{apart:.4%}", expected, passed)


CHECKS = {"demo": demo, "camvid": camvid, "eval": evaluate, "export": export, "ranks": ranks}


def unsuited(precision: str, device: str) -> str | None:
    """Why perpixel advises against a precision on this device; None where it is fine."""
    if device == "cuda" and precision in ("bfloat16", "tf32"):
        ampere = torch.cuda.is_bf16_supported(including_emulation=False)
        return None if ampere else f"this GPU has no {precision}"
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(resolve_dtype.__module__)
    logger.addHandler(handler)
    try:
        resolve_dtype(precision, torch.device(device))
    except UsageError as error:
        said.append(str(error))
    finally:
        logger.removeHandler(handler)
    return said[0] if said else None


def train(
    run: Path,
    recipe: str,
    settings: Sequence[str],
    *,
    data: Path | None = None,
    device: str = "auto",
    ranks: int = 1,
) -> None:
    words = [recipe, "--out", run, "--device", device, *(f"--set={each}" for each in settings)]
    if data is not None:
        words += ["--data", data]
    perpixel("train", *words, ranks=ranks)


def perpixel(*words: object, ranks: int = 1) -> str:
    """What a command prints; raises CommandError when it fails."""
    launch = [f"--nproc-per-node={ranks}", "--standalone"]
    torchrun = ["-m", "torch.distributed.run", *launch] if ranks > 1 else []
    done = subprocess.run(
        [sys.executable, *torchrun, "-m", "perpixel", *map(str, words)],
        env=os.environ | {"COLUMNS": "100"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [""]
        raise CommandError(f"perpixel {words[0]}: exit code {done.returncode}: {lines[-1]}")
    return done.stdout


def read_scores(file: Path) -> dict[str, Any]:
    scores: dict[str, Any] = json.loads(file.read_text())
    return scores


def read_losses(run: Path) -> dict[int, float]:
    """The loss of every step; one that was skipped, as its loss was no number, has none."""
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def rows_of(name: str, folder: Path, asked: argparse.Namespace) -> Iterator[Row]:
    """A check's rows; a command that fails is one that did not pass."""
    try:
        yield from CHECKS[name](folder, asked)
    except CommandError as error:
        yield Row(name, "-", "exit code 0", False, str(error))


def line(row: Row, seconds: float) -> str:
    verdict = {True: "ok", False: "FAILED", None: "skipped"}[row.passed]
    figures = f"{row.check:<28}{row.value:<14}{row.expected:<36}{seconds:>7.0f}"
    return f"{figures}  {verdict}{row.note and f': {row.note}'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS))
    parser.add_argument("--camvid", type=Path, help="default: ../shared/data/camvid, if there")
    parser.add_argument("--record", action="store_true", help="keep CamVid's curve as expected")
    asked = parser.parse_args()
    if asked.camvid is None:
        asked.camvid = CAMVID if CAMVID.is_dir() else None
    elif not asked.camvid.is_dir():
        raise SystemExit(f"--camvid: {asked.camvid}: no such folder")
    with tempfile.TemporaryDirectory(prefix="perpixel-release-") as name:
        folder = Path(name)
        if asked.record:
            if asked.camvid is None:
                raise SystemExit("--record needs --camvid FOLDER")
            print(record(folder, asked.camvid))
            return
        failed = 0
        print(f"{'check':<28}{'value':<14}{'expected':<36}{'seconds':>7}", flush=True)
        for check in asked.only:
            start = time.perf_counter()
            for row in rows_of(check, folder, asked):
                seconds, start = time.perf_counter() - start, time.perf_counter()
                print(line(row, seconds), flush=True)
                failed += row.passed is False
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
