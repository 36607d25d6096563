"""Boundary IoU (Cheng et al., 2021, "Boundary IoU: Improving Object-Centric Image Segmentation
Evaluation", equation 3), for classes in place of instances."""

import math

import cv2
import numpy as np
import numpy.typing as npt

from perpixel.io.images import Array
from perpixel.recipes.schema import IGNORE_INDEX

DISTANCE = 0.02
"""Width of the band along a border, as a share of the image's diagonal (section 4.1)."""


def boundary_counts(
    label: Array, prediction: Array, *, num_classes: int, distance: float = DISTANCE
) -> npt.NDArray[np.int64]:
    """Returns the pixels in both bands and in either, int64 [2, num_classes]; sum over images.

    A class's band is those of its pixels that are at most d pixels (chessboard distance, at least
    1) from one of another class or from the image's edge. Both maps are uint8 [H, W]; pixels
    labeled IGNORE_INDEX are of no class in either.
    """
    width = max(1, round(distance * math.hypot(*label.shape)))
    counts = np.zeros((2, num_classes), np.int64)
    known = label != IGNORE_INDEX
    for index in np.union1d(np.unique(label[known]), np.unique(prediction[known])):
        truth = _band(known & (label == index), width)
        guess = _band(known & (prediction == index), width)
        counts[:, index] = (truth & guess).sum(), (truth | guess).sum()
    return counts


def _band(mask: npt.NDArray[np.bool_], width: int) -> npt.NDArray[np.bool_]:
    framed = np.pad(mask.astype(np.uint8), 1)
    distance = cv2.distanceTransform(framed, cv2.DIST_C, cv2.DIST_MASK_3)[1:-1, 1:-1]
    return mask & (distance <= width)
