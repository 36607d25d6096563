"""Refuses a split whose masks show one class only, where any training would end with mIoU 100."""

import numpy as np

from perpixel.data.class_table import propose_classes
from perpixel.data.dataset import Dataset, PairDataset
from perpixel.data.mask_values import count_values
from perpixel.data.paths import first_few
from perpixel.data.prefetch import cores, read_ahead
from perpixel.errors import CorruptFileError, PerpixelError, plural
from perpixel.recipes.schema import IGNORE_INDEX

_ENOUGH = 200
"""Masks after which the search for further classes ends."""


def require_classes_shown(dataset: Dataset, *, split: str) -> list[str]:
    """Raises PerpixelError unless the masks of `dataset` show two classes or more.

    Masks are read in a random order until all classes have been seen, or two and 200 masks.
    Returns a line that names the classes not seen, if any.
    """
    if len(dataset) == 0:
        raise PerpixelError(f"{split} holds no images")
    names = dataset.classes.names

    def shown(index: int) -> set[int]:
        try:
            label = dataset.label(index)
        except CorruptFileError:  # training replaces the sample, and says so
            return set()
        return set(np.flatnonzero(np.bincount(label.ravel())).tolist()) - {IGNORE_INDEX}

    seen: set[int] = set()
    masks_read = 0
    order = np.random.default_rng(0).permutation(len(dataset)).tolist()
    for indices in read_ahead(shown, order, threads=cores()):
        seen |= indices
        masks_read += 1
        if len(seen) == len(names) > 1 or (len(seen) > 1 and masks_read >= _ENOUGH):
            break
    if len(seen) < 2:
        raise PerpixelError(_refusal(dataset, seen, split=split))
    masks = f"{masks_read} of {len(dataset)} masks" if masks_read < len(dataset) else "the masks"
    unseen = [name for index, name in enumerate(names) if index not in seen]
    text = f"{split}: {masks} show no {first_few(unseen)}; their scores there are empty"
    return [text] if unseen else []


def _refusal(dataset: Dataset, seen: set[int], *, split: str) -> str:
    names = dataset.classes.names
    shown = f"only {names[next(iter(seen))]!r}" if seen else "no class at all"
    text = (
        f"the masks of {split} show {shown} of {plural(len(names), 'class')}, so that every score "
        f"would mean nothing"
    )
    if not isinstance(dataset, PairDataset):
        return text
    masks = [dataset.root / mask for _, mask in dataset.files][:_ENOUGH]
    return f"{text}: {propose_classes(count_values(masks).pixels, names)}"
