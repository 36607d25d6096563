"""Writes masks in data sets' own ids, and as the benchmarks' evaluation servers take them."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from perpixel.data.dataset import Classes, plain_names
from perpixel.data.datasets import ade20k, cityscapes, pascal_voc
from perpixel.data.datasets.folder import FILE, classes_of_folder
from perpixel.data.paths import first_few
from perpixel.errors import PerpixelError
from perpixel.io.images import Array, write_ids, write_mask
from perpixel.recipes.overrides import require_known


@dataclass(frozen=True)
class Submission:
    """The format of a data set or its server: PNG files of `ids`, named as images, in `folder`.

    `ids` are the classes' values, 0..65535, in their order; `colored` files carry the classes'
    palette.
    """

    name: str
    classes: Classes
    ids: tuple[int, ...]
    folder: str = "."
    colored: bool = False

    def require(self, names: tuple[str, ...]) -> None:
        """Raises PerpixelError unless a model's class `names` are these, in their order."""
        if plain_names(names) != plain_names(self.classes.names):
            raise PerpixelError(
                f"masks of {self.name} hold the {len(self.classes)} classes "
                f"{first_few(self.classes.names)}; the model has {len(names)}: {first_few(names)}. "
                f"If they are the same classes under other names, rename the model's with "
                f"`perpixel convert MODEL OUT --names NAMES`, or train with a dataset.toml that "
                f"uses these names"
            )

    def write(self, out: Path, name: str, mask: Array) -> None:
        """Writes the mask, uint8 [height, width], of the image called `name` below `out`."""
        values = np.array(self.ids, np.uint16)[mask]
        narrow = values.astype(np.uint8)
        path = out / self.folder / f"{name}.png"
        if self.colored:
            write_mask(path, narrow, self.classes.palette)
        else:
            write_ids(path, narrow if max(self.ids) < 256 else values)


_SUBMISSIONS = {
    "cityscapes": Submission("cityscapes", cityscapes.CLASSES, cityscapes.LABEL_IDS),
    "ade20k": Submission("ade20k", ade20k.CLASSES, tuple(range(1, 151))),
    "pascal_voc": Submission(
        "pascal_voc",
        pascal_voc.CLASSES,
        tuple(range(21)),
        folder="results/VOC2012/Segmentation/comp6_test_cls",
        colored=True,
    ),
}


def find_submission(name: str) -> Submission:
    """Returns the submission format of the benchmark called `name`; raises UsageError."""
    require_known(name, _SUBMISSIONS, f"--submission {name!r}: no such benchmark")
    return _SUBMISSIONS[name]


def find_ids(source: str) -> Submission:
    """Returns the ids of a benchmark's masks, or of those that a folder's dataset.toml describes.

    Of several ids of a class it is the first. Raises UsageError for an unknown name, PerpixelError
    for a wrong dataset.toml and one whose classes have other values than ids 0..65535.
    """
    root = Path(source)
    if not (root / FILE).is_file():
        known = f"--ids {source!r}: neither the folder of a {FILE} nor a benchmark"
        require_known(source, _SUBMISSIONS, known)
        return replace(_SUBMISSIONS[source], folder=".", colored=False)
    classes, mapping = classes_of_folder(root)
    id_of = {index: raw for raw, index in reversed(mapping.ids.items())}
    ids = tuple(id_of.get(index, -1) for index in range(len(classes)))
    if min(ids) < 0:
        raise PerpixelError(f"{root / FILE}: its classes have colors or negative ids, not ids")
    return Submission(str(root), classes, ids)
