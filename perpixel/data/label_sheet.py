"""Draws images with their masks over them, and a legend of the classes, as one picture."""

from collections.abc import Iterable, Sequence

import numpy as np
from PIL.Image import Image

from perpixel.data.dataset import Classes
from perpixel.io import figures
from perpixel.io.images import Array, overlay, readable_palette

MAX_IMAGES = 12
"""More would be too small to see, or too many to look at."""


def label_sheet(samples: Iterable[tuple[Array, Array, str]], classes: Classes) -> Image:
    """Draws (image, mask, name) of up to MAX_IMAGES samples; unlabeled pixels have no color."""
    palette = readable_palette(classes.palette)
    tiles, shown = [], set[int]()
    for image, mask, name in samples:
        tiles.append((overlay(image, mask, palette), name))
        shown |= set(np.unique(mask).tolist())
    return figures.sheet(tiles, columns=4, classes=classes.names, palette=palette, shown=shown)


def choose_examples(classes_shown: Sequence[set[int]]) -> list[int]:
    """Chooses up to MAX_IMAGES images: first each that adds a class, the most at once; then others,
    evenly spread. `classes_shown` has the classes of every image; an empty set is never chosen."""
    chosen: list[int] = []
    missing = set[int]().union(*classes_shown)
    while missing and len(chosen) < MAX_IMAGES:
        chosen.append(max(range(len(classes_shown)), key=lambda i: len(classes_shown[i] & missing)))
        missing -= classes_shown[chosen[-1]]
    others = [i for i, shown in enumerate(classes_shown) if shown and i not in chosen]
    places = np.linspace(0, len(others) - 1, min(MAX_IMAGES - len(chosen), len(others)))
    return sorted(chosen + [others[place] for place in places.astype(int).tolist()])
