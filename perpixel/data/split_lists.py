"""Reads the list files that divide images into splits, in the forms in which they exist.

A line names an image by its stem, its path or the end of its path, with or without the ending, or
its mask in the same ways: "7", "7.jpg", "sub/7.jpg", "images/7.jpg", "/home/me/set/images/7.jpg".
Columns, separated by blanks, tabs, commas or semicolons, may name image and mask, as in
"images/7.jpg masks/7.png"; numbers and words beside them, as in "7 1 1", are left out.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from perpixel.data.paths import composed, first_few, numbered_lines
from perpixel.errors import PerpixelError
from perpixel.io.images import IMAGE_SUFFIXES, MASK_SUFFIXES

LIST_SUFFIXES = (".txt", ".lst", ".list", ".csv", ".tsv")

NO_IMAGE = "names no image"
NO_MASK = "names an image without a mask"

_FILE_SUFFIXES = (*IMAGE_SUFFIXES, *MASK_SUFFIXES)


@dataclass(frozen=True)
class SplitList:
    """The images that a list names, in its order, and the lines that name none."""

    images: tuple[str, ...]
    """Paths below the root."""
    unused: tuple["UnusedLine", ...]
    """The other lines, without headers and comments."""

    @property
    def num_lines(self) -> int:
        """The number of lines that should name images."""
        return len(self.images) + len(self.unused)


@dataclass(frozen=True)
class UnusedLine:
    """A line of a list that names no image, with its number and the reason."""

    number: int
    line: str
    name: str
    """The part of the line that should name an image."""
    reason: str

    def __str__(self) -> str:
        return f"line {self.number}, {self.line[:200]!r}, {self.reason}"


class _NoImageError(Exception):
    """Its arguments are the part of a line that should name an image, and the reason."""


class ImageNames:
    """Finds images by what list files call them.

    `stems` holds the stem of every image by its path below the root, and `masks` the paths of the
    masks; a line that names an image without one is not used.
    """

    def __init__(self, stems: Mapping[str, str], masks: Mapping[str, str]) -> None:
        self._images_of: dict[str, tuple[str, ...]] = {}
        self._stems = stems
        self._masks = masks
        for image in stems:
            for name in {_without_ending(image), _without_ending(masks.get(image, image))}:
                _add(self._images_of, name, image)

    def read(self, path: Path, *, folder: str = ".") -> SplitList:
        """Reads a list file that lies in `folder`, a path below the root.

        Raises PerpixelError when it does not exist or is not UTF-8, and when it names an image
        twice, but not by the same text: then one of the two is another image.
        """
        images: list[str] = []
        unused: list[UnusedLine] = []
        texts: dict[str, str] = {}
        lines = numbered_lines(path)
        # pandas writes a column of row numbers, without a name, before the others.
        has_row_numbers = lines[0][1].startswith(",") if lines else False
        for number, line in lines:
            if has_row_numbers:
                line = line.partition(",")[2]
            try:
                image, text = self._find_in_line(line, folder)
            except _NoImageError as error:
                is_header = number == 1 and path.suffix.lower() in (".csv", ".tsv")
                if not is_header and not line.startswith("#"):
                    unused.append(UnusedLine(number, line, *error.args))
                continue
            if texts.setdefault(image, text) != text:
                raise PerpixelError(
                    f"{path}: line {number}, {line[:200]!r}, and the line with {texts[image]!r} "
                    f"both mean {image}; write its path below the folder of dataset.toml"
                )
            images.append(image)
        return SplitList(tuple(images), tuple(unused))

    def _find_in_line(self, line: str, folder: str) -> tuple[str, str]:
        """Returns the image that a line names, and the text that names it; raises _NoImageError."""
        name, reason = line, NO_IMAGE
        for columns in _split_columns(line):
            # A whole line of several words is a name only if there is exactly such a file.
            is_exact = columns == [line] and bool(re.search(r"[,;\s]", line))
            # Beside names of files, others are numbers of rows or labels.
            names = [column for column in columns if _is_file(column)] or columns[:1]
            images = [self._find(name, folder, is_exact) for name in names]
            several = next((found for found in images if len(found) > 1), None)
            if several:
                reason = f"may name any of {first_few(several)}: write more of the path"
            elif not images[0]:
                name = names[0]
            elif images[0][0] not in self._masks:
                name, reason = names[0], NO_MASK
            elif () in images:
                image, other = images[0][0], names[images.index(())]
                reason = f"pairs {image} with {other}, but its mask is {self._masks[image]}"
            elif len(set(images)) > 1:
                reason = f"names several images: {first_few(name for (name,) in images)}"
            else:
                return images[0][0], names[0]
        raise _NoImageError(name, reason)

    def _find(self, text: str, folder: str, is_exact: bool) -> tuple[str, ...]:
        """Returns the images that `text` may name; the more exact ways come first."""
        path = composed(text.strip("'\"").replace("\\", "/"))
        path = re.sub(r"^(\.{0,2}/)+", "", path)
        names = dict.fromkeys((path, _without_ending(path) if _is_file(path) else path))
        for name in names:
            if found := self._images_of_stem.get(name):
                return found
        for name in names:
            parts = PurePosixPath(name).parts
            below_list = (folder / PurePosixPath(name)).as_posix()
            # The path, or one that ends in an image's, such as that of another machine.
            ends = ["/".join(parts[start:]) for start in range(1 if is_exact else len(parts))]
            for candidate in (below_list, *ends):
                if found := self._images_of.get(candidate):
                    return found
        if is_exact:
            return ()
        return next(filter(None, (self._images_of_end.get(name) for name in names)), ())

    @cached_property
    def _images_of_stem(self) -> dict[str, tuple[str, ...]]:
        images_of: dict[str, tuple[str, ...]] = {}
        for image, stem in self._stems.items():
            _add(images_of, stem, image)
        return images_of

    @cached_property
    def _images_of_end(self) -> dict[str, tuple[str, ...]]:
        """The images by every end of their paths: only some lists need this large table."""
        images_of: dict[str, tuple[str, ...]] = {}
        for name, images in self._images_of.items():
            parts = PurePosixPath(name).parts
            for start in range(1, len(parts)):
                for image in images:
                    _add(images_of, "/".join(parts[start:]), image)
        return images_of


def _add(images_of: dict[str, tuple[str, ...]], name: str, image: str) -> None:
    images = images_of.get(name, ())
    if image not in images:
        images_of[name] = (*images, image)


def _split_columns(line: str) -> Iterator[list[str]]:
    """Yields a line as one name, then in columns; names may hold blanks, and even commas."""
    yield [line]
    for separator in (r"[,;\t]", r"[,;\s]"):
        columns = [text.strip() for text in re.split(separator, line) if text.strip()]
        if len(columns) > 1:
            yield columns


def _is_file(text: str) -> bool:
    return text.strip("'\"").lower().endswith(_FILE_SUFFIXES)


def _without_ending(path: str) -> str:
    return composed(str(PurePosixPath(path).with_suffix("")))
