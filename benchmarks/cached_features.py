"""Processor seconds of an epoch of a frozen backbone's heads, with and without cached features.

A linear probe of a ViT-S/14 of DINOv2 and Semantic FPN on EfficientNet-Lite0, on the first images
of CamVid's training split, in one thread. The weights are random, on which no time depends. An
epoch without the cache and one with it take turns; filling the cache is told apart. Other work on
the machine changes little: only this process's time counts. Prints a table, and keeps none.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import process_time
from unittest.mock import patch

import torch
from measure import digits

from perpixel.data.dataset import PairDataset
from perpixel.data.loader import batches
from perpixel.data.pair_list import PairList
from perpixel.data.registry import open_dataset
from perpixel.models.build import build
from perpixel.recipes import overrides, recipe
from perpixel.runtime.distributed import DistInfo
from perpixel.runtime.heap import keep_freed
from perpixel.training.checkpoint import Progress
from perpixel.training.feature_cache import cache_features
from perpixel.training.preemption import preemption_flag
from perpixel.training.run_logger import RunLogger
from perpixel.training.step import make_train_state, train_step

SHARED = [
    "data.name=camvid", "train.freeze=backbone", "augment.enabled=false", "augment.base_size=null",
    "augment.crop_size=360x480", "train.batch_size=8", "train.precision=float32",
    "train.cache_features=true",
]  # fmt: skip
HEADS = {
    "linear probe, DINOv2 ViT-S/14": ("linear/dinov2_vits14", []),
    "Semantic FPN, EfficientNet-Lite0": ("folder/fast", ["train.ema_decay=0"]),
}
DEVICE = torch.device("cpu")


def measure(name: str, changes: list[str], data: Path, *, images: int, rounds: int) -> dict:
    """Seconds of each epoch, with and without the cache, and of filling it."""
    dataset = open_dataset("camvid", data, "train")
    assert isinstance(dataset, PairDataset)
    dataset = replace(dataset, files=PairList([dataset.files[i] for i in range(images)]))
    steps = images // 8 * (rounds + 1)
    chosen = overrides.override(recipe(name), [*SHARED, *changes, f"train.steps={steps}"])
    torch.manual_seed(0)
    model = build(chosen.model, num_classes=len(dataset.classes))
    state = make_train_state(model, chosen, device=DEVICE, dtype=torch.float32)
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.dict("os.environ", PERPIXEL_CACHE=folder),
        RunLogger(Path(folder), Progress(), steps=steps, silent=True) as logger,
        preemption_flag() as preempted,
    ):
        start = process_time()
        features = cache_features(
            state, dataset, chosen, dist_info=DistInfo(), logger=logger, preempted=preempted
        )
        filling = process_time() - start
        size = sum(path.stat().st_size for path in Path(folder, "features").glob("*/*"))
        streams = {
            "an epoch without the cache": batches(dataset, chosen, first_step=0, workers=0),
            "an epoch with it": batches(
                dataset, chosen, first_step=0, workers=0, read_features=features
            ),
        }

        seconds: dict[str, list[float]] = {stream: [] for stream in streams}
        for turn in range(rounds + 1):
            for stream, epoch in streams.items():
                start = process_time()
                for _ in range(images // 8):
                    batch = next(epoch)
                    inputs = batch.features or batch.images
                    train_step(state, inputs, batch.labels, chosen, step=0)
                if turn:  # the first warms up
                    seconds[stream].append(process_time() - start)
    print(f"{name}: {size / images / 1e6:.2f} MB of features an image")
    return {"filling the cache": [filling], **seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="CamVid's folder")
    parser.add_argument("--images", type=int, default=40, help="a multiple of 8")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    keep_freed()
    torch.set_num_threads(1)
    for title, (name, changes) in HEADS.items():
        print(f"{title}, {chosen.images} images of 360x480")
        values = measure(name, changes, chosen.data, images=chosen.images, rounds=chosen.rounds)
        for what, several in values.items():
            print(f"  {what:34} {digits(median(several)):>8} s", flush=True)


if __name__ == "__main__":
    main()
