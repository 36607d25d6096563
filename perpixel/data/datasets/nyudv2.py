"""NYUDv2 (Silberman et al., 2012), 40 classes (Gupta et al., 2013), color images.

Layout, that of nyud.tar.gz of shelhamer/fcn.berkeleyvision.org: data/images/img_NUMBER.png and
segmentation/img_NUMBER.mat, whose variable `segmentation` is a mask: 0 void, 1 to 40 the classes.
Splits are the usual ones: 381 images in "train", 414 in "val", both in "trainval", 654 in "test".
"""

from pathlib import Path

from perpixel.data.dataset import Classes, LabelMapping, PairDataset
from perpixel.data.pair_list import PairList
from perpixel.data.paths import find_folder, read_list
from perpixel.io.images import distinct_palette
from perpixel.recipes.overrides import require_known
from perpixel.recipes.schema import IGNORE_INDEX

_NAMES = (
    "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf",
    "picture", "counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror",
    "floor mat", "clothes", "ceiling", "books", "refridgerator", "television", "paper", "towel",
    "shower curtain", "box", "whiteboard", "person", "night stand", "toilet", "sink", "lamp",
    "bathtub", "bag", "otherstructure", "otherfurniture", "otherprop",
)  # fmt: skip
CLASSES = Classes(_NAMES, distinct_palette(len(_NAMES)))

_MAPPING = LabelMapping(ids={0: IGNORE_INDEX, **{i + 1: i for i in range(len(CLASSES))}})
_LISTS = Path(__file__).parent / "lists"
_SPLITS = {"train": ("train",), "val": ("val",), "trainval": ("train", "val"), "test": ("test",)}


def open_nyudv2(root: Path, split: str) -> PairDataset:
    """Opens the split "train", "val", "trainval" or "test". Raises PerpixelError."""
    require_known(split, _SPLITS, f"nyudv2 has no split {split!r}")
    folder = find_folder(root, (".", "nyud"), marker="segmentation", dataset="nyudv2")
    below = folder.relative_to(root)
    files = PairList(
        (
            (below / f"data/images/img_{number}.png").as_posix(),
            (below / f"segmentation/img_{number}.mat").as_posix(),
        )
        for part in _SPLITS[split]
        for number in read_list(_LISTS / f"nyudv2_{part}.txt")
    )
    return PairDataset(root, files, CLASSES, _MAPPING)
