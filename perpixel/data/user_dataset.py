"""Adapts a user's data set, any object with images and masks by index, to the Dataset protocol."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from perpixel.data.dataset import Classes, Dataset, Rows
from perpixel.errors import PerpixelError, UsageError
from perpixel.io.images import Array, distinct_palette
from perpixel.recipes.schema import IGNORE_INDEX


class SegmentationDataset(Protocol):
    """A data set for `perpixel.train` and `perpixel.evaluate`.

    A torch.utils.data.Dataset that returns such pairs is one. It may also have `palette`, an RGB
    color per class. A sample depends on its index alone: it is read in worker processes, and in
    evaluation from threads. A sample that raises perpixel.errors.CorruptFileError is replaced in
    training.
    """

    @property
    def class_names(self) -> Sequence[str]:
        """Names of the classes, in the order of the masks' indices."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Array, Array]:
        """Image, uint8 RGB [H, W, 3], and mask, uint8 [H, W]: class indices, 255 where ignored."""


def wrap_dataset(dataset: SegmentationDataset | Dataset) -> Dataset:
    """Wraps a user's data set; returns one of perpixel's own unchanged. Raises UsageError."""
    if isinstance(dataset, Dataset):
        return dataset
    try:
        if isinstance(dataset.class_names, str):
            raise TypeError(f"class_names={dataset.class_names!r} is a text, not a list of names")
        names = tuple(dataset.class_names)
        palette = tuple(tuple(color) for color in getattr(dataset, "palette", ()))
        classes = Classes(names, palette or distinct_palette(len(names)))
        len(dataset)
    except (AttributeError, TypeError, ValueError) as error:
        raise UsageError(
            f"a data set needs __len__, __getitem__(i) -> (image, mask) and class_names with at "
            f"most {IGNORE_INDEX - 1} classes; {type(dataset).__name__} does not fit: {error}"
        ) from None
    return UserDataset(dataset, classes)


class UserDataset:
    """A user's data set as a `Dataset`. Every sample's types, sizes and values are checked."""

    def __init__(self, dataset: SegmentationDataset, classes: Classes) -> None:
        self.classes = classes
        self._dataset = dataset
        self._last_sample: tuple[int, Array, Array] | None = None  # for label() and then image()

    def __len__(self) -> int:
        return len(self._dataset)

    def sample_id(self, index: int) -> str:
        """The sample's index."""
        return f"sample {index}"

    def image(self, index: int, *, rows: Rows | None = None) -> Array:  # noqa: ARG002  reads all
        """The image, uint8 RGB [height, width, 3]."""
        return self._read(index)[0]

    def label(self, index: int) -> Array:
        """The image's mask, uint8 [height, width]: 0..num_classes-1, and IGNORE_INDEX."""
        return self._read(index)[1]

    def _read(self, index: int) -> tuple[Array, Array]:
        sample = self._last_sample
        if sample is None or sample[0] != index:
            pair = self._dataset[index]
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise PerpixelError(
                    f"sample {index}: __getitem__ returned a {type(pair).__name__}, and should "
                    f"return (image, mask)"
                )
            image, mask = map(np.asarray, pair)
            self._check(index, image, mask)
            sample = self._last_sample = index, image, mask
        return sample[1:]

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
