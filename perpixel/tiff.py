"""What a TIFF file says of itself, and its bands taken for colours (TIFF 6.0, BigTIFF)."""

import struct
from typing import NamedTuple

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_BITS, _PHOTOMETRIC, _SAMPLES, _EXTRA_SAMPLES, _FORMAT = 258, 262, 277, 338, 339
_BLACK_IS_ZERO, _RGB = 1, 2
_SHORT, _LONG = 3, 4
_FLOAT = 3


class Header(NamedTuple):
    """What the first picture's pixels are."""

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
        """Whether OpenCV can be expected to make a picture of it."""
        return self.bands <= 4 and self.bits <= 16 and self.format != _FLOAT

    def __str__(self) -> str:
        kind = "floating-point numbers" if self.format == _FLOAT else "numbers"
        return f"{self.bands} band{'s' * (self.bands != 1)} of {self.bits}-bit {kind}"


def header(content: memoryview) -> Header | None:
    """What a TIFF file's `content` says; None when it is no TIFF file, or a damaged one."""
    try:
        read = _directory(content)
        return read and Header(
            bands=read.number(content, _SAMPLES, 1),
            bits=read.number(content, _BITS, 1),
            photometric=read.number(content, _PHOTOMETRIC, 0),
            format=read.number(content, _FORMAT, 1),
        )
    except (struct.error, OverflowError):
        return None


def marked_as_rgb(content: memoryview) -> bytearray:
    """The TIFF file `content`, its first three bands marked as red, green and blue.

    A directory with that mark is put at the end, and the file's start sent there.
    """
    read = _directory(content)
    assert read is not None
    layout = read.layout
    mark = struct.pack(layout.entry + "H", _PHOTOMETRIC, _SHORT, 1, _RGB).ljust(layout.size, b"\0")
    # Without a word on the bands beyond the third they are neither colours nor alpha.
    entries = {**read.entries, _PHOTOMETRIC: mark}
    entries.pop(_EXTRA_SAMPLES, None)
    whole = bytearray(content)
    whole += bytes(len(whole) % 2)
    struct.pack_into(layout.offset, whole, layout.start, len(whole))
    whole += struct.pack(layout.length, len(entries)) + b"".join(entries.values())
    whole += bytes(struct.calcsize(layout.offset))
    return whole


class _Layout(NamedTuple):
    """Where a file keeps the place of its first directory, and how that is packed."""

    start: int
    offset: str
    length: str
    entry: str
    size: int
    """Bytes of an entry."""


class _Directory(NamedTuple):
    layout: _Layout
    entries: dict[int, bytes]

    def number(self, content: memoryview, tag: int, usual: int) -> int:
        """A tag's whole number, the first where it has several."""
        entry, place = self.entries.get(tag), struct.calcsize(self.layout.entry)
        if entry is None:
            return usual
        (_, kind, count) = struct.unpack_from(self.layout.entry, entry)
        code = self.layout.entry[0] + ("I" if kind == _LONG else "H")
        if struct.calcsize(code) * count <= self.layout.size - place:
            return int(struct.unpack_from(code, entry, place)[0])
        (elsewhere,) = struct.unpack_from(self.layout.offset, entry, place)
        return int(struct.unpack_from(code, content, elsewhere)[0])


def _directory(content: memoryview) -> _Directory | None:
    signature = bytes(content[:4])
    if signature not in SIGNATURES:
        return None
    order = "<" if signature.startswith(b"II") else ">"
    layout = (
        _Layout(8, f"{order}Q", f"{order}Q", f"{order}HHQ", 20)
        if b"+" in signature
        else _Layout(4, f"{order}I", f"{order}H", f"{order}HHI", 12)
    )
    (place,) = struct.unpack_from(layout.offset, content, layout.start)
    (count,) = struct.unpack_from(layout.length, content, place)
    place += struct.calcsize(layout.length)
    end = min(place + min(count, 2**16) * layout.size, len(content))  # there are no more tags
    entries = (
        bytes(content[at : at + layout.size])
        for at in range(place, end - layout.size + 1, layout.size)
    )
    return _Directory(
        layout, {struct.unpack_from(layout.entry, entry)[0]: entry for entry in entries}
    )
