"""Reads a TIFF file's header and marks its bands as colors (TIFF 6.0, BigTIFF)."""

import struct
from typing import NamedTuple

_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BITS, _PHOTOMETRIC, _SAMPLES, _EXTRA_SAMPLES, _FORMAT = 258, 262, 277, 338, 339
_BLACK_IS_ZERO, _RGB = 1, 2
_SHORT, _LONG = 3, 4
_FLOAT = 3


class Header(NamedTuple):
    """The first image's pixel format; `bits` are those of one band."""

    bands: int
    bits: int
    photometric: int
    format: int

    @property
    def is_unmarked(self) -> bool:
        """Whether no tag says what its three or more bands are, as GDAL writes 16 bits."""
        return self.bands > 2 and self.photometric == _BLACK_IS_ZERO

    @property
    def is_usual(self) -> bool:
        """Whether it is of a kind that OpenCV decodes."""
        return self.bands <= 4 and self.bits <= 16 and self.format != _FLOAT

    def __str__(self) -> str:
        kind = "floating-point numbers" if self.format == _FLOAT else "numbers"
        return f"{self.bands} band{'s' * (self.bands != 1)} of {self.bits}-bit {kind}"


def header(content: memoryview) -> Header | None:
    """Reads the header of a TIFF file's `content`; None when it is no TIFF file, or corrupt."""
    if bytes(content[:4]) not in _SIGNATURES:
        return None
    try:
        directory = _read_directory(content)
        return Header(
            bands=directory.number(content, _SAMPLES, default=1),
            bits=directory.number(content, _BITS, default=1),
            photometric=directory.number(content, _PHOTOMETRIC, default=0),
            format=directory.number(content, _FORMAT, default=1),
        )
    except (struct.error, OverflowError):
        return None


def marked_as_rgb(content: memoryview) -> bytearray:
    """Returns a copy of a TIFF file whose first three bands are marked as red, green and blue."""
    old = _read_directory(content)
    entries = {**old.entries, _PHOTOMETRIC: (_SHORT, 1, struct.pack(f"{old.order}H", _RGB))}
    # Without this tag the bands beyond the third are neither colors nor alpha.
    entries.pop(_EXTRA_SAMPLES, None)
    packed = [struct.pack(old.entry_format, tag, *entry) for tag, entry in entries.items()]
    no_next = bytes(struct.calcsize(old.offset_format))
    directory = b"".join((struct.pack(old.count_format, len(entries)), *packed, no_next))
    marked = bytearray(content)
    marked[old.start : old.start + len(directory)] = directory
    return marked


class _Directory(NamedTuple):
    """A file's first directory, its byte order and struct formats.

    An entry, by tag, is the type of its values, their count, and the values or their offset.
    """

    start: int
    order: str
    offset_format: str
    count_format: str
    entry_format: str
    entries: dict[int, tuple[int, int, bytes]]

    def number(self, content: memoryview, tag: int, *, default: int) -> int:
        """Returns a tag's integer, the first where it has several."""
        if tag not in self.entries:
            return default
        kind, count, value = self.entries[tag]
        code = self.order + ("I" if kind == _LONG else "H")
        if struct.calcsize(code) * count <= len(value):
            return int(struct.unpack_from(code, value)[0])
        (offset,) = struct.unpack(self.offset_format, value)
        return int(struct.unpack_from(code, content, offset)[0])


def _read_directory(content: memoryview) -> _Directory:
    order = "<" if content[0] == ord("I") else ">"
    if ord("+") in content[:4]:  # BigTIFF
        offset_format, count_format, entry_format = f"{order}Q", f"{order}Q", f"{order}HHQ8s"
    else:
        offset_format, count_format, entry_format = f"{order}I", f"{order}H", f"{order}HHI4s"
    (start,) = struct.unpack_from(offset_format, content, struct.calcsize(offset_format))
    (count,) = struct.unpack_from(count_format, content, start)
    first, size = start + struct.calcsize(count_format), struct.calcsize(entry_format)
    # A corrupt count may be any number, but there are no more than 2^16 tags.
    end = min(first + min(count, 2**16) * size, len(content))
    entries = {}
    for position in range(first, end - size + 1, size):
        tag, *entry = struct.unpack_from(entry_format, content, position)
        entries[tag] = tuple(entry)
    return _Directory(start, order, offset_format, count_format, entry_format, entries)
