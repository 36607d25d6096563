"""A data set of a million pairs: the time to its first batch, and the memory it takes.

A train.txt of so many lines names a handful of CamVid's files over and over. In a process of its
own, a run's loader opens it and brings the first batch and 50 of a later epoch. Memory is what the
process takes beyond its imports; a worker's own is what it shares with no other process.
"""

import argparse
import os
import shutil
import tempfile
import time
from itertools import islice
from multiprocessing import set_start_method
from pathlib import Path

from images import camvid_at
from measure import apart, proc_status, record, write_result

from perpixel.data.registry import open_dataset

MEASURES = {
    "open": ("opening the data set", "seconds"),
    "first batch": ("opening it and reading a batch", "seconds"),
    "list": ("memory that the list holds", "bytes"),
    "opening": ("memory while it is opened", "bytes"),
    "worker": ("memory of a worker's own", "bytes"),
}


def private_bytes(process: int) -> int:
    """Memory that the process shares with no other (Linux)."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def open_it(root: Path, workers: int) -> dict[str, float]:
    """Opens the list and reads the first batch; what it took."""
    import perpixel
    from perpixel.data.loader import batches

    set_start_method("fork", force=True)  # as in a command on Linux; this process was spawned
    quick = ["train.batch_size=4", "augment.crop_size=360x480", "train.steps=2000000"]
    recipe = perpixel.override(perpixel.recipe("camvid/fcn_r18-d8"), quick)
    before, start = private_bytes(os.getpid()), time.perf_counter()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    resident = proc_status("VmRSS")
    opened = open_dataset("camvid", root, "train")
    seconds = {"open": time.perf_counter() - start}
    held = max(private_bytes(os.getpid()) - before, 0)
    most = proc_status("VmHWM") - resident
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
    given = parser.parse_args()
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        few = list(islice(camvid_at(given.camvid).files, 8))
        for path in {name for pair in few for name in pair}:
            (Path(folder) / path).parent.mkdir(exist_ok=True)
            shutil.copy(given.camvid / path, Path(folder) / path)
        for pairs in (8, given.pairs):
            lines = (" ".join(f"/SegNet/CamVid/{n}" for n in few[i % 8]) for i in range(pairs))
            (Path(folder) / "train.txt").write_text("\n".join(lines) + "\n")
            found[f"{pairs:,} pairs"] = apart(open_it, Path(folder), given.workers)
    results = [
        record(title, unit, {pairs: [one[key]] for pairs, one in found.items()})
        for key, (title, unit) in MEASURES.items()
    ]
    print(write_result("index", {"measured": results}))


if __name__ == "__main__":
    main()
