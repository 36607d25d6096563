"""Reads the stored numbers of TIFF files (TIFF 6.0, BigTIFF), whatever is to be seen in them.

tifffile reads tags and numbers. Where it lacks a compression, as LZW, JPEG and fax without the
package imagecodecs, Pillow decodes the kinds of files that it gives without loss, and rasterio, if
it is installed, the others.
"""

import io
import logging
import math
import warnings
import zlib
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

if TYPE_CHECKING:
    from tifffile import TiffPage

Numbers = npt.NDArray[Any]
"""Stored numbers, [height, width, bands], of any type."""

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6

_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ORIENTATION = 274
_ALPHA = (1, 2)  # ExtraSamples: associated and unassociated alpha; 0 is unspecified
_REDUCED_OR_MASK = 0b101  # NewSubfileType
_DEFLATE = (8, 32946)
_MAX_BYTES = 2**32
"""Of an image's numbers, as a header that claims any size costs nothing."""
_LARGE_SEGMENT = 2**20
"""Bytes from which on a compressed strip or tile might fill the memory."""
_MAX_PAGES = 500
"""The number of pages at which counting them ends, as a file's list of pages may have a loop."""

# With a handler of its own the library writes nothing to stderr about corrupt tags.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Tiff:
    """A TIFF file's first page; `bits` are those of one number."""

    content: memoryview = field(repr=False)
    page: "TiffPage" = field(repr=False)
    height: int
    width: int
    tile: tuple[int, int]
    """The tiles' height and width; (0, 0) for strips."""
    bands: int
    bits: int
    dtype: np.dtype[Any] | None
    """The stored numbers' type, at least 8 bits wide; None where NumPy has none."""
    photometric: int
    extra: tuple[int, ...]
    """The kind of each band beyond the colors: 1 and 2 are alpha, 0 is unspecified."""
    orientation: int
    """As EXIF's: 1 is upright."""

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

    @property
    def has_short_numbers(self) -> bool:
        """Whether its numbers are integers of up to 16 bits."""
        return self.dtype is not None and self.dtype.kind in "ui" and self.bits <= 16

    def __str__(self) -> str:
        kinds = {"f": "floating-point ", "i": "signed "}
        kind = kinds.get(self.dtype.kind, "") if self.dtype is not None else ""
        return f"{self.bands} band{'s' * (self.bands != 1)} of {self.bits}-bit {kind}numbers"

    def count_pages(self) -> int:
        """Counts the pages of the first one's size and kind.

        Overviews (NewSubfileType 1, as in cloud-optimized GeoTIFFs), transparency masks (4) and
        thumbnails are not counted.
        """
        pages = self.page.parent.pages
        try:
            others = list(islice(pages, 1, _MAX_PAGES))
        except Exception:  # a corrupt file makes tifffile raise almost anything
            return 1
        return 1 + sum(
            page.shape == self.page.shape and not page.aspage().subfiletype & _REDUCED_OR_MASK
            for page in others
        )

    def read(self) -> Numbers:
        """Decodes the stored numbers, [height, width, bands].

        WhiteIsZero is not inverted, a palette's indices and premultiplied colors are left as they
        are, and `orientation` is not applied. Raises ValueError that says why it cannot.
        """
        try:
            _require_sound(self.page, self.content)
            # [planes, depth, height, width, bands of a plane]
            pixels = self.page.asarray(maxworkers=1, squeeze=False)
            numbers = np.concatenate(list(pixels[:, 0]), axis=2)
        except MemoryError:
            raise
        except Exception as error:  # a corrupt file makes tifffile raise almost anything
            if not isinstance(error, ImportError) and "imagecodecs" not in str(error):
                raise ValueError(str(error)) from None
            other = self._read_by_pillow()
            numbers = self._read_by_rasterio() if other is None else other
        if numbers.shape != (self.height, self.width, self.bands):
            raise ValueError("its tags contradict one another")
        return numbers.astype(self.dtype, copy=False)

    def _read_by_pillow(self) -> Numbers | None:
        """Decodes the numbers of a file that Pillow gives without loss; None for others."""
        try:
            with Image.open(io.BytesIO(self.content), formats=("TIFF",)) as file:
                mode = file.mode
                pixels = np.asarray(file.convert("RGB") if mode == "YCbCr" else file)
        except Exception:  # a corrupt file makes Pillow raise almost anything
            return None
        if mode in ("1", "L") and self.bits < 8:  # Pillow scales 2 and 4 bits to 0..255
            pixels = pixels.astype(np.uint8) // (1 if mode == "1" else 255 // (2**self.bits - 1))
        if mode in ("1", "L") and self.photometric == WHITE_IS_ZERO:  # Pillow inverts them
            pixels = 2**self.bits - 1 - pixels
        pixels = pixels.reshape(*pixels.shape[:2], -1)
        # It gives signed bytes as unsigned, uint32 and int16 as int32, 16-bit colors as 8, and
        # divides by an associated alpha.
        integers = mode in ("L", "I") and self.dtype is not None and self.dtype.kind in "ui"
        is_same = integers or (
            self.dtype is not None
            and (pixels.dtype.kind, pixels.dtype.itemsize) == (self.dtype.kind, self.dtype.itemsize)
        )
        if not is_same or pixels.shape[2] != self.bands or 1 in self.extra:
            return None
        return turn_back(pixels, self.orientation)  # Pillow has turned them

    def _read_by_rasterio(self) -> Numbers:
        """Decodes the numbers of any file that GDAL does; raises ValueError."""
        compression = getattr(self.page.compression, "name", self.page.compression)
        try:
            from rasterio import MemoryFile
            from rasterio.errors import NotGeoreferencedWarning, RasterioError
        except ImportError:
            raise ValueError(
                f"its compression, {compression}, needs rasterio for {self}: pip install "
                f'"perpixel[geo]", or write it anew, as with gdal_translate -co COMPRESS=DEFLATE'
            ) from None
        try:
            with (
                warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning),
                MemoryFile(bytes(self.content)) as memory,
                memory.open(driver="GTiff") as file,
            ):
                if set(file.dtypes) != {str(self.dtype)}:
                    raise ValueError(f"its numbers are {self.dtype}, and GDAL gives others")
                return np.moveaxis(file.read(), 0, 2)
        except RasterioError as error:
            raise ValueError(str(error.__cause__ or error)) from None


def parse(content: memoryview) -> Tiff | None:
    """Reads the tags of a TIFF file's `content`; None when it is no TIFF file, or corrupt."""
    if bytes(content[:4]) not in _SIGNATURES:
        return None
    from tifffile import TiffFile  # slow to import, and not needed for other files

    try:
        page = TiffFile(io.BytesIO(content)).pages.first
        bits, dtype = page.bitspersample, page.dtype
        orientation = int(page.tags[_ORIENTATION].value) if _ORIENTATION in page.tags else 1
        return Tiff(
            content,
            page,
            height=int(page.imagelength),
            width=int(page.imagewidth),
            tile=(int(page.tilelength), int(page.tilewidth)),
            bands=int(page.samplesperpixel),
            bits=max(bits) if isinstance(bits, tuple) else int(bits),
            dtype=np.dtype(np.uint8) if dtype is not None and dtype.kind == "b" else dtype,
            photometric=int(page.photometric),
            extra=tuple(map(int, page.extrasamples)),
            orientation=orientation if orientation in range(1, 9) else 1,
        )
    except Exception:  # a corrupt file makes tifffile raise almost anything
        return None


def turn(pixels: Numbers, orientation: int) -> Numbers:
    """Turns stored rows and columns as orientation 1 to 8 of TIFF and EXIF says."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def turn_back(pixels: Numbers, orientation: int) -> Numbers:
    """Undoes `turn`."""
    return turn(pixels, {6: 8, 8: 6}.get(orientation, orientation))


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
