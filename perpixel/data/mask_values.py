"""Counts the values of a folder's masks, and finds signs of masks that were resized or blurred."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from perpixel.data.dataset import RawValue, value_counts
from perpixel.data.datasets.folder import FILE
from perpixel.errors import PerpixelError
from perpixel.io.images import read_mask
from perpixel.recipes.schema import IGNORE_INDEX

_COMMON_VALUES, _MIN_RARE_VALUES, _MAX_RARE_SHARE = 8, 16, 0.02
"""This many values beside the most common ones, in so few pixels, are an artifact, not classes."""


def count_values(paths: Sequence[Path]) -> tuple[Mapping[RawValue, int], list[str]]:
    """Counts the ids or colors of the masks; returns notes on suspicious ones, too.

    Raises PerpixelError when a mask cannot be read, when some hold ids and others colors, and for
    more values than there can be classes.
    """
    pixels: Counter[RawValue] = Counter()
    paths_of: dict[RawValue, list[Path]] = defaultdict(list)
    for path in paths:
        mask = read_mask(path)
        counts = value_counts(mask.reshape(-1, *mask.shape[2:]))
        pixels.update(counts)
        for value in counts:
            paths_of[value].append(path)
        if len({len(value) for value in pixels}) > 1:
            raise PerpixelError(
                f"{paths[0]} and {path}: one holds RGB colors, the other ids; keep one kind here"
            )
        if len(pixels) > IGNORE_INDEX:
            raise PerpixelError(
                f"{path}: with this mask there are {len(pixels)} different values, and at most "
                f"{IGNORE_INDEX - 1} classes. Is it a photo or an instance mask, or was it "
                f"blurred, resized with interpolation or saved with loss? Fix it or move it "
                f"elsewhere, or write {FILE} by hand"
            )
    return pixels, _find_suspicious(pixels, paths_of)


def _find_suspicious(
    pixels: Mapping[RawValue, int], paths_of: Mapping[RawValue, Sequence[Path]]
) -> list[str]:
    """Notes on masks that look blurred, resized with interpolation, or saved with loss."""
    rare = sorted(pixels, key=lambda value: pixels[value])[:-_COMMON_VALUES]
    share = sum(pixels[value] for value in rare) / sum(pixels.values())
    if len(rare) < _MIN_RARE_VALUES or share > _MAX_RARE_SHARE:
        return []
    ((path, count),) = Counter(path for v in rare for path in paths_of[v]).most_common(1)
    return [
        f"look at {path} first: {len(rare)} of the {len(pixels)} values of the masks make up "
        f"{share:.1%} of the pixels, and it holds {count} of these values. Were masks blurred, "
        f"resized with interpolation, or saved with loss?"
    ]


def has_soft_edges(pixels: Mapping[RawValue, int]) -> bool:
    """Whether these are values of black and white masks with blurred edges: 255 is a class there.

    More than 95 % of the pixels are 0 or 255, and at least three values between, dark and bright
    (ids of classes are small numbers).
    """
    grays = {value[0]: count for value, count in pixels.items() if len(set(value)) == 1}
    between = grays.keys() - {0, 255}
    ends = grays.get(0, 0), grays.get(255, 0)
    return (
        len(grays) == len(pixels)
        and all(ends)
        and sum(ends) > 0.95 * sum(grays.values())
        and len(between) >= 3
        and min(between) < 128 <= max(between) < 256
    )
