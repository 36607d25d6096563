"""Finds a data set's folders and lists below its root; errors name what is there instead."""

import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from perpixel.errors import PerpixelError


def require_folder(root: Path, *, dataset: str, holds: str) -> None:
    """Raises PerpixelError unless `root` is a folder; the message says what it should hold."""
    if not root.is_dir():
        problem = "is a file, not a folder" if root.exists() else "no such folder"
        raise PerpixelError(f"{root}: {problem}. Name the root of {dataset}, which holds {holds}")


def find_folder(root: Path, candidates: Sequence[str], *, marker: str, dataset: str) -> Path:
    """Returns the first of `candidates` below `root` that holds the file or folder `marker`.

    The candidate "." is `root` itself. Raises PerpixelError that names all candidates.
    """
    holds = " or ".join((Path(candidate) / marker).as_posix() for candidate in candidates)
    require_folder(root, dataset=dataset, holds=holds)
    for candidate in candidates:
        if (root / candidate / marker).exists():
            return root / candidate
    content = first_few(sorted(path.name for path in root.iterdir()))
    raise PerpixelError(
        f"{root}: not a folder of {dataset}, which holds {holds}; it holds {content}"
    )


def read_list(path: Path) -> tuple[str, ...]:
    """Reads the non-blank lines of a list file as `numbered_lines` does."""
    return tuple(line for _, line in numbered_lines(path))


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """Reads the non-blank lines of a list file and their numbers, from 1 on.

    The file is UTF-8 with or without a byte order mark. Raises PerpixelError when there is no such
    file, or when it is UTF-16.
    """
    if not path.is_file():
        lists = first_few(sorted(other.stem for other in path.parent.glob("*.txt")))
        raise PerpixelError(f"{path}: no such list; splits there: {lists}")
    # Bytes that are not UTF-8 stay as they are in file names.
    text = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    if "\0" in text:
        raise PerpixelError(f"{path}: not UTF-8 text (UTF-16, perhaps); save it as UTF-8")
    lines = enumerate(text.splitlines(), start=1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def list_files(folder: Path, pattern: str) -> list[Path]:
    """Lists the files that match `pattern`, sorted, without hidden ones such as macOS's ._*."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def first_few(items: Iterable[object]) -> str:
    """Joins the first eight items for a message: "a, b", "a, b, c, d, e, f, g, h, ..."."""
    words = [str(item) for item in items]
    return ", ".join(words[:8]) + (", ..." if len(words) > 8 else "") or "nothing"


def composed(name: str) -> str:
    """Normalizes `name` so that a letter and its accents are one character (Unicode's NFC)."""
    return unicodedata.normalize("NFC", name)
