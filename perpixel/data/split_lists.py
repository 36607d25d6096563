"""Reads the list files that divide images into splits, in the forms in which they exist.

A line names an image by its stem or its path, with or without the ending, or its mask in the same
ways: "7", "7.jpg", "sub/7.jpg", "images/sub/7.jpg", "/home/me/set/images/sub/7.jpg".
Columns, separated by blanks, tabs, commas or semicolons, may name image and mask, as in
"images/7.jpg masks/7.png"; numbers and words beside them, as in "7 1 1", are left out. A line that
may mean several images is not used.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from perpixel.data.paths import composed, first_few, numbered_lines
from perpixel.errors import PerpixelError
from perpixel.io.images import IMAGE_SUFFIXES, MASK_SUFFIXES

LIST_SUFFIXES = (".txt", ".lst", ".list", ".csv", ".tsv")

NO_IMAGE = "names no image"
NO_MASK = "names an image without a mask"


@dataclass(frozen=True)
class UnusedLine:
    """A line of a list that names no image, or not one alone, with its number and the reason."""

    number: int
    line: str
    name: str
    """The part of the line that should name an image."""
    reason: str

    def __str__(self) -> str:
        return f"line {self.number}, {self.line[:200]!r}, {self.reason}"


@dataclass(frozen=True)
class SplitList:
    """The images that a list names, in its order, and the lines that name none."""

    file: str
    """The list's path below the root."""
    images: tuple[str, ...]
    """Paths below the root."""
    unused: tuple[UnusedLine, ...]
    """The other lines, without headers and comments."""

    @property
    def num_lines(self) -> int:
        """The number of lines that should name images."""
        return len(self.images) + len(self.unused)


class ImageNames:
    """Finds images by what list files call them.

    `stems` holds the stem of every image by its path below the root, and `masks` the paths of the
    masks; a line that names an image without one is not used.
    """

    def __init__(self, stems: Mapping[str, str], masks: Mapping[str, str]) -> None:
        self._masks = masks
        self._images_of_name: dict[str, set[str]] = {}
        self._images_of_path: dict[str, set[str]] = {}
        for image, stem in stems.items():
            names = {_without_ending(stem)}
            for path in map(_without_ending, (image, masks.get(image, image))):
                self._images_of_path.setdefault(path, set()).add(image)
                # "sub/7_sat" for the stem "sub/7"
                names.add("/".join(path.split("/")[-1 - stem.count("/") :]))
            for name in names:
                self._images_of_name.setdefault(name, set()).add(image)

    def read(self, root: Path, file: str) -> SplitList:
        """Reads a list file; its path is below `root`, as those of the images are.

        Raises PerpixelError when it does not exist or is not UTF-8, and when it names an image
        twice, but not by the same text: then one of the two is another image.
        """
        images: list[str] = []
        unused: list[UnusedLine] = []
        names: dict[str, str] = {}
        path = root / file
        for number, line in numbered_lines(path):
            image, name, reason = self._find_in_line(line, str(PurePosixPath(file).parent))
            if image is None:
                is_header = number == 1 and path.suffix.lower() in (".csv", ".tsv")
                if not is_header and not line.startswith("#"):
                    unused.append(UnusedLine(number, line, name, reason))
                continue
            if names.setdefault(image, name) != name:
                raise PerpixelError(
                    f"{path}: line {number}, {line[:200]!r}, and the line with {names[image]!r} "
                    f"both mean {image}; write its path below the folder of dataset.toml"
                )
            images.append(image)
        return SplitList(file, tuple(images), tuple(unused))

    def _find_in_line(self, line: str, folder: str) -> tuple[str | None, str, str]:
        """Returns the image that a line names, or None; the text that names it; why it is None."""
        name, reason = line, NO_IMAGE
        for columns in _split_columns(line):
            # A whole line of several words is a name only if there is exactly such a file.
            is_exact = len(columns) == 1 and bool(re.search(r"[,;\s]", line))
            # Beside names of files, others are numbers of rows or labels.
            files = [column for column in columns if _is_file(column)]
            found = {text: self._find(text, folder, is_exact=is_exact) for text in files or columns}
            images = sorted(set().union(*found.values()))
            missing = [file for file in files if not found[file]]
            if images or not is_exact:
                name = next((text for text in found if found[text]), next(iter(found)))
            if len(images) > 1:
                reason = f"names several images, {first_few(images)}: write more of one's path"
            elif images and images[0] not in self._masks:
                reason = NO_MASK
            elif images and missing:
                mask = self._masks[images[0]]
                reason = f"pairs {images[0]} with {missing[0]}, but its mask is {mask}"
            elif images:
                return images[0], name, ""
        return None, name, reason

    def _find(self, text: str, folder: str, *, is_exact: bool) -> set[str]:
        """Returns the images that `text` may name, first of all in the folder of the list."""
        name = _without_ending(re.sub(r"^(\.{0,2}/)+", "", text.replace("\\", "/")))
        paths = [self._images_of_path.get(path, ()) for path in (name, f"{folder}/{name}")]
        images = set().union(self._images_of_name.get(name, ()), *paths)
        while not images and not is_exact and "/" in name:  # a path of another machine
            name = name.partition("/")[2]
            images = self._images_of_path.get(name, set())
        return {image for image in images if image.startswith(f"{folder}/")} or images


def _split_columns(line: str) -> Iterator[list[str]]:
    """Yields a line as one name, then in columns; names may hold blanks, and even commas."""
    for separator in (r"$", r"[,;\t]", r"[,;\s]"):
        columns = [text.strip(" '\"") for text in re.split(separator, line) if text.strip(" '\"")]
        if columns:
            yield columns


def _is_file(text: str) -> bool:
    return text.lower().endswith((*IMAGE_SUFFIXES, *MASK_SUFFIXES))


def _without_ending(path: str) -> str:
    return composed(path.rpartition(".")[0] if _is_file(path) else path)
