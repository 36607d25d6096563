"""Decoded images and masks on disk, so that a crop reads only its rows.

A cache is a folder that stands in for the data set's own: cache.json says of which data set and
classes, SPLIT.pairs lists the pairs, and arrays/ holds each file's pixels, uint8, after a header
with the size and the time of the file that they come from. They are read by plain reads, not mapped
into memory: a file that was cut short is then an error with a name, not the end of the process.
"""

import hashlib
import os
import shutil
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from PIL import Image
from pydantic import ValidationError

from perpixel.data.dataset import Classes, PairDataset, Rows, read_pair
from perpixel.data.datasets.folder import FILE as DESCRIPTION
from perpixel.data.datasets.folder import lists_of_folder
from perpixel.data.pair_list import PairList
from perpixel.data.prefetch import cores, read_ahead
from perpixel.errors import CorruptFileError, PerpixelError, UsageError
from perpixel.io.images import UNREADABLE, Array
from perpixel.recipes.base import Color, Spec
from perpixel.recipes.overrides import readable, suggestion

Progress = Callable[[int, int], None]

FILE = "cache.json"

_HEADER = struct.Struct("<8s5q16x")
_MAGIC = b"pixels 1"
_SAMPLED = 500
"""So many images are looked at to estimate the size of all."""


class Origin(Spec):
    """What cache.json says of the data set, with the sha256 of its own description, if any."""

    dataset: str
    root: str
    description: str | None
    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    splits: tuple[str, ...]


@dataclass(frozen=True)
class CachedDataset:
    """A split of a data set whose pixels are in the folder `cache`; its own files are at `root`."""

    cache: Path
    root: Path
    files: PairList
    classes: Classes

    def __len__(self) -> int:
        return len(self.files)

    def sample_id(self, index: int) -> str:
        """The image's path below `root`."""
        return self.files[index][0]

    def image(self, index: int, *, rows: Rows | None = None) -> Array:
        """The image, uint8 RGB [height, width, 3]; with `rows`, black but for these."""
        return self._read(self.files[index][0], rows)

    def label(self, index: int) -> Array:
        """Its mask, uint8 [height, width]: 0..classes-1, and IGNORE_INDEX."""
        return self._read(self.files[index][1], None)[..., 0]

    def _read(self, name: str, rows: Rows | None) -> Array:
        path, source = _place(self.cache, name), self.root / name
        try:
            with path.open("rb", buffering=0) as file:
                told = _checked(file, path, source)
                shape = told.height, told.width, told.channels
                first, end = rows or (0, told.height)
                pixels = np.empty(shape, np.uint8) if rows is None else np.zeros(shape, np.uint8)
                file.seek(_HEADER.size + first * told.width * told.channels)
                file.readinto(pixels[first:end].data.cast("B"))
        except FileNotFoundError:
            raise CorruptFileError(
                f"{source}: is not in the cache {self.cache}; `perpixel data cache` leaves both "
                f"out where it cannot read an image or its mask"
            ) from None
        except OSError as error:
            raise CorruptFileError(f"{path}: cannot be read ({error.strerror})") from None
        return pixels


def is_cache(root: Path) -> bool:
    """Whether `root` is a cache rather than a data set's own folder."""
    return (root / FILE).is_file()


def open_cache(cache: Path, dataset: str, split: str) -> CachedDataset:
    """A split of the data set called `dataset` from its cache. Raises UsageError, PerpixelError."""
    told = read_origin(cache)
    _require_same_description(cache, told)
    if told.dataset != dataset:
        raise UsageError(
            f"{cache} is a cache of {told.dataset}, not of {dataset}: name another folder with "
            f"--data, or add --dataset {told.dataset}"
        )
    if split not in told.splits:
        instead = f"but {', '.join(told.splits)}" if told.splits else "its writing was broken off"
        raise UsageError(
            f"{cache} holds no split {split!r}, {instead}.{suggestion(split, told.splits)} "
            f"`perpixel data cache {dataset} {told.root} --split {split} --out {cache}` adds it"
        )
    listing = cache / f"{split}.pairs"
    try:
        *names, rest = listing.read_bytes().split(b"\0")
    except OSError as error:
        raise PerpixelError(f"{listing}: cannot be read ({error.strerror})") from None
    if rest or len(names) % 2:
        raise PerpixelError(f"{listing}: is cut short; run `perpixel data cache` again")
    paths = map(os.fsdecode, names)
    files = PairList(zip(paths, paths, strict=True))
    return CachedDataset(cache, Path(told.root), files, Classes(told.classes, told.palette))


def write_cache(
    out: Path,
    dataset: str,
    splits: Mapping[str, PairDataset],
    *,
    say: Callable[[str], None],
    progress: Progress,
) -> None:
    """Decodes all pairs of `splits` (at least one) into `out`, but for those that are there.

    Broken off, it goes on where it was; files that have changed since are decoded again. `say` is
    told of how much there is to do before it starts, `progress` of pairs (done, in all). Raises
    PerpixelError when they do not fit on the disk, and at the end for pairs that cannot be read.
    """
    first = next(iter(splits.values()))
    root = first.root.resolve()
    if out.resolve() == root:
        raise UsageError(f"--out {out}: is the data set's own folder; name another one")
    there: tuple[str, ...] = ()
    if is_cache(out):
        told = read_origin(out)
        if (told.dataset, told.root) != (dataset, str(root)):
            raise UsageError(
                f"--out {out}: is a cache of {told.dataset} at {told.root}; name another folder"
            )
        _require_same_description(out, told)
        there = told.splits
    try:
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / ".lock", timeout=0):
            told = Origin(
                dataset=dataset,
                root=str(root),
                description=_description(root),
                classes=first.classes.names,
                palette=first.classes.palette,
                splits=there,
            )
            total, todo = _todo(out, root, splits)
            _require_space(out, todo, total=total, say=say)
            _write_origin(
                out, told
            )  # now: broken off, it is told as a cache that lacks these splits
            problems = _write_all(out, todo, total=total, progress=progress)
            for split, pairs in splits.items():
                names = (os.fsencode(name) + b"\0" for pair in pairs.files for name in pair)
                _write(out / f"{split}.pairs", b"".join(names))
            _write_origin(out, told.model_copy(update={"splits": tuple(sorted({*there, *splits}))}))
    except Timeout:
        raise PerpixelError(f"{out}: another process is writing there") from None
    except OSError as error:
        raise PerpixelError(f"{out}: cannot be written ({error.strerror})") from None
    if problems:
        raise PerpixelError(
            f"{len(problems)} pairs are not in the cache, as they cannot be read; the first: "
            f"{problems[0]}. `perpixel data check` lists all; fixed, run the same command again"
        )


def read_origin(cache: Path) -> Origin:
    """What the cache says of itself; raises PerpixelError."""
    try:
        return Origin.model_validate_json((cache / FILE).read_bytes())
    except OSError as error:
        raise PerpixelError(f"{cache / FILE}: cannot be read ({error.strerror})") from None
    except ValidationError as error:
        raise PerpixelError(f"{cache / FILE}: cannot be read ({readable(error)})") from None


def _write_origin(cache: Path, told: Origin) -> None:
    _write(cache / FILE, told.model_dump_json(indent=2).encode())


def _require_same_description(cache: Path, told: Origin) -> None:
    """Raises PerpixelError when what describes a folder's pairs and classes is not as it was."""
    now = _description(Path(told.root))
    if now is not None and now != told.description:
        raise PerpixelError(
            f"{Path(told.root) / DESCRIPTION}: it or a list that it names was changed since "
            f"{cache} was written, and pairs and labels may be others now; delete that folder and "
            f"cache again"
        )


def _description(root: Path) -> str | None:
    """The sha256 of the data set's own description and its lists; None if it has none."""
    path = root / DESCRIPTION
    if not path.is_file():
        return None
    content = b"".join(file.read_bytes() for file in (path, *lists_of_folder(root)))
    return hashlib.sha256(content).hexdigest()


_Job = tuple[PairDataset, int]


def _todo(out: Path, root: Path, splits: Mapping[str, PairDataset]) -> tuple[int, list[_Job]]:
    """The number of pairs, and those that are not there yet, as they are now."""
    first: dict[tuple[str, str], tuple[PairDataset, int]] = {}  # a pair may be in several splits
    for pairs in splits.values():
        for index, names in enumerate(pairs.files):
            first.setdefault(names, (pairs, index))
    return len(first), [
        pair
        for names, pair in first.items()
        if not all(_is_there(_place(out, name), root / name) for name in names)
    ]


def _require_space(out: Path, todo: list[_Job], *, total: int, say: Callable[[str], None]) -> None:
    needed = _estimate(todo)
    free = shutil.disk_usage(out).free
    say(
        f"{total} pairs, {total - len(todo)} of them in {out} already; the others take about "
        f"{_size(needed)} of the {_size(free)} that are free there"
    )
    if needed > free:
        raise PerpixelError(
            f"{out}: the cache takes about {_size(needed)} more, and {_size(free)} are free there; "
            f"name a folder on another disk with --out, or cache one split with --split"
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _write_all(out: Path, todo: list[_Job], *, total: int, progress: Progress) -> list[str]:
    """Decodes all of `todo`; the complaints about pairs that cannot be read."""

    def work(job: _Job) -> str:
        pairs, index = job
        try:
            found = read_pair(pairs, index)
        except PerpixelError as error:
            return str(error)
        for name, pixels in zip(pairs.files[index], found, strict=True):
            _write_pixels(_place(out, name), pixels, pairs.root / name)
        return ""

    problems: list[str] = []
    there = total - len(todo)
    progress(there, total)
    for done, problem in enumerate(read_ahead(work, todo, threads=cores()), start=there + 1):
        problems += [problem] if problem else []
        progress(done, total)
    return problems


def _estimate(todo: list[_Job]) -> int:
    """Bytes that the pairs take, from the sizes of a sample of the images."""
    sizes = []
    for pairs, index in todo[:: max(len(todo) // _SAMPLED, 1)]:
        try:
            with Image.open(pairs.root / pairs.files[index][0]) as file:
                sizes.append(file.width * file.height * 4)
        except UNREADABLE:
            continue  # the decoding will say what is wrong
    return round(len(todo) * sum(sizes) / len(sizes)) if sizes else 0


class _Header(NamedTuple):
    """What stands before an array's pixels: its shape, and the file they are of as it was."""

    magic: bytes
    height: int
    width: int
    channels: int
    source_bytes: int
    source_time: int

    def is_of(self, source: Path) -> bool:
        """Whether the source is as it was; one that is gone or elsewhere now is taken to be."""
        try:
            now = source.stat()
        except OSError:
            return True
        return (now.st_size, now.st_mtime_ns) == (self.source_bytes, self.source_time)


def _checked(file: FileIO, path: Path, source: Path) -> _Header:
    """An array's header; raises PerpixelError unless the array is whole and as the source is."""
    told = _Header(*_HEADER.unpack(file.read(_HEADER.size).ljust(_HEADER.size)))
    if told.magic != _MAGIC or not told.is_of(source):
        raise PerpixelError(
            f"{source}: was changed since it was cached as {path}; run `perpixel data cache` "
            f"again, which renews what has changed"
        )
    pixels = told.height * told.width * told.channels
    if os.fstat(file.fileno()).st_size != _HEADER.size + pixels:
        raise CorruptFileError(f"{path}: is cut short; delete it and cache it again")
    return told


def _is_there(path: Path, source: Path) -> bool:
    """Whether a whole array of the source, as it is now, is at `path`."""
    try:
        with path.open("rb", buffering=0) as file:
            _checked(file, path, source)
    except (OSError, PerpixelError):
        return False
    return True


def _write_pixels(path: Path, pixels: Array, source: Path) -> None:
    stat = source.stat()
    deep = pixels.reshape(*pixels.shape[:2], -1)
    _write(path, _HEADER.pack(_MAGIC, *deep.shape, stat.st_size, stat.st_mtime_ns), deep.tobytes())


def _write(path: Path, *content: bytes) -> None:
    """Writes a file that is there as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{threading.get_ident()}.part")  # two may share a mask
    try:
        with temporary.open("wb") as file:
            file.writelines(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _place(cache: Path, name: str) -> Path:
    return cache / f"arrays/{name}.pixels"
