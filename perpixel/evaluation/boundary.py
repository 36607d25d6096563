"""Boundary IoU (Cheng et al., 2021, "Boundary IoU: Improving Object-Centric Image Segmentation
Evaluation", equation 3), for classes in place of instances."""

import math

import cv2
import numpy as np
import numpy.typing as npt

from perpixel.images import Array
from perpixel.recipes.spec import IGNORE

DISTANCE = 0.02
"""Width of the band along a border, as a share of the picture's diagonal (section 4.1)."""


def boundary_counts(
    label: Array, prediction: Array, *, classes: int, distance: float = DISTANCE
) -> npt.NDArray[np.int64]:
    """Pixels in both bands and in either, int64 [2, classes], summed over pictures by the caller.

    A class's band is those of its pixels that are at most d pixels (chessboard distance, at least
    1) from one of another class or from the picture's edge. Both maps are uint8 [H, W]; pixels
    labelled IGNORE are of no class in either.
    """
    width = max(1, round(distance * math.hypot(*label.shape)))
    found = np.zeros((2, classes), np.int64)
    known = label != IGNORE
    for index in np.union1d(np.unique(label[known]), np.unique(prediction[known])):
        truth = _band(known & (label == index), width)
        guess = _band(known & (prediction == index), width)
        found[:, index] = (truth & guess).sum(), (truth | guess).sum()
    return found


def _band(mask: npt.NDArray[np.bool_], width: int) -> npt.NDArray[np.bool_]:
    framed = np.pad(mask.astype(np.uint8), 1)
    distance = cv2.distanceTransform(framed, cv2.DIST_C, cv2.DIST_MASK_3)[1:-1, 1:-1]
    return mask & (distance <= width)
