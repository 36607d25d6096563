"""Look through a whole data set and report everything that is wrong with it, in one run."""

import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from perpixel.data.check_pair import Finding, Kind, PairReport, examine
from perpixel.data.dataset import PairDataset
from perpixel.data.paths import list_files
from perpixel.data.prefetch import cores, read_ahead
from perpixel.data.registry import open_pairs, splits
from perpixel.errors import PerpixelError, UsageError
from perpixel.io.images import IMAGE_SUFFIXES
from perpixel.recipes.base import Size
from perpixel.recipes.schema import IGNORE_INDEX

Progress = Callable[[int, int], None]

_OTHER_SPLITS = ("test", "trainaug")
"""Splits that some data sets have besides those that are looked at."""


@dataclass(frozen=True)
class Split:
    """What the readable masks and images of a split hold, together."""

    name: str
    pairs: int
    pixels: tuple[int, ...]
    """Pixels of every class."""
    void: int
    images: tuple[int, ...]
    """How many images show every class."""
    area: tuple[int, ...]
    """Labeled pixels of the images that show a class, for every class."""
    sizes: tuple[tuple[Size, int], ...]
    """(height, width) of the images and how many have it, from small to large."""

    @cached_property
    def shares(self) -> tuple[float, ...]:
        """Every class's part of the labeled pixels."""
        return tuple(count / max(sum(self.pixels), 1) for count in self.pixels)

    @cached_property
    def median_frequency(self) -> tuple[float, ...]:
        """Class weights median(f) / f; 1 for a class that is not there.

        f is a class's part of the labeled pixels of the images that show it (Eigen and Fergus,
        2015).
        """
        parts = [count / max(area, 1) for count, area in zip(self.pixels, self.area, strict=True)]
        seen = [part for part in parts if part]
        return tuple(_rounded(np.median(seen) / part) if part else 1.0 for part in parts)

    @cached_property
    def enet(self) -> tuple[float, ...]:
        """Class weights 1 / ln(1.02 + share) (Paszke et al., 2016, "ENet")."""
        return tuple(_rounded(1 / np.log(1.02 + share)) for share in self.shares)

    def as_json(self) -> dict[str, Any]:
        """Everything, in JSON's types; lists are in the classes' order."""
        sizes = [{"height": h, "width": w, "images": count} for (h, w), count in self.sizes]
        return asdict(self) | {"shares": self.shares, "sizes": sizes}


@dataclass(frozen=True)
class Report:
    """What was found in a data set; `findings` are sorted by kind and in the splits' order."""

    dataset: str
    root: Path
    classes: tuple[str, ...]
    splits: tuple[Split, ...]
    findings: tuple[Finding, ...]

    def count(self, severity: str) -> int:
        """How many findings are an "error", a "warning" or a "note"."""
        return sum(finding.kind.severity == severity for finding in self.findings)

    @property
    def balance(self) -> Split | None:
        """The split that class weights are for: a training one, or the first that shows a class."""
        shown = [split for split in self.splits if any(split.pixels)]
        return min(shown, key=lambda split: not split.name.startswith("train"), default=None)

    def as_json(self) -> dict[str, Any]:
        """Everything, in JSON's types."""
        balance = self.balance
        return {
            "dataset": self.dataset,
            "root": str(self.root),
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "notes": self.count("note"),
            "findings": [
                {"severity": one.kind.severity, **asdict(one), "kind": one.kind.name.lower()}
                for one in self.findings
            ],
            "classes": self.classes,
            "splits": [split.as_json() for split in self.splits],
            "class_weights": balance
            and {
                "split": balance.name,
                "median_frequency": balance.median_frequency,
                "enet": balance.enet,
            },
        }


def check(
    name: str,
    root: Path,
    *,
    only: Sequence[str] = (),
    crop: Size | None = None,
    progress: Progress | None = None,
) -> Report:
    """Looks at every pair of the data set called `name` below `root`.

    `only` names splits to look at (default: all), `crop` (height, width) the training crop to
    measure images against. `progress` is told (pairs looked at, pairs in all). Raises UsageError
    for a data set that is not known or has no files, PerpixelError when none of its splits can be
    told.
    """
    findings: list[Finding] = []
    every: dict[str, PairDataset] = {}  # so that another split's files do not count as unused
    wanted = tuple(dict.fromkeys(only or splits(name, root)))
    for split in dict.fromkeys((*wanted, *splits(name, root), *_OTHER_SPLITS)):
        try:
            pairs = open_pairs(name, root, split, complete=False)
            if not len(pairs):
                raise PerpixelError(f"{root}: the split {split!r} lists no images")
            every[split] = pairs
        except PerpixelError as error:
            if split in wanted:
                if isinstance(error, UsageError):
                    raise
                findings.append(Finding(Kind.UNOPENED, split, split, str(error)))
    opened = {split: every[split] for split in wanted if split in every}
    jobs = [(split, index) for split, pairs in opened.items() for index in range(len(pairs))]

    def look(job: tuple[str, int]) -> PairReport:
        split, index = job
        return examine(opened[split], index, split=split, crop=crop)

    examined: dict[str, list[PairReport]] = {split: [] for split in opened}
    # Images above 89 megapixels are usual here.
    with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
        looked = read_ahead(look, jobs, threads=cores())
        for done, ((split, _), one) in enumerate(zip(jobs, looked, strict=True), start=1):
            examined[split].append(one)
            findings += one.findings
            if progress is not None:
                progress(done, len(jobs))

    classes = next((pairs.classes.names for pairs in opened.values()), ())
    summaries = [_summary(split, examined[split], len(classes)) for split in opened]
    findings += _unseen(summaries, classes)
    if len(classes) == 1:
        findings.append(Finding(Kind.ONE_CLASS, "", classes[0]))
    findings += _repeated(opened, examined)
    if name not in _SHARED_IMAGES:
        findings += _unused(every.values())
    order = list(Kind)
    findings.sort(key=lambda finding: order.index(finding.kind))
    return Report(name, root, classes, tuple(summaries), tuple(findings))


# Their lists choose from a folder of images that serves other tasks, too.
_SHARED_IMAGES = ("pascal_voc", "pascal_context", "pascal_context_59")


# --- What only many pairs together tell ----------------------------------------------------------


def _summary(split: str, examined: Sequence[PairReport], classes: int) -> Split:
    counts = np.array([[one.pixels[index] for index in range(classes)] for one in examined])
    shown = counts > 0
    sizes = Counter(one.size for one in examined if one.size is not None)
    return Split(
        name=split,
        pairs=len(examined),
        pixels=tuple(counts.sum(0).tolist()),
        void=sum(one.pixels[IGNORE_INDEX] for one in examined),
        images=tuple(shown.sum(0).tolist()),
        area=tuple((counts.sum(1) @ shown).tolist()),
        sizes=tuple(sorted(sizes.items(), key=lambda item: (item[0][0] * item[0][1], item[0]))),
    )


def _unseen(summaries: Iterable[Split], classes: Sequence[str]) -> Iterator[Finding]:
    for split in summaries:
        for name, count in zip(classes, split.pixels, strict=True):
            if count == 0:
                yield Finding(Kind.UNSEEN_CLASS, split.name, name)


def _repeated(
    opened: dict[str, PairDataset], examined: dict[str, list[PairReport]]
) -> Iterator[Finding]:
    same: dict[bytes, list[tuple[str, str]]] = defaultdict(list)
    for split, pairs in opened.items():
        for index, one in enumerate(examined[split]):
            if one.digest is not None:
                same[one.digest].append((split, pairs.sample_id(index)))
    for (split, image), *others in same.values():
        if others:
            several = {split} != {other for other, _ in others}
            kind = Kind.IN_SEVERAL_SPLITS if several else Kind.REPEATED
            detail = ", ".join(f"{name} in {other}" for other, name in others)
            yield Finding(kind, split, image, f"the same as {detail}")


def _unused(sets: Iterable[PairDataset]) -> Iterator[Finding]:
    """Files that lie beside the sets' files and end as they do, but are in no pair."""
    beside: dict[Path, set[str]] = defaultdict(set)
    for pairs in sets:
        for name in (name for pair in pairs.files for name in pair):
            beside[(pairs.root / name).parent].add(name)
    for folder, names in beside.items():
        below = Path(next(iter(names))).parent
        ending = _common_ending(Path(name).name for name in names)
        for file in list_files(folder, f"*{escape(ending)}"):
            name = (below / file.name).as_posix()
            if name not in names and file.suffix.lower() in IMAGE_SUFFIXES and file.is_file():
                yield Finding(Kind.UNUSED, "", name)


def _common_ending(names: Iterable[str]) -> str:
    """The longest ending from a "_", "-" or "." on that all names have, as "_labelIds.png"."""
    endings = [{name[mark.start() :] for mark in re.finditer("[-_.]", name)} for name in names]
    return max(set.intersection(*endings), key=len, default="")


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
