"""PASCAL VOC 2012 segmentation (Everingham et al.), with SBD's masks for `trainaug`.

Layout: VOCdevkit/VOC2012/{JPEGImages, SegmentationClass, ImageSets/Segmentation}. `trainaug` is
VOC's train and every image of SBD (Hariharan et al., 2011: benchmark_RELEASE/dataset/{cls,
train.txt, val.txt}) that is not in VOC's val: 1,464 + 9,118 = 10,582 images. VOC's own masks go
before SBD's, which have no unlabeled outlines (mmsegmentation's choice). In SBD's place,
VOC2012/SegmentationClassAug may hold the same masks as PNG files of indices.
"""

from pathlib import Path

from perpixel.data.dataset import Classes, LabelMapping, PairDataset
from perpixel.data.pair_list import PairList
from perpixel.data.paths import below, find_folder, matching, read_list, require_split
from perpixel.errors import PerpixelError
from perpixel.recipes.schema import IGNORE_INDEX

CLASSES = Classes.listed(
    """
    background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable,
    dog, horse, motorbike, person, pottedplant, sheep, sofa, train, tvmonitor
    """,
    """
    000000 800000 008000 808000 000080 800080 008080 808080 400000 c00000 408000 c08000 400080
    c00080 408080 c08080 004000 804000 00c000 80c000 004080
    """,
)

TABLE = LabelMapping(ids={**{index: index for index in range(len(CLASSES))}, 255: IGNORE_INDEX})

_PLACES = (".", "VOC2012", "VOCdevkit/VOC2012")
_SPLITS = ("train", "val", "trainval", "trainaug", "test")
_SBD = ("benchmark_RELEASE/dataset", "benchmark_RELEASE", "SBD", "sbd")


_READY = "SegmentationClassAug"


def open_pascal_voc(root: Path, split: str) -> PairDataset:
    """The pairs of "train", "val", "trainval", "trainaug" or "test", in their lists' order.

    `root` is VOC2012, VOCdevkit or the folder above it. The test split has no published masks:
    its images can be read, its labels cannot. Raises PerpixelError.
    """
    require_split(split, _SPLITS, dataset="pascal_voc")
    voc = find_folder(root, _PLACES, marker="ImageSets/Segmentation", dataset="pascal_voc")
    masks = _augmented(root, voc) if split == "trainaug" else _own(voc, split)
    files = PairList(
        (below(root, voc / f"JPEGImages/{name}.jpg"), below(root, mask))
        for name, mask in masks.items()
    )
    return PairDataset(root, files, CLASSES, TABLE)


def _own(voc: Path, split: str) -> dict[str, Path]:
    """VOC's own masks of a split, by name."""
    names = read_list(voc / "ImageSets/Segmentation" / f"{split}.txt")
    return {name: voc / f"SegmentationClass/{name}.png" for name in names}


def has_trainaug(root: Path) -> bool:
    """Whether `root` holds what "trainaug" adds to "train", in either form."""
    voc = find_folder(root, _PLACES, marker="ImageSets/Segmentation", dataset="pascal_voc")
    return _sbd(root, voc) is not None or bool(matching(voc / _READY, "*.png"))


def _augmented(root: Path, voc: Path) -> dict[str, Path]:
    """The masks of `trainaug`, by name, sorted.

    Lists say which images there are, so that a mask that is absent is missed; only where there
    is neither SBD's list nor a trainaug.txt do the index PNGs speak for themselves.
    """
    ready, sbd = voc / _READY, _sbd(root, voc)
    drawn = {path.stem for path in matching(ready, "*.png")}
    listing = voc / "ImageSets/Segmentation/trainaug.txt"
    if drawn:
        folder, suffix = ready, ".png"
    elif sbd is not None:
        folder, suffix = sbd / "cls", ".mat"
    else:
        raise PerpixelError(
            f"{root}: trainaug needs SBD's masks: benchmark_RELEASE/dataset/{{cls, train.txt, "
            f"val.txt}} in it, or {ready} with index PNGs; `perpixel data download pascal_voc "
            f"ROOT` brings VOC and SBD"
        )
    if sbd is not None:
        names = {*read_list(sbd / "train.txt"), *read_list(sbd / "val.txt")}
    else:
        names = set(read_list(listing)) if listing.is_file() else drawn
    masks = {name: folder / f"{name}{suffix}" for name in names}
    for name in _own(voc, "val"):
        masks.pop(name, None)
    return dict(sorted({**masks, **_own(voc, "train")}.items()))


def _sbd(root: Path, voc: Path) -> Path | None:
    """SBD's folder, below `root` or beside VOC2012 in it; None if there is none."""
    bases = (root, voc.parent, voc) if voc != root else (root,)
    places = [base / place for base in bases for place in _SBD]
    return next((place for place in places if (place / "cls").is_dir()), None)
