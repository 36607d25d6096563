"""What the masks of a folder hold that nobody has described yet."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from perpixel.data.dataset import RawValue, value_counts
from perpixel.data.datasets.folder import FILE
from perpixel.errors import PerpixelError
from perpixel.io.images import read_mask
from perpixel.recipes.schema import IGNORE_INDEX

_COMMON, _MANY, _LITTLE = 8, 16, 0.02
"""Beside a few common values so many that take up so little are rather damage than classes."""

_BLACK_AND_WHITE, _STEPS = 0.95, 3
"""More than this share in 0 and 255 and some grays on the way from one to the other: an edge."""


def count_values(paths: Sequence[Path]) -> tuple[Mapping[RawValue, int], list[str]]:
    """How often the masks hold each id or color, and remarks on what makes them doubtful.

    Raises PerpixelError when a mask cannot be read, when some hold ids and others colors, and for
    more values than there can be classes.
    """
    pixels: Counter[RawValue] = Counter()
    owners: dict[RawValue, list[Path]] = defaultdict(list)
    for path in paths:
        mask = read_mask(path)
        own = value_counts(mask.reshape(-1, *mask.shape[2:]))
        pixels.update(own)
        for value in own:
            owners[value].append(path)
        if len({len(value) for value in pixels}) > 1:
            raise PerpixelError(
                f"{paths[0]} and {path}: one holds RGB colors, the other ids; keep one kind here"
            )
        if len(pixels) >= IGNORE_INDEX and has_soft_edges(pixels):
            raise PerpixelError(f"{path}: look at this mask and others: {_soft_edges(pixels)}")
        if len(pixels) > IGNORE_INDEX:
            raise PerpixelError(
                f"{path}: with this mask there are {len(pixels)} different values, and at most "
                f"{IGNORE_INDEX - 1} classes. Is it a photo, a map of instances, or was it resized "
                f"or saved with loss? Fix it or move it elsewhere, or write {FILE} by hand"
            )
    return pixels, _doubts(pixels, owners)


def has_soft_edges(pixels: Mapping[RawValue, int]) -> bool:
    """Whether these are black-and-white masks, blurred or smoothed at their edges."""
    grays = {value[0]: count for value, count in pixels.items() if len(set(value)) == 1}
    between = grays.keys() - {0, 255}
    ends = grays.get(0, 0), grays.get(255, 0)
    return (
        len(grays) == len(pixels)
        and all(ends)
        and sum(ends) > _BLACK_AND_WHITE * sum(grays.values())
        and len(between) >= _STEPS
        and min(between) < 128 <= max(between) < 256  # numbered classes are small numbers
    )


def _soft_edges(pixels: Mapping[RawValue, int]) -> str:
    return (
        f"they look black and white with soft edges, {len(pixels) - 2} grays beside 0 and 255; "
        f"save them without (128 and more as 255, less as 0), and have {FILE} proposed anew"
    )


def _doubts(pixels: Mapping[RawValue, int], owners: Mapping[RawValue, Sequence[Path]]) -> list[str]:
    """Signs of masks that were resized with interpolation, or saved with loss."""
    if has_soft_edges(pixels):
        return [f"look at the masks: {_soft_edges(pixels)}. Each gray is proposed as a class"]
    alone = Counter(paths[0] for paths in owners.values() if len(paths) == 1)
    found = [
        f"look at {path}: it holds {count} values that no other mask read here has. Was it resized "
        f"with interpolation, or saved with loss?"
        for path, count in alone.items()
        if count >= _MANY and len(pixels) / 2 < count < len(pixels)
    ]
    rare = sorted(pixels.values())[:-_COMMON]
    share = sum(rare) / sum(pixels.values())
    if not found and len(rare) >= _MANY and share < _LITTLE:
        found.append(
            f"look at the masks: {len(rare)} of their {len(pixels)} values make up {share:.1%} of "
            f"the pixels. Were they resized with interpolation, or saved with loss?"
        )
    return found
