"""Draws images with their masks over them, and a legend of the classes, as one figure."""

from collections.abc import Iterable
from itertools import islice

import numpy as np
import numpy.typing as npt

from perpixel.data.dataset import Classes
from perpixel.io import figures
from perpixel.io.images import Array, overlay, readable_palette

MAX_IMAGES = 12
"""More would be too small to see, or too many to look at."""


def label_sheet(samples: Iterable[tuple[Array, Array, str]], classes: Classes) -> Array:
    """Draws the first MAX_IMAGES of (image, mask, name); unlabeled pixels have no color."""
    palette = readable_palette(classes.palette)
    tiles, shown = [], set[int]()
    for image, mask, name in islice(samples, MAX_IMAGES):
        tiles.append((figures.fit(overlay(image, mask, palette)), name))
        shown |= set(np.unique(mask).tolist())
    return figures.sheet(tiles, columns=4, classes=classes.names, palette=palette, shown=shown)


def choose_examples(pixels: npt.NDArray[np.int64]) -> list[int]:
    """Chooses up to MAX_IMAGES images that show every class, if they can, and show it well.

    `pixels` has the pixels of every class in every image, [images, classes]; an image without any
    is not chosen.
    """
    shares = pixels / np.maximum(pixels.sum(axis=1, keepdims=True), 1)
    value = (shares > 0) + shares / np.maximum(shares.max(axis=0, initial=0), 1e-9)
    best = np.zeros(pixels.shape[1])
    chosen: list[int] = []
    candidates = np.flatnonzero(pixels.any(axis=1))
    while len(chosen) < min(MAX_IMAGES, len(candidates)):
        gains = np.maximum(value[candidates] - best, 0).sum(axis=1)
        gains[np.isin(candidates, chosen)] = -1
        chosen.append(int(candidates[gains.argmax()]))
        best = np.maximum(best, value[chosen[-1]])
    return sorted(chosen)
