"""The confusion matrix and the scores read from it.

Counts are int64 from the first pixel to the last, so that no amount of data loses one.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from perpixel.images import Array
from perpixel.recipes.spec import IGNORE

Matrix = npt.NDArray[np.int64]


def confusion(label: Array, prediction: Array, *, classes: int) -> Matrix:
    """Counts of pixels, int64 [classes, classes]: rows the label, columns the prediction.

    Pixels labelled IGNORE do not count. Both maps are uint8 of one shape; predictions are
    0..classes-1.
    """
    known = label != IGNORE
    cells = label[known].astype(np.int32) * classes + prediction[known]
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


@dataclass(frozen=True)
class Scores:
    """Scores of an evaluation, in percent; None for a class where a score is 0 / 0."""

    miou: float
    pixel_accuracy: float
    mean_accuracy: float
    iou: dict[str, float | None]
    accuracy: dict[str, float | None]
    dice: dict[str, float | None]
    precision: dict[str, float | None]
    recall: dict[str, float | None]
    fscore: dict[str, float | None]
    confusion: Matrix
    images: int
    seconds: float

    def as_json(self) -> dict[str, object]:
        """Everything but the matrix, ready for json.dump."""
        return {
            "miou": self.miou,
            "pixel_accuracy": self.pixel_accuracy,
            "mean_accuracy": self.mean_accuracy,
            "iou": self.iou,
            "accuracy": self.accuracy,
            "dice": self.dice,
            "precision": self.precision,
            "recall": self.recall,
            "fscore": self.fscore,
            "images": self.images,
            "seconds": self.seconds,
        }


def scores(
    matrix: Matrix, *, names: tuple[str, ...], images: int = 0, seconds: float = 0.0
) -> Scores:
    """Scores of a confusion matrix.

    IoU = TP / (TP + FP + FN); a class's accuracy is its recall, TP / (TP + FN); precision =
    TP / (TP + FP); Dice = 2 TP / (2 TP + FP + FN); the F-score is the harmonic mean of precision
    and recall, which is Dice where both exist and are not 0 (mmsegmentation's iou_metric.py).
    Means leave out classes without a value (mmsegmentation's and sssegmentation's nanmean). A
    matrix without any count gives 0.
    """
    correct = matrix.diagonal()
    labelled = matrix.sum(axis=1)
    predicted = matrix.sum(axis=0)
    iou = _ratio(correct, labelled + predicted - correct)
    accuracy = _ratio(correct, labelled)
    dice = _ratio(2 * correct, labelled + predicted)
    total = int(matrix.sum())
    return Scores(
        miou=_mean(iou),
        pixel_accuracy=100 * int(correct.sum()) / total if total else 0.0,
        mean_accuracy=_mean(accuracy),
        iou=dict(zip(names, iou, strict=True)),
        accuracy=dict(zip(names, accuracy, strict=True)),
        dice=dict(zip(names, dice, strict=True)),
        precision=dict(zip(names, _ratio(correct, predicted), strict=True)),
        recall=dict(zip(names, accuracy, strict=True)),
        fscore={name: value or None for name, value in zip(names, dice, strict=True)},
        confusion=matrix,
        images=images,
        seconds=seconds,
    )


def _ratio(part: Matrix, whole: Matrix) -> list[float | None]:
    return [100 * int(p) / int(w) if w else None for p, w in zip(part, whole, strict=True)]


def _mean(values: list[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else 0.0
