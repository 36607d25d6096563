"""Where a data set's files lie below the folder that a user names."""

from collections.abc import Collection, Sequence
from pathlib import Path

from perpixel.data.dataset import require_folder
from perpixel.errors import PerpixelError, UsageError
from perpixel.recipes.settings import suggestion


def find_folder(root: Path, places: Sequence[str], *, marker: str, dataset: str) -> Path:
    """The first of `places` below `root` ("." is itself) that holds the file or folder `marker`.

    Raises PerpixelError that names them all.
    """
    require_folder(root, dataset=dataset, holds=" or ".join(_shown(places, marker)))
    for place in places:
        if (root / place / marker).exists():
            return root / place
    there = ", ".join(sorted(path.name for path in root.iterdir())[:8]) or "nothing"
    raise PerpixelError(
        f"{root}: not a folder of {dataset}, which holds {' or '.join(_shown(places, marker))}; "
        f"it holds {there}"
    )


def read_list(path: Path) -> tuple[str, ...]:
    """A list file's lines, but for blank ones, in UTF-8 with or without a mark.

    Raises PerpixelError when there is no such file, or in UTF-16.
    """
    if not path.is_file():
        there = ", ".join(sorted(other.stem for other in path.parent.glob("*.txt"))) or "none"
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
    if split not in splits:
        raise UsageError(
            f"{dataset} has no split {split!r}.{suggestion(split, splits)} It has: "
            + ", ".join(splits)
        )


def below(root: Path, path: Path) -> str:
    """The path below `root`, as `Pairs` holds it."""
    return path.relative_to(root).as_posix()


def _shown(places: Sequence[str], marker: str) -> list[str]:
    return [(Path(place) / marker).as_posix() for place in places]
