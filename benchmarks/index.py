"""A data set of a million pairs: the time to its first batch, and the memory it takes.

    python benchmarks/index.py --camvid CamVid [--pairs 1000000] [--workers 2]

A train.txt of so many lines names a handful of CamVid's files over and over. In a process of its
own, a run's loader opens it and brings the first batch and 50 of a later epoch. Memory is what the
process takes beyond its imports; a worker's own is what it shares with no other process. Writes
benchmarks/results/index.json.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import write_result
from peers import show
from pictures import camvid_at

from perpixel.data.catalog import open_dataset

TIMES = {"open": "opening the data set", "first batch": "opening it and reading a batch"}
SHOWN = {
    **TIMES,
    "list": "memory that the list holds",
    "opening": "memory while it is opened",
    "worker": "memory of a worker's own",
}


def private_bytes(process: int) -> int:
    """Memory that the process shares with no other (Linux)."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def told(key: str) -> int:
    """Memory of this process as Linux tells it: VmRSS is what it has now, VmHWM the peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"Linux does not tell {key}")


def open_it(root: Path, workers: int) -> dict[str, float]:
    """Opens the list and reads the first batch; what it took."""
    import perpixel
    from perpixel.data.loader import batches

    quick = ["train.images_per_step=4", "train.crop=360x480", "train.steps=2000000"]
    recipe = perpixel.override(perpixel.recipe("camvid/fcn_r18-d8"), quick)
    before, start = private_bytes(os.getpid()), time.perf_counter()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    resident = told("VmRSS")
    opened = open_dataset("camvid", root, "train")
    seconds = {"open": time.perf_counter() - start}
    held = max(private_bytes(os.getpid()) - before, 0)
    most = told("VmHWM") - resident
    next(batches(opened, recipe, first_step=0, workers=0))
    seconds["first batch"] = time.perf_counter() - start
    stream = batches(opened, recipe, first_step=len(opened), workers=workers)
    for _ in range(50):
        next(stream)
    own = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    each = [private_bytes(int(worker)) for worker in own]
    return {**seconds, "list": held, "opening": most, "worker": max(each, default=0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--camvid", type=Path, required=True, help="CamVid's root folder")
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--opening", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.opening:
        print(json.dumps(open_it(given.opening, given.workers)))
        return
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        few = list(camvid_at(given.camvid).files[:8])
        for path in {name for pair in few for name in pair}:
            (Path(folder) / path).parent.mkdir(exist_ok=True)
            shutil.copy(given.camvid / path, Path(folder) / path)
        for pairs in (8, given.pairs):
            lines = (" ".join(f"/SegNet/CamVid/{n}" for n in few[i % 8]) for i in range(pairs))
            (Path(folder) / "train.txt").write_text("\n".join(lines) + "\n")
            again = [sys.executable, __file__, *sys.argv[1:], "--opening", folder]
            done = subprocess.run(again, check=True, stdout=subprocess.PIPE, text=True)
            found[f"{pairs:,} pairs"] = json.loads(done.stdout.splitlines()[-1])
    measured = []
    for key, title in SHOWN.items():
        values = {pairs: [one[key]] for pairs, one in found.items()}
        unit, scale, shown = ("seconds", 1, "s") if key in TIMES else ("bytes", 1e-6, "MB")
        show(title, values, unit=shown, scale=scale)
        measured.append({"title": title, "unit": unit, "values": values})
    print(write_result("index", {"measured": measured}))


if __name__ == "__main__":
    main()
