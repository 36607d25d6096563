"""Where the time of `perpixel predict` goes, and how much of it overlaps.

    python benchmarks/predict.py ROOT [--model camvid/fast] [--count 200] [--rounds 1] [--overlay]

Takes images of the data set below ROOT (CamVid's layout). Round after round: decoding, the model
alone (on images in memory), writing the masks, all three one after another, and the command itself,
whose own time per image, without loading the model, is taken from what it prints. `--overlay`
writes overlays, too. The last line is the command's time per image in that of the model.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TypeVar

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the command line does (cli/main.py)

from measure import record, write_result

import perpixel
from perpixel.inference.predictor import Predictor, Result
from perpixel.io.figures import add_legend
from perpixel.io.images import IMAGE_SUFFIXES, read_image, write_image
from perpixel.runtime.heap import keep_freed

keep_freed()  # as the command line does
Found = TypeVar("Found")


def write(result: Result, target: Path, *, overlay: bool) -> None:
    """As the command does."""
    result.save(target)
    if overlay:
        drawn = add_legend(result.overlay(), result.class_names, result.palette)
        write_image(target.with_name(f"{target.stem}_overlay.png"), drawn)


def command(model: str, paths: list[Path], out: Path, *, overlay: bool) -> float:
    """Seconds per image, as the command prints them, in whole milliseconds."""
    words = [sys.executable, "-m", "perpixel", "predict", model, *map(str, paths)]
    words += ["--out", str(out), "--device", "cpu", *["--overlay"] * overlay]
    printed = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    found = re.search(r", (\d+) ms per image", printed)
    assert found is not None, printed
    return int(found[1]) / 1000


def timed(work: Callable[[], Found]) -> tuple[float, Found]:
    """The seconds of `work`, and what it returns."""
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def measured(model: Predictor, paths: list[Path], out: Path, *, overlay: bool) -> dict[str, float]:
    """Seconds of all steps for all paths."""

    def encode(results: list[Result]) -> None:
        for path, result in zip(paths, results, strict=True):
            write(result, out / f"{path.stem}.png", overlay=overlay)

    def one_after_another() -> None:
        for path in paths:
            write(model.predict(read_image(path)), out / f"{path.stem}.png", overlay=overlay)

    decoding, images = timed(lambda: [read_image(path) for path in paths])
    predicting, results = timed(lambda: [model.predict(image) for image in images])
    encoding, _ = timed(lambda: encode(results))
    together, _ = timed(one_after_another)
    return {
        "decode": decoding, "model": predicting, "encode": encoding, "one after another": together,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--model", default="camvid/fast")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--overlay", action="store_true")
    given = parser.parse_args()
    files = (path for split in ("val", "train") for path in sorted((given.root / split).iterdir()))
    paths = [path for path in files if path.suffix in IMAGE_SUFFIXES][: given.count]
    model = perpixel.load(given.model, device="cpu")
    model.predict(paths[0])  # what the first call prepares is no image's time
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(given.rounds):
            for name, total in measured(model, paths, Path(folder), overlay=given.overlay).items():
                seconds.setdefault(name, []).append(total / len(paths))
            shared = command(given.model, paths, Path(folder) / "masks", overlay=given.overlay)
            seconds.setdefault("the command", []).append(shared)
    title = f"{len(paths)} images with {given.model}, each"
    found = record(title, "seconds", seconds, against="one after another")
    ratio = median(seconds["the command"]) / median(seconds["model"])
    print(f"the command takes {ratio:.2f} times as long as the model alone")
    print(write_result("predict", {"measured": [found], "overlay": given.overlay}))


if __name__ == "__main__":
    main()
