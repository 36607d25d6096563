"""Reads the stored numbers of TIFF files (TIFF 6.0, BigTIFF), whatever is to be seen in them.

tifffile reads tags and numbers. It lacks some compressions, as LZW, JPEG and fax, without the
package imagecodecs: Pillow decodes the kinds of such files that it gives without loss.
"""

import io
import logging
import math
import zlib
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from perpixel.errors import CorruptFileError, PerpixelError, plural

if TYPE_CHECKING:
    from tifffile import TiffPage

Numbers = npt.NDArray[Any]
"""Stored numbers, [height, width, bands], of any type."""

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE = 0, 1, 2, 3

_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ORIENTATION = 274
_ALPHA = (1, 2)  # ExtraSamples: associated and unassociated alpha; 0 is unspecified
_REDUCED_OR_MASK = 0b101  # NewSubfileType
_DEFLATE = (8, 32946)
_BITS_OF_MODE = {"1": (1,), "L": (8,), "P": (8,), "RGB": (8,), "I;16": (16,), "I;16B": (16,),
                 "I": (16, 32), "F": (32,)}  # fmt: skip
"""The numbers that Pillow's modes hold as they are stored: it scales 2 and 4 bits, for example."""
_MAX_BYTES = 2**32
"""Of an image's numbers, as a header that claims any size costs nothing."""
_LARGE_SEGMENT = 2**20
"""Bytes from which on a compressed strip or tile might fill the memory."""
_MAX_PAGES = 500
"""Pages after which the search ends, as a file's list of pages may have a loop."""

# With a handler of its own the library writes nothing to stderr about corrupt tags.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


class Tiff:
    """A TIFF file's first page: its height, width, number of bands and photometric interpretation.

    tile: the tiles' height and width; (0, 0) for strips. bits: those of one number. dtype: the
    stored numbers' type, at least 8 bits wide; None where NumPy has none. extra: the kind of each
    band beyond the colors; 1 and 2 are alpha, 0 is unspecified. orientation: as EXIF's, 1 is
    upright.
    """

    def __init__(self, content: memoryview) -> None:
        from tifffile import TiffFile  # slow to import, and not needed for other files

        self._content = content
        self._page = page = TiffFile(io.BytesIO(content)).pages.first
        self.height, self.width = int(page.imagelength), int(page.imagewidth)
        self.tile = int(page.tilelength), int(page.tilewidth)
        self.bands = int(page.samplesperpixel)
        bits = page.bitspersample
        self.bits = max(bits) if isinstance(bits, tuple) else int(bits)
        is_bool = page.dtype is not None and page.dtype.kind == "b"
        self.dtype = np.dtype(np.uint8) if is_bool else page.dtype
        self.photometric = int(page.photometric)
        self.extra = tuple(map(int, page.extrasamples))
        orientation = int(page.tags[_ORIENTATION].value) if _ORIENTATION in page.tags else 1
        self.orientation = orientation if orientation in range(1, 9) else 1

    @property
    def is_unmarked(self) -> bool:
        """Whether no tag says what its three or more bands are, as GDAL writes 16 bits."""
        return self.bands > 2 and self.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO)

    @property
    def has_alpha(self) -> bool:
        """Whether the last band is alpha; the fourth of RGB that nothing marks is, too."""
        if self.photometric == RGB and self.bands == 4 and not self.extra:
            return True
        return len(self.extra) == 1 and self.extra[0] in _ALPHA

    def __str__(self) -> str:
        kinds = {"f": "floating-point ", "i": "signed "}
        kind = kinds.get(self.dtype.kind, "") if self.dtype is not None else ""
        return f"{plural(self.bands, 'band')} of {self.bits}-bit {kind}numbers"

    def has_more_pages(self) -> bool:
        """Whether there are other pages of the first one's size and kind.

        Overviews (NewSubfileType 1, as in cloud-optimized GeoTIFFs), transparency masks (4) and
        thumbnails do not count.
        """
        others = islice(self._page.parent.pages, 1, _MAX_PAGES)
        with suppress(Exception):  # a corrupt file makes tifffile raise almost anything
            return any(
                page.shape == self._page.shape and not page.aspage().subfiletype & _REDUCED_OR_MASK
                for page in others
            )
        return False

    def require_upright(self, *, origin: str) -> None:
        """Raises PerpixelError naming `origin` when an orientation tag rotates the file."""
        if self.orientation != 1:
            raise PerpixelError(
                f"{origin}: a TIFF that its orientation tag, {self.orientation}, rotates: write it "
                f"upright, as with magick -auto-orient"
            )

    def read(self, *, origin: str) -> Numbers:
        """Decodes the stored numbers, [height, width, bands].

        WhiteIsZero is not inverted, a palette's indices and premultiplied colors are left as they
        are. Raises PerpixelError naming `origin` for a rotated file and a compression that cannot
        be decoded, CorruptFileError for a corrupt file.
        """
        self.require_upright(origin=origin)
        try:
            _require_sound(self._page, self._content)
            # [planes, depth, height, width, bands of a plane]
            pixels = self._page.asarray(maxworkers=1, squeeze=False)
            numbers = np.concatenate(list(pixels[:, 0]), axis=2)
        except MemoryError:
            raise
        except Exception as error:  # a corrupt file makes tifffile raise almost anything
            if not isinstance(error, ImportError) and "imagecodecs" not in str(error):
                raise CorruptFileError(f"{origin}: cannot be decoded ({error})") from None
            numbers = self._read_by_pillow(origin)
        if numbers.shape != (self.height, self.width, self.bands):
            raise CorruptFileError(f"{origin}: its tags contradict one another")
        return numbers.astype(self.dtype, copy=False)

    def _read_by_pillow(self, origin: str) -> Numbers:
        mode, bands, pixels = "", 0, None
        with suppress(Exception):  # a corrupt file makes Pillow raise almost anything
            file = Image.open(io.BytesIO(self._content), formats=("TIFF",))
            mode, bands = file.mode, len(file.getbands())
            pixels = np.asarray(file)
        if self.bits not in _BITS_OF_MODE.get(mode, ()) or bands != self.bands:
            compression = getattr(self._page.compression, "name", self._page.compression)
            raise PerpixelError(
                f"{origin}: a TIFF of {self}, whose compression, {compression}, needs a package: "
                f"pip install imagecodecs. Or write it anew, as with gdal_translate -co "
                f"COMPRESS=DEFLATE"
            )
        if pixels is None:
            raise CorruptFileError(f"{origin}: cannot be decoded")
        if self.photometric == WHITE_IS_ZERO and mode in ("1", "L"):  # Pillow inverts them
            pixels = ~pixels
        return pixels.reshape(*pixels.shape[:2], -1)


def read_software(path: Path) -> str:
    """Returns what a TIFF file's tag says of the program that wrote it; "" without one."""
    from tifffile import TiffFile

    try:
        with TiffFile(path) as file:
            return str(file.pages.first.software)
    except Exception:  # a corrupt file makes tifffile raise almost anything
        return ""


def parse(content: memoryview) -> Tiff | None:
    """Reads the tags of a TIFF file's `content`; None when it is no TIFF file, or corrupt."""
    if bytes(content[:4]) not in _SIGNATURES:
        return None
    try:
        return Tiff(content)
    except Exception:  # a corrupt file makes tifffile raise almost anything
        return None


def _require_sound(page: "TiffPage", content: memoryview) -> None:
    """Raises ValueError for a page that lies beyond its file or may fill the memory.

    tifffile would fill in what is missing, and inflate whatever deflate's data inflate to.
    """
    if page.dtype is None or page.imagedepth != 1:
        raise ValueError("numbers of a rare kind")
    itemsize, offsets, counts = page.dtype.itemsize, page.dataoffsets, page.databytecounts
    if math.prod(page.shape) * itemsize > _MAX_BYTES:
        raise ValueError(f"more than {_MAX_BYTES // 2**30} GiB of numbers")
    segments = math.prod(page.chunked)
    ends = [start + count for start, count in zip(offsets, counts, strict=False)]
    if not segments == len(offsets) == len(counts) or max(ends) > len(content):
        raise ValueError("truncated")
    size = math.prod(page.chunks) * itemsize
    for start, count in zip(offsets, counts, strict=True):
        if page.compression in _DEFLATE and count > _LARGE_SEGMENT:
            inflated = zlib.decompressobj().decompress(content[start : start + count], size + 1)
            if len(inflated) > size:
                raise ValueError("a part of it unpacks to more than its size")
