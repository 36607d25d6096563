"""Reads a PNG file's header and cuts a file to its first rows (PNG specification, 3rd edition)."""

import struct
import zlib
from typing import NamedTuple

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""By color type: gray, RGB, palette, gray and alpha, RGB and alpha."""

try:
    from isal.isal_zlib import decompressobj

    _MAX_FRACTION = 1.0
except ImportError:  # the extra "png", which inflates three times as fast
    from zlib import decompressobj  # type: ignore[assignment]

    _MAX_FRACTION = 0.75
    """Of its rows, above which a file is decoded faster as a whole."""


class Header(NamedTuple):
    """The IHDR chunk."""

    width: int
    height: int
    depth: int
    color: int
    compression: int
    filters: int
    interlace: int

    @property
    def pixels(self) -> int:
        """The number of pixels."""
        return self.width * self.height

    @property
    def is_gray_8_bit(self) -> bool:
        """Whether a pixel is one byte of gray, without alpha."""
        return self.depth == 8 and self.color == 0


def header(content: memoryview) -> Header | None:
    """Reads the header of a PNG file's `content`; None when it is no PNG file."""
    start = bytes(content[:33])
    if len(start) < 33 or not start.startswith(_SIGNATURE) or start[12:16] != b"IHDR":
        return None
    return Header(*struct.unpack_from(">IIBBBBB", start, 16))


def first_rows(content: memoryview, rows: int) -> bytes | None:
    """Makes a PNG file of the first `rows` rows of another, so that the others are not decoded.

    The rows' data is inflated and stored uncompressed; filters are left to the decoder. Returns
    None when the file has to be decoded as a whole, or is faster so: most rows are needed, rows are
    not stored from the top (interlaced, animated, rotated by an EXIF tag), or it is corrupt.
    """
    ihdr = header(content)
    if ihdr is None or ihdr.interlace or ihdr.depth < 8 or ihdr.color not in _CHANNELS:
        return None
    if rows > _MAX_FRACTION * ihdr.height:
        return None
    missing = rows * (1 + ihdr.width * _CHANNELS[ihdr.color] * ihdr.depth // 8)
    inflate, store = decompressobj(), zlib.compressobj(0)
    chunks, stored, start = [], [], 33
    try:
        while start < len(content):
            (length,) = struct.unpack_from(">I", content, start)
            kind, end = bytes(content[start + 4 : start + 8]), start + 12 + length
            if kind in (b"eXIf", b"acTL"):
                return None
            if kind == b"IDAT" and missing:
                (checksum,) = struct.unpack_from(">I", content, end - 4)
                if zlib.crc32(content[start + 4 : end - 4]) != checksum:
                    return None
                pixels = inflate.decompress(content[start + 8 : end - 4], missing)
                missing -= len(pixels)
                stored.append(store.compress(pixels))
            elif not stored:
                chunks.append(content[start:end])
            start = end
    except (zlib.error, struct.error):
        return None
    if missing:
        return None
    stored.append(store.flush())
    cropped = _chunk(b"IHDR", struct.pack(">IIBBBBB", *ihdr._replace(height=rows)))
    idat = _chunk(b"IDAT", b"".join(stored))
    return b"".join((_SIGNATURE, cropped, *chunks, idat, _chunk(b"IEND", b"")))


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(data, zlib.crc32(kind))
    return b"".join((struct.pack(">I", len(data)), kind, data, struct.pack(">I", checksum)))
