"""What a PNG file says of itself, and its first rows alone (PNG specification, third edition)."""

import struct
import zlib
from typing import NamedTuple

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
GRAY = 0

try:
    from isal.isal_zlib import decompressobj

    _WORTHWHILE = 1.0
except ImportError:  # the extra "png", which inflates three times as fast
    from zlib import decompressobj  # type: ignore[assignment]

    _WORTHWHILE = 0.75
    """Above this share of its rows a file is decoded faster as a whole."""


class Header(NamedTuple):
    """The IHDR chunk."""

    width: int
    height: int
    depth: int
    color: int
    compression: int
    filters: int
    interlace: int


def header(content: memoryview) -> Header | None:
    """The header of a PNG file's `content`; None when it is no PNG file."""
    start = bytes(content[:33])
    if len(start) < 33 or not start.startswith(_SIGNATURE) or start[12:16] != b"IHDR":
        return None
    return Header(*struct.unpack_from(">IIBBBBB", start, 16))


def first_rows(content: memoryview, rows: int) -> bytes | None:
    """A PNG file of the first `rows` rows of another, so that the others need not be decoded.

    What is needed is inflated and stored anew; its pixels are still the decoder's affair. None
    when the file is better decoded as a whole: most of it is needed, its rows do not follow one
    another from the top (interlaced, animated, turned by an EXIF tag), or it is corrupt.
    """
    read = header(content)
    if read is None or read.interlace or read.depth < 8 or read.color not in _CHANNELS:
        return None
    if rows > _WORTHWHILE * read.height:
        return None
    wanted = rows * (1 + read.width * _CHANNELS[read.color] * read.depth // 8)
    inflate, store = decompressobj(), zlib.compressobj(0)
    before, stored, place = [], [], 33
    try:
        while place < len(content):
            (length,) = struct.unpack_from(">I", content, place)
            kind, end = bytes(content[place + 4 : place + 8]), place + 12 + length
            if kind in (b"eXIf", b"acTL"):
                return None
            if kind == b"IDAT" and wanted:
                if _checksum(content[place + 4 : end - 4]) != content[end - 4 : end]:
                    return None
                pixels = inflate.decompress(content[place + 8 : end - 4], wanted)
                wanted -= len(pixels)
                stored.append(store.compress(pixels))
            elif not stored:
                before.append(content[place:end])
            place = end
    except (zlib.error, struct.error):
        return None
    if wanted:
        return None
    stored.append(store.flush())
    head = struct.pack(">IIBBBBB", *read._replace(height=rows))
    return b"".join(
        (_SIGNATURE, *_chunk(b"IHDR", head), *before, *_chunk(b"IDAT", *stored), *_chunk(b"IEND"))
    )


def _chunk(kind: bytes, *data: bytes) -> tuple[bytes, ...]:
    return struct.pack(">I", sum(map(len, data))), kind, *data, _checksum(kind, *data)


def _checksum(*named: bytes | memoryview) -> bytes:
    found = 0
    for part in named:
        found = zlib.crc32(part, found)
    return struct.pack(">I", found)
