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

_MIN_BLACK_WHITE_SHARE, _MIN_GRAYS = 0.95, 3
"""More than this share in 0 and 255, and this many grays between them, make a soft edge."""


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
        if len(pixels) >= IGNORE_INDEX and has_soft_edges(pixels):
            raise PerpixelError(f"{path}: look at this mask and others: {_soft_edge_note(pixels)}")
        if len(pixels) > IGNORE_INDEX:
            raise PerpixelError(
                f"{path}: with this mask there are {len(pixels)} different values, and at most "
                f"{IGNORE_INDEX - 1} classes. Is it a photo, an instance mask, or was it resized "
                f"or saved with loss? Fix it or move it elsewhere, or write {FILE} by hand"
            )
    return pixels, _find_suspicious(pixels, paths_of)


def has_soft_edges(pixels: Mapping[RawValue, int]) -> bool:
    """Whether the values are those of black-and-white masks with blurred edges."""
    grays = {value[0]: count for value, count in pixels.items() if len(set(value)) == 1}
    between = grays.keys() - {0, 255}
    ends = grays.get(0, 0), grays.get(255, 0)
    return (
        len(grays) == len(pixels)
        and all(ends)
        and sum(ends) > _MIN_BLACK_WHITE_SHARE * sum(grays.values())
        and len(between) >= _MIN_GRAYS
        and min(between) < 128 <= max(between) < 256  # class numbers are small
    )


def _soft_edge_note(pixels: Mapping[RawValue, int]) -> str:
    return (
        f"they look black and white with soft edges, {len(pixels) - 2} grays beside 0 and 255; "
        f"save them without (128 and more as 255, less as 0), and have {FILE} proposed anew"
    )


def _find_suspicious(
    pixels: Mapping[RawValue, int], paths_of: Mapping[RawValue, Sequence[Path]]
) -> list[str]:
    """Notes on masks that look resized with interpolation, or saved with loss."""
    if has_soft_edges(pixels):
        return [f"look at the masks: {_soft_edge_note(pixels)}. Each gray is proposed as a class"]
    rare = sorted(pixels, key=lambda value: pixels[value])[:-_COMMON_VALUES]
    share = sum(pixels[value] for value in rare) / sum(pixels.values())
    if len(rare) < _MIN_RARE_VALUES or share > _MAX_RARE_SHARE:
        return []
    ((path, count),) = Counter(path for v in rare for path in paths_of[v]).most_common(1)
    return [
        f"look at {path} first: {len(rare)} of the {len(pixels)} values of the masks make up "
        f"{share:.1%} of the pixels, and it holds {count} of these values. Were masks resized with "
        f"interpolation, or saved with loss?"
    ]
