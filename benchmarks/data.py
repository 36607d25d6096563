"""Reading, augmenting and packing training images on one core, beside mmsegmentation.

Both read the same files and follow the same recipe: scale, crop with the share of a class, flip,
photometric distortion. The files are made of CamVid's images (benchmarks/images.py) into
--work; they are read often, so that the disk counts for nothing. perpixel is also timed with the
files cached by `perpixel data cache`.
"""

import argparse
import tempfile
from pathlib import Path

from images import cityscapes_like, voc_like
from measure import record, write_result
from peers import take_turns

from perpixel.data.cache import write_cache
from perpixel.data.registry import open_pairs

_COUNT = 24
"""Images on disk, and in a round."""

KINDS = {
    "VOC-like JPEG, 500x375, crop 512x512": {
        "dataset": "pascal_voc",
        "write": voc_like,
        "recipe": "mmseg/fcn_r50-d8_512x512_20k_voc12aug",
        "config": "fcn/fcn_r50-d8_4xb4-20k_voc12aug-512x512.py",
        "images": "VOC2012/JPEGImages/*.jpg",
        "masks": "VOC2012/SegmentationClass/*.png",
        "rounds": 4,
    },
    "Cityscapes-like PNG, 2048x1024, crop 512x1024": {
        "dataset": "cityscapes",
        "write": cityscapes_like,
        "recipe": "mmseg/fcn_r50-d8_512x1024_40k_cityscapes",
        "config": "fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py",
        "images": "leftImg8bit/train/*/*.png",
        "masks": "gtFine/train/*/*_labelTrainIds.png",
        "rounds": 1,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--camvid", type=Path, required=True, help="CamVid's root folder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, help="where files are kept; by default nowhere")
    given = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        work = given.work or Path(temporary)
        for name, kind in KINDS.items():
            root = kind["write"](given.camvid, work / kind["dataset"], count=_COUNT)
            cache = work / f"{kind['dataset']}-cache"
            pairs = {"train": open_pairs(kind["dataset"], root, "train")}
            write_cache(cache, kind["dataset"], pairs, say=print, progress=lambda *_: None)
            case = {key: kind[key] for key in ("recipe", "config", "images", "masks")}
            case |= {"count": kind["rounds"] * _COUNT, "root": str(root)}
            # One image a batch: a step is an image, whatever the recipe says.
            case["settings"] = ["train.batch_size=1"]
            cases = {
                "mmsegmentation": ("mmseg", case),
                "perpixel": ("perpixel", case),
                "perpixel, cached": ("perpixel", {**case, "root": str(cache)}),
            }
            seconds = take_turns("images", cases, rounds=given.rounds, threads=1)
            values = {
                title: [value / case["count"] for value in several]
                for title, several in seconds.items()
            }
            found.append(record(f"data: {name}", "seconds", values))
    print(write_result("data", {"measured": found}))


if __name__ == "__main__":
    main()
