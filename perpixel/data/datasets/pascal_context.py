"""Pascal Context (Mottaghi et al., 2014): 59 classes, or 60 with the background.

Layout: VOCdevkit/VOC2010/JPEGImages, and the labels in one of two forms. trainval/NAME.mat is the
original release: whole scenes in 459 ids, of which `RAW_IDS` are the classes and the rest is
background; it lies in VOC2010, VOCdevkit or beside that. SegmentationClassContext/NAME.png holds 0
(background) to 59, as mmsegmentation prepares it. Splits are those of
ImageSets/SegmentationContext (4,996 + 5,104 in mmsegmentation's preparation), or else VOC 2010's
own in ImageSets/Main (4,998 + 5,105). Names and colors are mmsegmentation's.
"""

from pathlib import Path

from perpixel.data.dataset import Classes, LabelMapping, PairDataset
from perpixel.data.pair_list import PairList
from perpixel.data.paths import find_folder, read_list
from perpixel.errors import PerpixelError
from perpixel.recipes.overrides import require_known
from perpixel.recipes.schema import IGNORE_INDEX

CLASSES = Classes.listed(
    """
    background, aeroplane, bag, bed, bedclothes, bench, bicycle, bird, boat, book, bottle,
    building, bus, cabinet, car, cat, ceiling, chair, cloth, computer, cow, cup, curtain, dog,
    door, fence, floor, flower, food, grass, ground, horse, keyboard, light, motorbike,
    mountain, mouse, person, plate, platform, pottedplant, road, rock, sheep, shelves, sidewalk,
    sign, sky, snow, sofa, table, track, train, tree, truck, tvmonitor, wall, water, window,
    wood
    """,
    """
    787878 b47878 06e6e6 503232 04c803 787850 8c8c8c cc05ff e6e6e6 04fa07 e005ff ebff07 96053d
    787846 08ff33 ff0652 8fff8c ccff04 ff3307 cc4603 0066c8 3de6fa ff0633 0b66ff ff0747 ff09e0
    0907e6 dcdcdc ff095c 7009ff 08ffd6 07ffe0 ffb806 0aff47 ff290a 07ffff e0ff08 6608ff ff3d06
    ffc207 ff7a08 00ff14 ff0829 ff0599 0633ff eb0cff a09614 00a3ff 8c8c8c fa0a0f 14ff00 1fff00
    ff1f00 ffe000 99ff00 0000ff ff4700 00ebff 00adff 1f00ff
    """,
)

CLASSES_59 = Classes(CLASSES.names[1:], CLASSES.palette[1:])

_FCN_ORDER = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "table", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor", "bag", "bed", "bench", "book", "building", "cabinet", "ceiling", "cloth",
    "computer", "cup", "door", "fence", "floor", "flower", "food", "grass", "ground", "keyboard",
    "light", "mountain", "mouse", "curtain", "platform", "sign", "plate", "road", "rock", "shelves",
    "sidewalk", "sky", "snow", "bedclothes", "track", "tree", "truck", "wall", "water", "window",
    "wood",
)  # fmt: skip
"""The order of the original FCN's outputs: Pascal VOC's classes first (classes-59.txt)."""

CLASSES_FCN = Classes(
    _FCN_ORDER, tuple(CLASSES.palette[CLASSES.names.index(name)] for name in _FCN_ORDER)
)

RAW_IDS = (
    2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113,
    115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326,
    347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458,
)  # fmt: skip
"""The 59 classes' ids among the release's 459 (the Detail API's list), in the classes' order."""

_PNG_IDS = {index: index for index in range(len(CLASSES))}
_MAT_IDS = {**dict.fromkeys(range(460), 0), **{raw: i + 1 for i, raw in enumerate(RAW_IDS)}}

_SPLITS = ("train", "val")
_FOLDERS = (".", "VOC2010", "VOCdevkit/VOC2010")


def open_pascal_context(root: Path, split: str) -> PairDataset:
    """Opens the split "train" or "val" with 60 classes, in the order of its list.

    `root` is VOC2010, VOCdevkit or the folder above it. Raises PerpixelError.
    """
    files, ids = _find_pairs(root, split)
    return PairDataset(root, files, CLASSES, LabelMapping(ids=ids))


def open_pascal_context_59(root: Path, split: str) -> PairDataset:
    """Opens the same pairs with 59 classes: the background is ignored."""
    files, ids = _find_pairs(root, split)
    ids = {raw: index - 1 if index else IGNORE_INDEX for raw, index in ids.items()}
    return PairDataset(root, files, CLASSES_59, LabelMapping(ids=ids))


def open_pascal_context_fcn(root: Path, split: str) -> PairDataset:
    """Opens the same pairs with 60 classes in the order of the original FCN's outputs."""
    files, ids = _find_pairs(root, split)
    ids = {raw: _FCN_ORDER.index(CLASSES.names[index]) for raw, index in ids.items()}
    return PairDataset(root, files, CLASSES_FCN, LabelMapping(ids=ids))


def _find_pairs(root: Path, split: str) -> tuple[PairList, dict[int, int]]:
    """Finds the pairs of a split, and the class, of 60, of each id in their masks."""
    require_known(split, _SPLITS, f"pascal_context has no split {split!r}")
    voc = find_folder(root, _FOLDERS, marker="JPEGImages", dataset="pascal_context")
    lists = voc / "ImageSets/SegmentationContext"
    names = read_list((lists if lists.is_dir() else voc / "ImageSets/Main") / f"{split}.txt")
    png_folder = voc / "SegmentationClassContext"
    bases = dict.fromkeys((voc, voc.parent if voc != root else root, root))
    mat_folder = next((base / "trainval" for base in bases if (base / "trainval").is_dir()), None)
    if png_folder.is_dir():
        folder, suffix, ids = png_folder, ".png", _PNG_IDS
    elif mat_folder is not None:
        folder, suffix, ids = mat_folder, ".mat", _MAT_IDS
    else:
        raise PerpixelError(
            f"{voc}: holds neither trainval (the release's .mat files) nor "
            f"SegmentationClassContext; `perpixel data download pascal_context ROOT` brings the "
            f"first"
        )
    images, masks = voc.relative_to(root) / "JPEGImages", folder.relative_to(root)
    files = PairList(
        ((images / f"{name}.jpg").as_posix(), (masks / f"{name}{suffix}").as_posix())
        for name in names
    )
    return files, ids
