"""Writes masks in the formats of the benchmarks' evaluation servers."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perpixel.data.dataset import Classes, plain_names
from perpixel.data.datasets import ade20k, cityscapes, pascal_voc
from perpixel.data.paths import first_few
from perpixel.errors import PerpixelError
from perpixel.io.images import Array, write_image, write_mask
from perpixel.recipes.overrides import require_known


@dataclass(frozen=True)
class Submission:
    """The format of one server: PNG files of `ids`, named as the images are, in `folder`.

    `ids` are the classes' values in their order; `colored` files carry the classes' palette.
    """

    name: str
    classes: Classes
    ids: tuple[int, ...]
    folder: str = "."
    colored: bool = False

    def require(self, names: tuple[str, ...]) -> None:
        """Raises PerpixelError unless a model's class `names` are the server's, in their order."""
        if plain_names(names) != plain_names(self.classes.names):
            raise PerpixelError(
                f"a {self.name} submission takes the {len(self.classes)} classes "
                f"{first_few(self.classes.names)}; the model has {len(names)}: {first_few(names)}. "
                f"If they are the same classes under other names, convert the original checkpoint "
                f"again with `perpixel convert --dataset {self.name}`, or train with a "
                f"dataset.toml that uses these names"
            )

    def write(self, out: Path, name: str, mask: Array) -> None:
        """Writes the mask, uint8 [height, width], of the image called `name` below `out`."""
        values = np.array(self.ids, np.uint8)[mask]
        path = out / self.folder / f"{name}.png"
        if self.colored:
            write_mask(path, values, self.classes.palette)
        else:
            write_image(path, values)


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
