"""Cityscapes, fine annotations (Cordts et al., 2016): 19 classes.

Layout: leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png and gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png,
whose ids are `LABEL_IDS`; where a split has no labelIds, its labelTrainIds files are read.
2,975 images to train, 500 to validate, 1,525 to test (those without published labels).
"""

from pathlib import Path

from perpixel.data.dataset import Classes, LabelMapping, PairDataset
from perpixel.data.pair_list import PairList
from perpixel.data.paths import find_folder, list_files
from perpixel.errors import PerpixelError
from perpixel.recipes.overrides import require_known
from perpixel.recipes.schema import IGNORE_INDEX

CLASSES = Classes.listed(
    """
    road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation,
    terrain, sky, person, rider, car, truck, bus, train, motorcycle, bicycle
    """,
    """
    804080 f423e8 464646 66669c be9999 999999 faaa1e dcdc00 6b8e23 98fb98 4682b4 dc143c ff0000
    00008e 000046 003c64 005064 0000e6 770b20
    """,
)

OTHER_CLASSES = Classes.listed(
    """
    dynamic, ground, parking, rail track, guard rail, bridge, tunnel, caravan, trailer
    """,
    "6f4a00 510051 faaaa0 e6968c b4a5b4 966464 96785a 00005a 00006e",
)
"""Further classes in *_gtFine_color.png files, which are not evaluated (cityscapesScripts)."""

LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The classes' ids in labelIds files and submissions, in the classes' order (cityscapesScripts)."""

_MAPPINGS = {
    "labelIds": LabelMapping(
        ids={
            **dict.fromkeys(range(34), IGNORE_INDEX),
            **{raw: index for index, raw in enumerate(LABEL_IDS)},
            255: IGNORE_INDEX,
        }
    ),
    "labelTrainIds": LabelMapping(ids={**{i: i for i in range(len(CLASSES))}, 255: IGNORE_INDEX}),
}

_SPLITS = ("train", "val", "test")


def open_cityscapes(root: Path, split: str) -> PairDataset:
    """Opens the split "train", "val" or "test", sorted by city and name. Raises PerpixelError."""
    require_known(split, _SPLITS, f"cityscapes has no split {split!r}")
    root = find_folder(root, (".", "cityscapes"), marker="leftImg8bit", dataset="cityscapes")
    images = list_files(root / "leftImg8bit" / split, "*/*_leftImg8bit.png")
    if not images:
        raise PerpixelError(
            f"{root / 'leftImg8bit' / split}: holds no CITY/NAME_leftImg8bit.png images"
        )
    labels = root / "gtFine" / split
    kind = next((kind for kind in _MAPPINGS if list_files(labels, f"*/*_gtFine_{kind}.png")), None)
    if kind is None:
        raise PerpixelError(
            f"{labels}: holds no CITY/NAME_gtFine_labelIds.png (from gtFine_trainvaltest.zip)"
        )
    files = []
    for image in images:
        name = image.name.removesuffix("_leftImg8bit.png")
        mask = f"gtFine/{split}/{image.parent.name}/{name}_gtFine_{kind}.png"
        files.append((image.relative_to(root).as_posix(), mask))
    return PairDataset(root, PairList(files), CLASSES, _MAPPINGS[kind])
