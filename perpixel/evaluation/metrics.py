"""The confusion matrix and the scores read from it.

Counts are int64 from the first pixel to the last, so that no amount of data loses one.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL.Image import Image

from perpixel.io import figures
from perpixel.io.images import Array, write_image

Matrix = npt.NDArray[np.int64]


def confusion(label: Array, prediction: Array, *, num_classes: int) -> Matrix:
    """Counts of pixels, int64 [num_classes, num_classes]: rows the label, columns the prediction.

    Pixels labeled IGNORE_INDEX do not count. Both maps are uint8 of one shape; predictions are
    0..num_classes-1.
    """
    total = np.zeros((num_classes, num_classes), np.int64)
    step = max(1, 2**24 // label.shape[1])  # OpenCV gives counts as float32, exact up to 2^24
    for top in range(0, len(label), step):
        part = [np.ascontiguousarray(mask[top : top + step]) for mask in (label, prediction)]
        # All 256 values, of which IGNORE_INDEX and its like are cut off: twice as fast as a range.
        counts = cv2.calcHist(part, [0, 1], None, [256, 256], [0, 256, 0, 256])
        total += np.asarray(counts)[:num_classes, :num_classes].astype(np.int64)
    return total


def areas(matrix: Matrix) -> Matrix:
    """Returns each class's correct, labeled and predicted pixels, int64 [3, num_classes]."""
    return np.stack([matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)])


@dataclass(frozen=True)
class ImageScores:
    """Scores of one image, in percent; None where it shows no such class, or no label at all."""

    name: str
    miou: float | None
    pixel_accuracy: float | None
    iou: dict[str, float | None]


@dataclass(frozen=True)
class Scores:
    """Scores of an evaluation, in percent; None for a class where a score is 0 / 0.

    `boundary_iou` is None where it was not asked for.
    """

    miou: float
    pixel_accuracy: float
    mean_accuracy: float
    frequency_weighted_iou: float
    # A repr of every class, pixel count and image would fill the screen.
    iou: dict[str, float | None] = field(repr=False)
    accuracy: dict[str, float | None] = field(repr=False)
    dice: dict[str, float | None] = field(repr=False)
    precision: dict[str, float | None] = field(repr=False)
    boundary_iou: dict[str, float | None] | None = field(repr=False)
    confusion: Matrix = field(repr=False)
    per_image: tuple[ImageScores, ...] = field(repr=False)
    images: int
    seconds: float

    def plot_confusion(self, path: str | Path | None = None) -> Image:
        """Draws the confusion matrix, in percent of each label's pixels, and writes it to `path`.

        Raises PerpixelError when the file cannot be written.
        """
        figure = figures.confusion(self.confusion, list(self.iou))
        if path is not None:
            write_image(Path(path), np.asarray(figure))
        return figure

    def as_json(self) -> dict[str, object]:
        """Everything but the matrix and the single images, ready for json.dump."""
        left_out = ("confusion", "per_image")
        return {
            name: value
            for name, value in vars(self).items()
            if name not in left_out and value is not None
        }


def scores(
    matrix: Matrix,
    *,
    names: tuple[str, ...],
    images: Iterable[tuple[str, Matrix]] = (),
    boundaries: Matrix | None = None,
    seconds: float = 0.0,
) -> Scores:
    """Scores of a confusion matrix.

    IoU = TP / (TP + FP + FN); a class's accuracy is its recall, TP / (TP + FN); precision =
    TP / (TP + FP); Dice, the F1 score, = 2 TP / (2 TP + FP + FN) (mmsegmentation's iou_metric.py).
    Frequency-weighted IoU weights a class's IoU by its share of the labels (Long et al., 2015,
    section 5). Means leave out classes without a value (mmsegmentation's and sssegmentation's
    nanmean). A matrix without any count gives 0. `images` are names and `areas`, `boundaries`
    what boundary_counts gives, summed.
    """
    correct, labeled, predicted = areas(matrix)
    iou = _iou(correct, labeled, predicted)
    accuracy = _ratio(correct, labeled)
    dice = _ratio(2 * correct, labeled + predicted)
    total = int(matrix.sum())
    weighted = sum((value or 0.0) * int(count) for value, count in zip(iou, labeled, strict=True))
    singles = tuple(_of_image(name, counts, names) for name, counts in images)

    def by_class(values: Iterable[float | None]) -> dict[str, float | None]:
        return dict(zip(names, values, strict=True))

    return Scores(
        miou=_mean(iou) or 0.0,
        pixel_accuracy=100 * int(correct.sum()) / total if total else 0.0,
        mean_accuracy=_mean(accuracy) or 0.0,
        frequency_weighted_iou=weighted / total if total else 0.0,
        iou=by_class(iou),
        accuracy=by_class(accuracy),
        dice=by_class(dice),
        precision=by_class(_ratio(correct, predicted)),
        boundary_iou=None if boundaries is None else by_class(_ratio(*boundaries)),
        confusion=matrix,
        per_image=singles,
        images=len(singles),
        seconds=seconds,
    )


def _of_image(name: str, counts: Matrix, names: tuple[str, ...]) -> ImageScores:
    correct, labeled, predicted = counts
    iou = _iou(correct, labeled, predicted)
    total = int(labeled.sum())
    return ImageScores(
        name=name,
        miou=_mean(iou),
        pixel_accuracy=100 * int(correct.sum()) / total if total else None,
        iou=dict(zip(names, iou, strict=True)),
    )


def _iou(correct: Matrix, labeled: Matrix, predicted: Matrix) -> list[float | None]:
    return _ratio(correct, labeled + predicted - correct)


def _ratio(numerators: Matrix, denominators: Matrix) -> list[float | None]:
    return [
        100 * int(part) / int(whole) if whole else None
        for part, whole in zip(numerators, denominators, strict=True)
    ]


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
