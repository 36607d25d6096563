"""What a TIFF file says of itself, and its bands taken for colors (TIFF 6.0, BigTIFF)."""

import struct
from typing import NamedTuple

_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BITS, _PHOTOMETRIC, _SAMPLES, _EXTRA_SAMPLES, _FORMAT = 258, 262, 277, 338, 339
_BLACK_IS_ZERO, _RGB = 1, 2
_SHORT, _LONG = 3, 4
_FLOAT = 3


class Header(NamedTuple):
    """What the first image's pixels are."""

    bands: int
    bits: int
    """Of one band."""
    photometric: int
    format: int

    @property
    def is_unmarked(self) -> bool:
        """Whether nothing says what its three bands or more are, as GDAL writes 16 bits."""
        return self.bands > 2 and self.photometric == _BLACK_IS_ZERO

    @property
    def is_usual(self) -> bool:
        """Whether OpenCV can be expected to make an image of it."""
        return self.bands <= 4 and self.bits <= 16 and self.format != _FLOAT

    def __str__(self) -> str:
        kind = "floating-point numbers" if self.format == _FLOAT else "numbers"
        return f"{self.bands} band{'s' * (self.bands != 1)} of {self.bits}-bit {kind}"


def header(content: memoryview) -> Header | None:
    """What a TIFF file's `content` says; None when it is no TIFF file, or a corrupt one."""
    if bytes(content[:4]) not in _SIGNATURES:
        return None
    try:
        read = _directory(content)
        return Header(
            bands=read.number(content, _SAMPLES, 1),
            bits=read.number(content, _BITS, 1),
            photometric=read.number(content, _PHOTOMETRIC, 0),
            format=read.number(content, _FORMAT, 1),
        )
    except (struct.error, OverflowError):
        return None


def marked_as_rgb(content: memoryview) -> bytearray:
    """The TIFF file `content`, its first three bands marked as red, green and blue."""
    read = _directory(content)
    entries = {**read.entries, _PHOTOMETRIC: (_SHORT, 1, struct.pack(f"{read.order}H", _RGB))}
    # Without a word on the bands beyond the third they are neither colors nor alpha.
    entries.pop(_EXTRA_SAMPLES, None)
    packed = [struct.pack(read.entry, tag, *entry) for tag, entry in entries.items()]
    last = bytes(struct.calcsize(read.offset))
    directory = b"".join((struct.pack(read.length, len(entries)), *packed, last))
    whole = bytearray(content)
    whole[read.place : read.place + len(directory)] = directory
    return whole


class _Directory(NamedTuple):
    """A file's first directory: kind, count and value, or the values' offset, of every tag."""

    place: int
    order: str
    offset: str
    length: str
    entry: str
    entries: dict[int, tuple[int, int, bytes]]

    def number(self, content: memoryview, tag: int, usual: int) -> int:
        """A tag's whole number, the first where it has several."""
        if tag not in self.entries:
            return usual
        kind, count, value = self.entries[tag]
        code = self.order + ("I" if kind == _LONG else "H")
        if struct.calcsize(code) * count <= len(value):
            return int(struct.unpack_from(code, value)[0])
        (elsewhere,) = struct.unpack(self.offset, value)
        return int(struct.unpack_from(code, content, elsewhere)[0])


def _directory(content: memoryview) -> _Directory:
    order = "<" if content[0] == ord("I") else ">"
    offset, length, entry = (
        (f"{order}Q", f"{order}Q", f"{order}HHQ8s")
        if ord("+") in content[:4]
        else (f"{order}I", f"{order}H", f"{order}HHI4s")
    )
    (place,) = struct.unpack_from(offset, content, struct.calcsize(offset))
    (count,) = struct.unpack_from(length, content, place)
    first, size = place + struct.calcsize(length), struct.calcsize(entry)
    end = min(first + min(count, 2**16) * size, len(content))  # there are no more tags
    found = (struct.unpack_from(entry, content, at) for at in range(first, end - size + 1, size))
    entries = {tag: (kind, values, value) for tag, kind, values, value in found}
    return _Directory(place, order, offset, length, entry, entries)
