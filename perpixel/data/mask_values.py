"""Counts the values of a folder's masks, and finds signs of masks that were resized or blurred."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from perpixel.data.dataset import RawValue, value_counts
from perpixel.data.datasets.folder import FILE
from perpixel.errors import PerpixelError
from perpixel.io.images import Palette, read_mask, read_palette
from perpixel.recipes.base import Color
from perpixel.recipes.schema import IGNORE_INDEX

_COMMON_VALUES, _MIN_RARE_VALUES, _MAX_RARE_SHARE = 8, 16, 0.02
"""This many values beside the most common ones, in so few pixels, are an artifact, not classes."""


@dataclass(frozen=True)
class MaskValues:
    """The values of some masks: ids, or RGB colors."""

    pixels: Mapping[RawValue, int]
    """The number of pixels of each value."""
    of_masks: Sequence[frozenset[RawValue]]
    """The values in each mask."""
    palette_as_colors: bool
    """Whether masks with a palette were read as the colors that they show."""
    color_of_index: Mapping[int, Color]
    """The color of each index in use; empty for masks without a palette, or read as colors."""
    palette: Palette | None
    """All colors of the first palette, in the order of its indices."""
    notes: tuple[str, ...]
    """What the user should look at."""


def count_values(paths: Sequence[Path], *, palette_as_colors: bool = False) -> MaskValues:
    """Counts the ids or colors of the masks.

    Masks with a palette are read as indices as long as an index has one color in all masks. An
    editor that saves the colors in the order of their use numbers them anew in each file: such
    masks, and those of which only some have a palette, are read as colors.

    Raises PerpixelError when a mask cannot be read, when some hold ids and others colors, and for
    more values than there can be classes.
    """

    pixels: Counter[RawValue] = Counter()
    of_masks: list[frozenset[RawValue]] = []
    first_palette: Palette | None = None
    seen: dict[int, tuple[Color, Path]] = {}
    for path in paths:
        mask = read_mask(path, palette_as_colors=palette_as_colors)
        counts = value_counts(mask.reshape(-1, *mask.shape[2:]))
        pixels.update(counts)
        of_masks.append(frozenset(counts))
        palette = None if palette_as_colors else read_palette(path)
        first_palette = first_palette or palette
        reason = ""
        for index, color in used_colors(palette, counts).items():
            known, other = seen.setdefault(index, (color, path))
            if color != known:
                reason = f"index {index} is {known} in {other} and {color} in {path}"
        is_mixed = len({len(value) for value in pixels}) > 1
        if is_mixed and first_palette is not None:
            reason = f"some have a palette and others RGB colors, as {path} shows"
        if reason:
            values = count_values(paths, palette_as_colors=True)
            return replace(values, notes=(f"masks are read by color, as {reason}", *values.notes))
        if is_mixed:
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
    color_of_index = {i: color for i, (color, _) in seen.items() if i != IGNORE_INDEX}
    notes = tuple(_find_suspicious(pixels, dict(zip(paths, of_masks, strict=True))))
    return MaskValues(pixels, of_masks, palette_as_colors, color_of_index, first_palette, notes)


def used_colors(palette: Palette | None, values: Iterable[RawValue]) -> dict[int, Color]:
    """The palette's colors of the indices among `values`; none without a palette."""
    used = (value[0] for value in values if palette is not None)
    # An index beyond the palette's end is shown in black.
    return {index: (*(palette or ())[index : index + 1], (0, 0, 0))[0] for index in used}


def _find_suspicious(
    pixels: Mapping[RawValue, int], of_masks: Mapping[Path, frozenset[RawValue]]
) -> list[str]:
    """Notes on masks that look blurred, resized with interpolation, or saved with loss."""
    rare = set(sorted(pixels, key=lambda value: pixels[value])[:-_COMMON_VALUES])
    share = sum(pixels[value] for value in rare) / sum(pixels.values())
    if len(rare) < _MIN_RARE_VALUES or share > _MAX_RARE_SHARE:
        return []
    path = max(of_masks, key=lambda path: len(of_masks[path] & rare))
    return [
        f"look at {path} first: {len(rare)} of the {len(pixels)} values of the masks make up "
        f"{share:.1%} of the pixels, and it holds {len(of_masks[path] & rare)} of these values. "
        f"Were masks blurred, resized with interpolation, or saved with loss?"
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
