"""Where a data set's files lie below the folder that a user names."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from perpixel.errors import PerpixelError
from perpixel.recipes.overrides import require_known


def require_folder(root: Path, *, dataset: str, holds: str) -> None:
    """Raises PerpixelError, unless `root` is a folder, that says what the data set keeps there."""
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "no such folder"
        raise PerpixelError(f"{root}: {what}. Name the root of {dataset}, which holds {holds}")


def find_folder(root: Path, places: Sequence[str], *, marker: str, dataset: str) -> Path:
    """The first of `places` below `root` ("." is itself) that holds the file or folder `marker`.

    Raises PerpixelError that names them all.
    """
    holds = " or ".join((Path(place) / marker).as_posix() for place in places)
    require_folder(root, dataset=dataset, holds=holds)
    for place in places:
        if (root / place / marker).exists():
            return root / place
    there = first_few(sorted(path.name for path in root.iterdir()))
    raise PerpixelError(f"{root}: not a folder of {dataset}, which holds {holds}; it holds {there}")


def read_list(path: Path) -> tuple[str, ...]:
    """A list file's lines, but for blank ones, in UTF-8 with or without a mark.

    Raises PerpixelError when there is no such file, or in UTF-16.
    """
    if not path.is_file():
        there = first_few(sorted(other.stem for other in path.parent.glob("*.txt")))
        raise PerpixelError(f"{path}: no such list; splits there: {there}")
    # Bytes that are no UTF-8 stay as they are in file names.
    text = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    if "\0" in text:
        raise PerpixelError(f"{path}: is no UTF-8 text (UTF-16, perhaps); save it as UTF-8")
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def matching(folder: Path, pattern: str) -> list[Path]:
    """The files that fit `pattern`, sorted, but for hidden ones, as macOS leaves on other disks."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def require_split(split: str, splits: Collection[str], *, dataset: str) -> None:
    """Raises UsageError for a split that the data set does not have."""
    require_known(split, splits, f"{dataset} has no split {split!r}")


def below(root: Path, path: Path) -> str:
    """The path below `root`, as `PairDataset` holds it."""
    return path.relative_to(root).as_posix()


def first_few(things: Iterable[object]) -> str:
    """The first eight of them for a message: "a, b", "a, b, c, d, e, f, g, h, ..." or "nothing"."""
    words = [str(thing) for thing in things]
    return ", ".join(words[:8]) + (", ..." if len(words) > 8 else "") or "nothing"
