"""SIFT Flow (Liu et al., 2009), 33 semantic classes, as Tighe and Lazebnik's archive lays it out.

Layout: {Images, SemanticLabels}/spatial_envelope_256x256_static_8outdoorcategories/NAME.{jpg, mat},
in SiftFlowDataset or where it was unpacked. A mask is the variable S of a .mat file: 0 void, 1 to
33 the classes. The split "test" are the usual 200 images, "trainval" all others with a mask but
highway_bost181 and street_urb506, which lack labels: 2,486 (data/sift-flow of
shelhamer/fcn.berkeleyvision.org). Cow, desert and moon are absent from "test".
"""

from pathlib import Path

from perpixel.data.dataset import Classes, LabelMapping, PairDataset
from perpixel.data.pair_list import PairList
from perpixel.data.paths import find_folder, list_files, read_list
from perpixel.errors import PerpixelError
from perpixel.io.images import distinct_palette
from perpixel.recipes.overrides import require_known
from perpixel.recipes.schema import IGNORE_INDEX

_NAMES = (
    "awning", "balcony", "bird", "boat", "bridge", "building", "bus", "car", "cow", "crosswalk",
    "desert", "door", "fence", "field", "grass", "moon", "mountain", "person", "plant", "pole",
    "river", "road", "rock", "sand", "sea", "sidewalk", "sign", "sky", "staircase", "streetlight",
    "sun", "tree", "window",
)  # fmt: skip
CLASSES = Classes(_NAMES, distinct_palette(len(_NAMES)))

_MAPPING = LabelMapping(ids={0: IGNORE_INDEX, **{i + 1: i for i in range(len(CLASSES))}})
_SCENES = "spatial_envelope_256x256_static_8outdoorcategories"
_UNLABELED = ("highway_bost181", "street_urb506")
_TEST = Path(__file__).parent / "lists" / "siftflow_test.txt"


def open_siftflow(root: Path, split: str) -> PairDataset:
    """Opens the split "trainval" or "test". Raises PerpixelError."""
    require_known(split, ("trainval", "test"), f"siftflow has no split {split!r}")
    folder = find_folder(
        root, (".", "SiftFlowDataset"), marker=f"SemanticLabels/{_SCENES}", dataset="siftflow"
    )
    masks = folder / "SemanticLabels" / _SCENES
    names = read_list(_TEST)
    if split == "trainval":
        others = (path.stem for path in list_files(masks, "*.mat"))
        names = tuple(name for name in others if name not in {*names, *_UNLABELED})
        if not names:
            raise PerpixelError(f"{masks}: holds no mask of trainval, NAME.mat")
    below = folder.relative_to(root)
    files = PairList(
        (
            (below / "Images" / _SCENES / f"{name}.jpg").as_posix(),
            (below / "SemanticLabels" / _SCENES / f"{name}.mat").as_posix(),
        )
        for name in names
    )
    return PairDataset(root, files, CLASSES, _MAPPING)
