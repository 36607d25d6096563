"""Checks a whole data set and reports all its problems in one run."""

import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from perpixel.data.check_pair import Finding, Kind, PairReport, examine
from perpixel.data.class_table import propose_classes
from perpixel.data.dataset import PairDataset, RawValue
from perpixel.data.datasets.folder import files_below
from perpixel.data.label_sheet import choose_examples
from perpixel.data.paths import list_files
from perpixel.data.prefetch import cores, read_ahead
from perpixel.data.registry import open_pairs, splits
from perpixel.errors import PerpixelError, UsageError, plural
from perpixel.io.images import IMAGE_SUFFIXES
from perpixel.recipes.base import Color, Size
from perpixel.recipes.schema import IGNORE_INDEX

Progress = Callable[[int, int], None]

_OTHER_SPLITS = ("test", "trainaug")
"""Splits that some data sets have and that are not checked unless named."""

_SHARED_IMAGES = ("pascal_voc", "pascal_context", "pascal_context_59")
"""Data sets whose image folders serve other tasks, too, so that unused files are no mistake."""


@dataclass(frozen=True)
class Split:
    """Statistics of the readable masks and images of a split."""

    name: str
    pairs: int
    pixels: tuple[int, ...]
    """The number of pixels of every class."""
    void: int
    """The number of ignored pixels."""
    images: tuple[int, ...]
    """The number of images that show each class."""
    area: tuple[int, ...]
    """For every class, the number of labeled pixels in the images that show it."""
    sizes: tuple[tuple[Size, int], ...]
    """Image sizes (height, width) and their numbers of images, from small to large."""
    mean: tuple[float, ...] | None = None
    """Of 0..255 values in the order of the chosen bands; None where none are chosen."""
    std: tuple[float, ...] | None = None

    @cached_property
    def shares(self) -> tuple[float, ...]:
        """Each class's fraction of the labeled pixels."""
        return tuple(count / max(sum(self.pixels), 1) for count in self.pixels)

    @cached_property
    def median_frequency(self) -> tuple[float, ...]:
        """Class weights median(f) / f; 1 for a class without pixels.

        f is a class's fraction of the labeled pixels in the images that show it (Eigen and Fergus,
        2015).
        """
        pairs = zip(self.pixels, self.area, strict=True)
        frequencies = [count / max(area, 1) for count, area in pairs]
        median = np.median([f for f in frequencies if f] or [1])
        return tuple(_rounded(median / f) if f else 1.0 for f in frequencies)

    @cached_property
    def enet(self) -> tuple[float, ...]:
        """Class weights 1 / ln(1.02 + share) (Paszke et al., 2016, "ENet")."""
        return tuple(_rounded(1 / np.log(1.02 + share)) for share in self.shares)

    def as_json(self) -> dict[str, Any]:
        """The statistics as JSON types; lists are in the order of the classes."""
        sizes = [{"height": h, "width": w, "images": count} for (h, w), count in self.sizes]
        return asdict(self) | {"shares": self.shares, "sizes": sizes}


@dataclass(frozen=True)
class Report:
    """The result of a check; `findings` are sorted by kind, then in the order of the splits."""

    dataset: str
    root: Path
    classes: tuple[str, ...]
    splits: tuple[Split, ...]
    findings: tuple[Finding, ...]
    examples: tuple[tuple[PairDataset, int], ...] = ()
    """Intact pairs to look at, which show as many classes as a dozen can."""

    def count(self, severity: str) -> int:
        """Counts the findings of a severity: "error", "warning" or "note"."""
        return sum(finding.kind.severity == severity for finding in self.findings)

    @property
    def balance(self) -> Split | None:
        """The split for class weights: the training split, or the first with labeled pixels."""
        labeled = [split for split in self.splits if any(split.pixels)]
        return min(labeled, key=lambda split: not split.name.startswith("train"), default=None)

    def as_json(self) -> dict[str, Any]:
        """The report as JSON types."""
        balance = self.balance
        return {
            "dataset": self.dataset,
            "root": str(self.root),
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "notes": self.count("note"),
            "findings": [
                {"severity": f.kind.severity, **asdict(f), "kind": f.kind.name.lower()}
                for f in self.findings
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
    """Checks every pair of the data set called `name` below `root`.

    `only` names the splits to check (default: all), `crop` (height, width) is the training crop to
    compare image sizes with. `progress` gets the number of pairs (done, in all). Raises UsageError
    for an unknown data set or one without files, PerpixelError when its splits cannot be found.
    """
    findings: list[Finding] = []
    opened: dict[str, PairDataset] = {}
    main_splits = splits(name, root)
    requested = tuple(dict.fromkeys(only or main_splits))
    # Others are opened, too, so that their files do not count as unused.
    for split in dict.fromkeys((*requested, *main_splits, *_OTHER_SPLITS)):
        try:
            pairs = open_pairs(name, root, split, complete=False)
            if not len(pairs):
                raise PerpixelError(f"{root}: the split {split!r} lists no images")
            opened[split] = pairs
        except PerpixelError as error:
            if split in requested:
                if isinstance(error, UsageError):
                    raise
                findings.append(Finding(Kind.UNOPENED, split, split, str(error)))
    checked = {split: opened[split] for split in requested if split in opened}
    jobs = [(split, index) for split, pairs in checked.items() for index in range(len(pairs))]

    def run(job: tuple[str, int]) -> PairReport:
        split, index = job
        return examine(checked[split], index, split=split, crop=crop)

    reports: dict[str, list[PairReport]] = {split: [] for split in checked}
    # Images above Pillow's limit of 89 megapixels are common here.
    with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
        results = read_ahead(run, jobs, threads=cores())
        for done, ((split, _), report) in enumerate(zip(jobs, results, strict=True), start=1):
            reports[split].append(report)
            findings += report.findings
            if progress is not None:
                progress(done, len(jobs))

    classes = next((pairs.classes.names for pairs in checked.values()), ())
    summaries = tuple(_summarize(split, reports[split], len(classes)) for split in checked)
    for summary in summaries:
        findings += _check_classes(summary, classes, reports[summary.name])
    if name == "folder":
        findings += _different_palettes(checked, reports)
    findings += _repeated_images(checked, reports)
    if name not in _SHARED_IMAGES:
        findings += _unused_files(opened.values())
    if name == "folder":
        findings += _unused_folders(root, opened.values())
    order = list(Kind)
    findings.sort(key=lambda finding: order.index(finding.kind))
    examples = _choose_examples(checked, reports, len(classes))
    return Report(name, root, classes, summaries, tuple(findings), examples)


def _choose_examples(
    checked: Mapping[str, PairDataset],
    reports: Mapping[str, Sequence[PairReport]],
    num_classes: int,
) -> tuple[tuple[PairDataset, int], ...]:
    intact = [
        (checked[split], index, [report.pixels[number] for number in range(num_classes)])
        for split in checked
        for index, report in enumerate(reports[split])
        if report.size is not None
        and all(finding.kind is not Kind.DIFFERENT_SIZES for finding in report.findings)
    ]
    pixels = np.array([counts for _, _, counts in intact], np.int64)
    chosen = choose_examples(pixels.reshape(len(intact), num_classes))
    return tuple(intact[place][:2] for place in chosen)


def _summarize(split: str, reports: Sequence[PairReport], num_classes: int) -> Split:
    counts = np.array(
        [[report.pixels[index] for index in range(num_classes)] for report in reports]
    )
    is_shown = counts > 0
    sizes = Counter(report.size for report in reports if report.size is not None)
    mean = std = None
    moments = [report.moments for report in reports if report.moments is not None]
    if moments:
        first, second = np.sum(moments, axis=0) / sum(h * w * n for (h, w), n in sizes.items())
        mean = tuple(map(_rounded, first))
        std = tuple(map(_rounded, np.sqrt(np.maximum(second - first**2, 0))))
    return Split(
        name=split,
        pairs=len(reports),
        pixels=tuple(counts.sum(0).tolist()),
        void=sum(report.pixels[IGNORE_INDEX] for report in reports),
        images=tuple(is_shown.sum(0).tolist()),
        area=tuple((counts.sum(1) @ is_shown).tolist()),
        sizes=tuple(sorted(sizes.items(), key=lambda item: (item[0][0] * item[0][1], item[0]))),
        mean=mean,
        std=std,
    )


def _check_classes(
    split: Split, classes: Sequence[str], reports: Sequence[PairReport]
) -> Iterator[Finding]:
    """Finds the classes that a split lacks; at most one class, and mostly unlabeled pixels."""
    shown = []
    for class_name, count in zip(classes, split.pixels, strict=True):
        if count:
            shown.append(class_name)
        else:
            yield Finding(Kind.UNSEEN_CLASS, split.name, class_name)
    raw = Counter[RawValue]()
    for report in reports:
        if report.pixels:  # masks whose values are unknown are errors of their own
            raw.update(report.raw_pixels)
    if raw and len(shown) < 2:
        text = f"all labeled pixels are {shown[0]}" if shown else "no pixel is labeled"
        table = propose_classes(raw, classes)
        yield Finding(Kind.ONE_CLASS, split.name, split.name, f"{text}; {table}")
    labeled = sum(split.pixels)
    if split.void > labeled:
        share = split.void / (split.void + labeled)
        yield Finding(Kind.MOSTLY_VOID, split.name, split.name, f"{share:.1%}")


def _different_palettes(
    checked: Mapping[str, PairDataset], reports: Mapping[str, Sequence[PairReport]]
) -> Iterator[Finding]:
    """Finds masks in which an index shows another color than in the first mask that uses it."""
    first: dict[int, tuple[Color, str]] = {}
    for split, pairs in checked.items():
        if pairs.read_palette_as is not None:
            continue
        for index, report in enumerate(reports[split]):
            path = pairs.files[index][1]
            for number, color in report.color_of_index.items():
                known, other = first.setdefault(number, (color, path))
                if color != known:
                    detail = f"index {number} is {color}, and {known} in {other}"
                    yield Finding(Kind.PALETTES, split, path, detail)
                    break


def _repeated_images(
    checked: dict[str, PairDataset], reports: dict[str, list[PairReport]]
) -> Iterator[Finding]:
    equal_images: dict[bytes, list[tuple[str, str]]] = defaultdict(list)
    for split, pairs in checked.items():
        for index, report in enumerate(reports[split]):
            if report.digest is not None:
                equal_images[report.digest].append((split, pairs.sample_id(index)))
    for (split, image), *others in equal_images.values():
        if others:
            is_one_split = {split} == {other for other, _ in others}
            kind = Kind.REPEATED if is_one_split else Kind.IN_SEVERAL_SPLITS
            detail = ", ".join(f"{name} in {other}" for other, name in others)
            yield Finding(kind, split, image, f"the same as {detail}")


def _unused_files(datasets: Iterable[PairDataset]) -> Iterator[Finding]:
    """Finds files in the folders of the pairs, with the same ending, that are in no pair."""
    used: dict[Path, set[str]] = defaultdict(set)
    for pairs in datasets:
        for name in (name for pair in pairs.files for name in pair):
            used[(pairs.root / name).parent].add(name)
    for folder, names in used.items():
        below_root = Path(next(iter(names))).parent
        ending = _common_ending(Path(name).name for name in names)
        for file in list_files(folder, f"*{escape(ending)}"):
            name = (below_root / file.name).as_posix()
            if name not in names and file.suffix.lower() in IMAGE_SUFFIXES and file.is_file():
                yield Finding(Kind.UNUSED, "", name)


def _unused_folders(root: Path, datasets: Iterable[PairDataset]) -> Iterator[Finding]:
    """Finds folders of images none of which is in a pair."""
    used = {Path(name).parent for pairs in datasets for pair in pairs.files for name in pair}
    images = [Path(file) for file in files_below(root) if file.lower().endswith(IMAGE_SUFFIXES)]
    unused = Counter(image.parent for image in images if image.parent not in used)
    for folder, count in unused.items():
        yield Finding(Kind.UNUSED_FOLDER, "", folder.as_posix(), plural(count, "file"))


def _common_ending(names: Iterable[str]) -> str:
    """The longest ending, from a "_", "-" or "." on, of all names, such as "_labelIds.png"."""
    endings = [{name[mark.start() :] for mark in re.finditer("[-_.]", name)} for name in names]
    return max(set.intersection(*endings), key=len, default="")


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
