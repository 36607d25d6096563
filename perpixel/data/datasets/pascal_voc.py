"""PASCAL VOC 2012 segmentation (Everingham et al.), with SBD's masks for `trainaug`.

Layout: VOCdevkit/VOC2012/{JPEGImages, SegmentationClass, ImageSets/Segmentation}. `trainaug` is
VOC's train and every image of SBD (Hariharan et al., 2011: benchmark_RELEASE/dataset/{cls,
train.txt, val.txt}) that is not in VOC's val: 1,464 + 9,118 = 10,582 images. VOC's own masks take
precedence over SBD's, which have no unlabeled outlines (mmsegmentation's choice). Instead of SBD,
VOC2012/SegmentationClassAug may hold the same masks as PNG files of indices.

The original FCN (shelhamer/fcn.berkeleyvision.org, data/pascal) trained on `sbd_train`, SBD's own
train.txt with SBD's masks, 8,498 images, and was scored on `seg11valid`, the 736 images of VOC
2011's val that are not among them, with VOC's masks.
"""

from pathlib import Path

from perpixel.data.dataset import Classes, LabelMapping, PairDataset
from perpixel.data.pair_list import PairList
from perpixel.data.paths import find_folder, list_files, read_list
from perpixel.errors import PerpixelError
from perpixel.recipes.overrides import require_known
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

VOID_COLOR = (224, 224, 192)
"""The color of unlabeled outlines in the palette of VOC's masks."""

MAPPING = LabelMapping(ids={**{index: index for index in range(len(CLASSES))}, 255: IGNORE_INDEX})

_VOC_FOLDERS = (".", "VOC2012", "VOCdevkit/VOC2012")
_SBD_FOLDERS = ("benchmark_RELEASE/dataset", "benchmark_RELEASE", "SBD", "sbd")
_SPLITS = ("train", "val", "trainval", "trainaug", "test", "sbd_train", "seg11valid")
_SEG11VALID = Path(__file__).parent / "lists" / "seg11valid.txt"


def open_pascal_voc(root: Path, split: str) -> PairDataset:
    """Opens the split "train", "val", "trainval", "trainaug", "test", "sbd_train" or "seg11valid".

    `root` is VOC2012, VOCdevkit or the folder above it. The test split has no published masks:
    its images can be read, its labels cannot. Raises PerpixelError.
    """
    require_known(split, _SPLITS, f"pascal_voc has no split {split!r}")
    voc = _find_voc(root)
    if split == "trainaug":
        masks = _trainaug_masks(root, voc)
    elif split == "sbd_train":
        masks = _sbd_train_masks(root, voc)
    else:
        masks = _voc_masks(voc, split)
    images = voc.relative_to(root) / "JPEGImages"
    files = PairList(
        ((images / f"{name}.jpg").as_posix(), mask.relative_to(root).as_posix())
        for name, mask in masks.items()
    )
    return PairDataset(root, files, CLASSES, MAPPING)


def has_trainaug(root: Path) -> bool:
    """Whether `root` holds the masks that "trainaug" adds to "train", in either form."""
    voc = _find_voc(root)
    return _find_sbd(root, voc) is not None or bool(list_files(voc / _AUG_FOLDER, "*.png"))


_AUG_FOLDER = "SegmentationClassAug"


def _find_voc(root: Path) -> Path:
    return find_folder(root, _VOC_FOLDERS, marker="ImageSets/Segmentation", dataset="pascal_voc")


def _find_sbd(root: Path, voc: Path) -> Path | None:
    """Finds SBD's folder below `root` or beside VOC2012 in it."""
    bases = (root, voc.parent, voc) if voc != root else (root,)
    candidates = [base / folder for base in bases for folder in _SBD_FOLDERS]
    return next((folder for folder in candidates if (folder / "cls").is_dir()), None)


def _voc_masks(voc: Path, split: str) -> dict[str, Path]:
    """The masks of a split of VOC itself, by name."""
    folder = voc / "ImageSets/Segmentation"
    names = read_list(_SEG11VALID if split == "seg11valid" else folder / f"{split}.txt")
    return {name: voc / f"SegmentationClass/{name}.png" for name in names}


def _sbd_train_masks(root: Path, voc: Path) -> dict[str, Path]:
    """The masks of SBD's train.txt, in its order."""
    sbd = _find_sbd(root, voc)
    if sbd is None:
        raise PerpixelError(
            f"{root}: sbd_train needs SBD: benchmark_RELEASE/dataset/{{cls, train.txt}} in it; "
            f"`perpixel data download pascal_voc ROOT` brings VOC and SBD"
        )
    return {name: sbd / f"cls/{name}.mat" for name in read_list(sbd / "train.txt")}


def _trainaug_masks(root: Path, voc: Path) -> dict[str, Path]:
    """The masks of `trainaug`, by name, sorted.

    SBD's lists or trainaug.txt name the images, so that a missing mask is noticed; without either,
    the images are those of the PNG files in SegmentationClassAug.
    """
    sbd = _find_sbd(root, voc)
    aug_names = {path.stem for path in list_files(voc / _AUG_FOLDER, "*.png")}
    list_file = voc / "ImageSets/Segmentation/trainaug.txt"
    if aug_names:
        folder, suffix = voc / _AUG_FOLDER, ".png"
    elif sbd is not None:
        folder, suffix = sbd / "cls", ".mat"
    else:
        raise PerpixelError(
            f"{root}: trainaug needs SBD's masks: benchmark_RELEASE/dataset/{{cls, train.txt, "
            f"val.txt}} in it, or {voc / _AUG_FOLDER} with index PNGs; `perpixel data download "
            f"pascal_voc ROOT` brings VOC and SBD"
        )
    if sbd is not None:
        names = {*read_list(sbd / "train.txt"), *read_list(sbd / "val.txt")}
    else:
        names = set(read_list(list_file)) if list_file.is_file() else aug_names
    masks = {name: folder / f"{name}{suffix}" for name in names}
    for name in _voc_masks(voc, "val"):
        masks.pop(name, None)
    return dict(sorted({**masks, **_voc_masks(voc, "train")}.items()))
