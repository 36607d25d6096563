"""Any object that gives images and masks by index, as a data set of perpixel's."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from perpixel.data.dataset import Classes, Dataset, Rows
from perpixel.errors import PerpixelError, UsageError
from perpixel.io.images import Array, distinct_palette
from perpixel.recipes.schema import IGNORE_INDEX


class SegmentationDataset(Protocol):
    """What `perpixel.train` and `perpixel.evaluate` take; `palette`, RGB per class, is optional.

    A torch.utils.data.Dataset that returns such pairs is one.
    """

    @property
    def class_names(self) -> Sequence[str]:
        """Names of the classes, in the order of the masks' indices."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Array, Array]:
        """Image, uint8 RGB [H, W, 3], and mask, uint8 [H, W]: class indices, 255 where ignored."""


def wrap_dataset(dataset: SegmentationDataset | Dataset) -> Dataset:
    """`dataset` as one of perpixel's own, or itself if it is one; raises UsageError."""
    if isinstance(dataset, Dataset):
        return dataset
    try:
        names = tuple(dataset.class_names)
        palette = tuple(tuple(color) for color in getattr(dataset, "palette", ()))
        classes = Classes(names, palette or distinct_palette(len(names)))
        len(dataset)
    except (AttributeError, TypeError, ValueError) as error:
        raise UsageError(
            f"a data set has __len__, __getitem__(i) -> (image, mask) and class_names, with at "
            f"most {IGNORE_INDEX - 1} classes; {type(dataset).__name__} has not: {error}"
        ) from None
    return UserDataset(dataset, classes)


class UserDataset:
    """The adapter: one sample is read at a time, and checked."""

    def __init__(self, dataset: SegmentationDataset, classes: Classes) -> None:
        self.classes = classes
        self._dataset = dataset
        self._last: tuple[int, Array, Array] | None = None

    def __len__(self) -> int:
        return len(self._dataset)

    def sample_id(self, index: int) -> str:
        """The sample's index."""
        return f"sample {index}"

    def image(self, index: int, *, rows: Rows | None = None) -> Array:  # noqa: ARG002  all are read
        """The image, uint8 RGB [height, width, 3]."""
        return self._read(index)[0]

    def label(self, index: int) -> Array:
        """Its mask, uint8 [height, width]: 0..num_classes-1, and IGNORE_INDEX."""
        return self._read(index)[1]

    def _read(self, index: int) -> tuple[Array, Array]:
        if self._last is None or self._last[0] != index:
            image, mask = (np.asarray(part) for part in self._dataset[index])
            self._check(index, image, mask)
            self._last = index, image, mask
        return self._last[1:]

    def _check(self, index: int, image: Array, mask: Array) -> None:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise PerpixelError(
                f"sample {index}: the image is {image.dtype} {list(image.shape)}, and should be "
                f"uint8 RGB [height, width, 3]"
            )
        if mask.dtype != np.uint8 or mask.shape != image.shape[:2]:
            raise PerpixelError(
                f"sample {index}: the mask is {mask.dtype} {list(mask.shape)}, and should be uint8 "
                f"{list(image.shape[:2])}, the image's size"
            )
        unknown = np.unique(mask[(mask >= len(self.classes)) & (mask != IGNORE_INDEX)])
        if unknown.size:
            raise PerpixelError(
                f"sample {index}: the mask holds {unknown.tolist()[:8]}; class indices are "
                f"0..{len(self.classes) - 1} (class_names), and {IGNORE_INDEX} is ignored"
            )
