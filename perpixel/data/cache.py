"""Decoded images and masks on disk, so that a crop reads only its own rows.

A cache is a folder that takes the place of the data set's root: cache.json names the data set and
its classes, SPLIT.pairs lists the pairs, and arrays/ holds each file's pixels, uint8, after a
header with the source file's size and modification time. They are read, not memory-mapped: a
truncated file then raises an error that names it, instead of ending the process with SIGBUS.
"""

import hashlib
import os
import shutil
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from PIL import Image
from pydantic import ConfigDict, ValidationError
from rich.filesize import decimal

from perpixel.data.dataset import Classes, PairDataset, Rows, read_pair
from perpixel.data.datasets.folder import FILE as DESCRIPTION
from perpixel.data.datasets.folder import lists_of_folder
from perpixel.data.pair_list import PairList
from perpixel.data.paths import first_few
from perpixel.data.prefetch import cores, read_ahead
from perpixel.errors import CorruptFileError, PerpixelError, UsageError, plural
from perpixel.io.atomic import atomic_replace, atomic_write
from perpixel.io.images import UNREADABLE, Array
from perpixel.recipes.base import Color, Spec
from perpixel.recipes.overrides import readable, suggestion
from perpixel.recipes.schema import DatasetInput

Progress = Callable[[int, int], None]

FILE = "cache.json"

_HEADER = struct.Struct("<8s5q16x")
_MAGIC = b"pixels 1"
_SAMPLES = 500
"""The number of images whose sizes give the estimate of the cache's size."""


class Origin(Spec):
    """The content of cache.json: the data set that was cached."""

    model_config = ConfigDict(extra="ignore")  # `splits` of older caches

    dataset: str
    root: str
    description: str | None
    """The sha256 of a folder's dataset.toml and lists; None for other data sets."""
    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    input: DatasetInput = DatasetInput()


@dataclass(frozen=True)
class CachedDataset:
    """A split whose pixels are in the folder `cache`; its source files are below `root`."""

    cache: Path
    root: Path
    files: PairList
    classes: Classes
    input: DatasetInput = field(default_factory=DatasetInput)
    """What the cached folder's dataset.toml says of the model's input."""

    def __len__(self) -> int:
        return len(self.files)

    def sample_id(self, index: int) -> str:
        """The image's path below `root`."""
        return self.files[index][0]

    def image(self, index: int, *, rows: Rows | None = None) -> Array:
        """The image, uint8 RGB [height, width, 3]; with `rows`, the others are black."""
        return self._read(self.files[index][0], rows)

    def label(self, index: int) -> Array:
        """The image's mask, uint8 [height, width]: 0..num_classes-1, and IGNORE_INDEX."""
        return self._read(self.files[index][1], None)[..., 0]

    def _read(self, name: str, rows: Rows | None) -> Array:
        path, source = _array_path(self.cache, name), self.root / name
        try:
            with path.open("rb", buffering=0) as file:
                header = _read_header(file, path, source)
                shape = header.height, header.width, header.channels
                first, end = rows or (0, header.height)
                pixels = np.empty(shape, np.uint8) if rows is None else np.zeros(shape, np.uint8)
                file.seek(_HEADER.size + first * header.width * header.channels)
                file.readinto(pixels[first:end].data.cast("B"))
        except FileNotFoundError:
            raise CorruptFileError(
                f"{source}: is not in the cache {self.cache}; `perpixel data cache` leaves out "
                f"pairs whose image or mask it cannot read"
            ) from None
        except OSError as error:
            raise CorruptFileError(f"{path}: cannot be read ({error.strerror})") from None
        return pixels


def is_cache(root: Path) -> bool:
    """Whether `root` is a cache rather than a data set's own folder."""
    return (root / FILE).is_file()


def open_cache(cache: Path, dataset: str, split: str) -> CachedDataset:
    """Opens a split of `dataset` from its cache. Raises UsageError, PerpixelError."""
    origin = read_origin(cache)
    _require_same_description(cache, origin)
    if origin.dataset != dataset:
        raise UsageError(
            f"{cache} is a cache of {origin.dataset}, not of {dataset}: name another folder with "
            f"--data, or add --dataset {origin.dataset}"
        )
    list_file = cache / f"{split}.pairs"
    if not list_file.is_file():
        splits = sorted(path.stem for path in cache.glob("*.pairs"))
        raise UsageError(
            f"{cache} holds no complete split {split!r}; it holds {first_few(splits)}."
            f"{suggestion(split, splits)} "
            f"`perpixel data cache {dataset} {origin.root} --split {split} --out {cache}` adds it"
        )
    try:
        *names, rest = list_file.read_bytes().split(b"\0")
    except OSError as error:
        raise PerpixelError(f"{list_file}: cannot be read ({error.strerror})") from None
    if rest or len(names) % 2:
        raise PerpixelError(f"{list_file}: is truncated; run `perpixel data cache` again")
    paths = map(os.fsdecode, names)
    files = PairList(zip(paths, paths, strict=True))
    classes = Classes(origin.classes, origin.palette)
    return CachedDataset(cache, Path(origin.root), files, classes, origin.input)


def write_cache(
    out: Path,
    dataset: str,
    splits: Mapping[str, PairDataset],
    *,
    say: Callable[[str], None],
    progress: Progress,
) -> None:
    """Decodes all pairs of `splits` (at least one) into `out`, except those already cached.

    A stopped writing continues with the next call; changed files are decoded again. `say` gets
    the amount of work before it starts, `progress` the number of pairs (done, in all). Raises
    PerpixelError when they do not fit on the disk, and at the end for pairs that cannot be read.
    """
    first = next(iter(splits.values()))
    root = first.root.resolve()
    if out.resolve() == root:
        raise UsageError(f"--out {out}: is the data set's own folder; name another one")
    if is_cache(out):
        cached = read_origin(out)
        if (cached.dataset, cached.root) != (dataset, str(root)):
            raise UsageError(
                f"--out {out}: is a cache of {cached.dataset} at {cached.root}; name another folder"
            )
        _require_same_description(out, cached)
    origin = Origin(
        dataset=dataset,
        root=str(root),
        description=_hash_description(root),
        classes=first.classes.names,
        palette=first.classes.palette,
        input=first.input,
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / ".lock", timeout=0):
            total, jobs = _find_jobs(out, root, splits)
            _require_space(out, jobs, total=total, say=say)
            atomic_write(out / FILE, origin.model_dump_json(indent=2).encode())
            problems = _run_jobs(out, jobs, total=total, progress=progress)
            for split, pairs in splits.items():  # a split is complete once its list exists
                names = [os.fsencode(name) + b"\0" for pair in pairs.files for name in pair]
                atomic_write(out / f"{split}.pairs", b"".join(names))
    except Timeout:
        raise PerpixelError(f"{out}: another process is writing there") from None
    except OSError as error:
        raise PerpixelError(f"{out}: cannot be written ({error.strerror})") from None
    if problems:
        raise PerpixelError(
            f"{plural(len(problems), 'pair')} cannot be read, and the cache lacks them; the first: "
            f"{problems[0]}. List all with `perpixel data check`, fix them, and run the same "
            f"command again"
        )


def read_origin(cache: Path) -> Origin:
    """Reads the cache's description of itself; raises PerpixelError."""
    try:
        return Origin.model_validate_json((cache / FILE).read_bytes())
    except OSError as error:
        raise PerpixelError(f"{cache / FILE}: cannot be read ({error.strerror})") from None
    except ValidationError as error:
        raise PerpixelError(f"{cache / FILE}: cannot be read ({readable(error)})") from None


def _require_same_description(cache: Path, origin: Origin) -> None:
    """Raises PerpixelError when a folder's dataset.toml or lists have changed since caching."""
    current = _hash_description(Path(origin.root))
    if current is not None and current != origin.description:
        raise PerpixelError(
            f"{Path(origin.root) / DESCRIPTION}: it or a list that it names was changed since "
            f"{cache} was written, so its pairs and labels may be wrong; delete {cache} and run "
            f"`perpixel data cache` again"
        )


def _hash_description(root: Path) -> str | None:
    path = root / DESCRIPTION
    if not path.is_file():
        return None
    content = b"".join(file.read_bytes() for file in (path, *lists_of_folder(root)))
    return hashlib.sha256(content).hexdigest()


_Job = tuple[PairDataset, int, list[str]]
"""A pair to decode, and which of its two files to write."""


def _find_jobs(out: Path, root: Path, splits: Mapping[str, PairDataset]) -> tuple[int, list[_Job]]:
    """Counts the pairs of all splits together, and finds those that are not cached as they are."""
    seen: set[tuple[str, str]] = set()
    jobs = []
    for pairs in splits.values():
        for index, pair in enumerate(pairs.files):
            if pair in seen:
                continue
            seen.add(pair)
            names = [name for name in pair if not _is_cached(_array_path(out, name), root / name)]
            if names:
                jobs.append((pairs, index, names))
    return len(seen), jobs


def _require_space(out: Path, jobs: list[_Job], *, total: int, say: Callable[[str], None]) -> None:
    needed, free = _estimate_bytes(jobs), shutil.disk_usage(out).free
    say(
        f"{plural(total, 'pair')}, {total - len(jobs)} of them in {out} already; the others take "
        f"about {decimal(needed)} of the {decimal(free)} that are free there"
    )
    if needed > free:
        raise PerpixelError(
            f"{out}: the cache takes about {decimal(needed)} more, and {decimal(free)} are free "
            f"there; name a folder on another disk with --out, or cache one split with --split"
        )


def _estimate_bytes(jobs: list[_Job]) -> int:
    sizes = []
    for pairs, index, _ in jobs[:: max(len(jobs) // _SAMPLES, 1)]:
        try:
            with Image.open(pairs.root / pairs.files[index][0]) as file:
                sizes.append(file.width * file.height * 4)  # RGB and its mask
        except UNREADABLE:
            continue  # decoding will report it
    return round(len(jobs) * sum(sizes) / len(sizes)) if sizes else 0


def _run_jobs(out: Path, jobs: list[_Job], *, total: int, progress: Progress) -> list[str]:
    """Decodes and writes the pairs of all jobs; returns messages about unreadable ones."""

    def run(job: _Job) -> str:
        pairs, index, names = job
        try:
            arrays = read_pair(pairs, index)
        except PerpixelError as error:
            return str(error)
        for name, pixels in zip(pairs.files[index], arrays, strict=True):
            path, source = _array_path(out, name), pairs.root / name
            with locks.setdefault(name, Lock()):  # two images may share a mask
                if name in names and not _is_cached(path, source):
                    _write_pixels(path, pixels, source)
        return ""

    locks: dict[str, Lock] = {}
    problems: list[str] = []
    cached = total - len(jobs)
    progress(cached, total)
    for done, problem in enumerate(read_ahead(run, jobs, threads=cores()), start=cached + 1):
        problems += [problem] if problem else []
        progress(done, total)
    return problems


class _Header(NamedTuple):
    """The header before an array's pixels: its shape, and its source's size and time."""

    magic: bytes
    height: int
    width: int
    channels: int
    source_bytes: int
    source_time_ns: int


def _read_header(file: FileIO, path: Path, source: Path) -> _Header:
    """Reads an array's header; raises PerpixelError when its source has changed or it is truncated.

    A source that is gone, as on another machine, counts as unchanged.
    """
    header = _Header(*_HEADER.unpack(file.read(_HEADER.size).ljust(_HEADER.size)))
    recorded = header.source_bytes, header.source_time_ns
    try:
        stat = source.stat()
        current = stat.st_size, stat.st_mtime_ns
    except OSError:
        current = recorded
    if header.magic != _MAGIC or current != recorded:
        raise PerpixelError(
            f"{source}: was changed since it was cached as {path}; run `perpixel data cache` "
            f"again, which decodes changed files anew"
        )
    pixels = header.height * header.width * header.channels
    if os.fstat(file.fileno()).st_size != _HEADER.size + pixels:
        raise CorruptFileError(
            f"{path}: is truncated; delete it and run `perpixel data cache` again"
        )
    return header


def _is_cached(path: Path, source: Path) -> bool:
    """Whether `path` holds a complete array of the source in its present state."""
    try:
        with path.open("rb", buffering=0) as file:
            _read_header(file, path, source)
    except (OSError, PerpixelError):
        return False
    return True


def _write_pixels(path: Path, pixels: Array, source: Path) -> None:
    stat = source.stat()
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    header = _HEADER.pack(_MAGIC, *pixels.shape, stat.st_size, stat.st_mtime_ns)
    with atomic_replace(path) as part, part.open("wb") as file:
        file.writelines((header, pixels.tobytes()))


def _array_path(cache: Path, name: str) -> Path:
    return cache / f"arrays/{name}.pixels"
