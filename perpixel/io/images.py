"""Reads and writes images and masks; palettes and overlays.

Images are uint8 RGB, [height, width, 3]. OpenCV reads them, as in the reference toolkits, whose
bilinear and JPEG results are OpenCV's; Pillow reads and writes masks, because a palette PNG must
give its indices and not its colors.
"""

import colorsys
import io
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from perpixel.errors import CorruptFileError, PerpixelError
from perpixel.io import png, tiff
from perpixel.io.atomic import atomic_replace

Array = npt.NDArray[np.uint8]
Palette = tuple[tuple[int, int, int], ...]
Size = tuple[int, int]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".tif", ".tiff", ".webp")

_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")

_LARGE = 2**27
"""Pixels from which on a file is left to decoders that limit the size: it may be made to fill the
memory, as a header that claims any size costs nothing."""

UNREADABLE = (OSError, SyntaxError, ValueError, OverflowError, Image.DecompressionBombError)
"""The exceptions that Pillow raises for a file that it cannot read."""

_ALIKE = 5
"""The largest difference of a channel, 0..255, at which two colors of a palette look the same."""
_NEARLY_BLACK = 24
"""The largest value of a channel of a color that looks black."""
_MAX_TWINS = 0.1
"""The largest fraction of a palette's colors that may look like another."""

_UNKNOWN = "not an image in a format that can be read"
_NO_IMAGE = (
    "which cannot be decoded: an image's bands are 1, 3 or 4 of 8 or 16 bits. Convert it, as with "
    "gdal_translate -ot Byte -scale, and -b 1 -b 2 -b 3 for three of many bands"
)
_NO_MASK = (
    "which cannot be read: a mask's is one of 8 or 16 bits, or three of 8, marked as RGB. "
    "Convert it, as with gdal_translate -b 1"
)

_PLAIN_MODES = {"LA": "L", "RGBA": "RGB", "CMYK": "RGB", "YCbCr": "RGB"}


def read_image(path: Path, *, rows: int | None = None) -> Array:
    """Reads an image as uint8 RGB, [height, width, 3], rotated as its EXIF tag says.

    Gray is repeated over the channels, alpha is dropped and 16 bits are scaled to 8; a TIFF's
    first three bands are red, green and blue where no tag says what its bands are. `rows` is how
    many rows from the top are needed; those below may be left black. Raises PerpixelError naming
    the file when it does not exist, CorruptFileError when it cannot be decoded.
    """
    content = _read_bytes(path)
    image = None if rows is None else _decode_top_of_png(content, rows)
    return decode_image(content, origin=str(path)) if image is None else image


def decode_image(content: Array, *, origin: str) -> Array:
    """Decodes a file's bytes, uint8 [n], as `read_image` does.

    Raises CorruptFileError naming `origin` when they cannot be decoded.
    """
    bands = tiff.header(content.data)
    image = None if bands is None else _decode_without_alpha(content)
    if image is None:
        if bands is not None and bands.is_unmarked:  # OpenCV would show the first in gray
            content = np.frombuffer(tiff.marked_as_rgb(content.data), np.uint8)
        image = _decode(content)
    if image is None:
        if bands is not None and not bands.is_usual:
            raise CorruptFileError(f"{origin}: a TIFF of {bands}, {_NO_IMAGE}")
        raise CorruptFileError(f"{origin}: not an image that can be decoded, or a corrupt one")
    return image


def header_size(content: bytes, *, origin: str) -> Size:
    """Reads height and width from the header of a PNG, JPEG, BMP, TIFF or WebP file.

    A TIFF with tiles larger than the image gives the tiles' size, since tiles are decoded whole.
    Raises PerpixelError naming `origin` when there is no such header, and Pillow's
    DecompressionBombError for more than twice its MAX_IMAGE_PIXELS (89,478,485).
    """
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as file:
            tags = getattr(file, "tag_v2", {})
            return (
                max(file.height, tags.get(TiffImagePlugin.TILELENGTH, 0)),
                max(file.width, tags.get(TiffImagePlugin.TILEWIDTH, 0)),
            )
    except Image.DecompressionBombError:
        raise
    except Exception:  # a malicious header can make Pillow raise almost anything
        formats = ", ".join(_FORMATS)
        raise PerpixelError(f"{origin}: not an image that can be read ({formats})") from None


def read_mask(path: Path) -> npt.NDArray[np.uint8 | np.uint16]:
    """Reads a mask: ids, [height, width], or colors, [height, width, 3] RGB; uint8 or uint16.

    A palette PNG gives its indices, a file of 1, 2 or 4 bits its numbers; alpha is dropped. A
    MATLAB file gives GTcls.Segmentation (SBD) or LabelMap (Pascal Context). Raises PerpixelError
    naming the file.
    """
    if path.suffix == ".mat":
        return _read_matlab(path)
    content = _read_bytes(path)
    header, bands = png.header(content.data), tiff.header(content.data)
    # OpenCV decodes 8 bits of gray a fifth faster; Pillow refuses files that are too large.
    if header and header.is_gray_8_bit and header.pixels < _LARGE:
        gray = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
        if gray is not None and gray.ndim == 2:
            return np.asarray(gray, np.uint8)
    try:
        with Image.open(io.BytesIO(content.data)) as file:
            mask = np.asarray(file.convert(_PLAIN_MODES.get(file.mode, file.mode)))
            bits = header.depth if header else bands.bits if bands else 8
            if file.mode == "L" and bits in (2, 4):  # Pillow scales them to 0..255
                mask = mask // (255 // (2**bits - 1))
    except UnidentifiedImageError:
        reason = f"a TIFF of {bands}, {_NO_MASK}" if bands else _UNKNOWN
        raise CorruptFileError(f"{path}: {reason}") from None
    except UNREADABLE as error:
        # Pillow does not read a single band of 16 bits whose planar configuration is "separate".
        single = "unknown raw mode" in str(error) and bands is not None and bands.bands == 1
        gray = cv2.imdecode(content, cv2.IMREAD_UNCHANGED) if single else None
        if gray is None:
            raise CorruptFileError(f"{path}: not a mask that can be decoded ({error})") from None
        mask = np.asarray(gray)
    if mask.dtype.kind not in "biu" or mask.shape[2:] not in ((), (3,)):
        raise PerpixelError(f"{path}: a mask is 8 or 16 bits of gray, a palette or RGB colors")
    if mask.itemsize > 1 and (mask.min() < 0 or mask.max() >= 2**16):
        raise PerpixelError(
            f"{path}: holds values from {mask.min()} to {mask.max()}; a mask's are 0 to 65535"
        )
    return mask.astype(np.uint8 if mask.itemsize == 1 else np.uint16)


def read_palette(path: Path) -> Palette | None:
    """Reads a palette file's colors, in the order of its indices; None for any other file."""
    try:
        with Image.open(path) as file:
            values = file.getpalette() if file.mode == "P" else None
    except UNREADABLE:
        raise PerpixelError(f"{path}: {_UNKNOWN}") from None
    if values is None:
        return None
    return tuple(zip(values[::3], values[1::3], values[2::3], strict=True))


def scaled_size(size: Size, factor: float, *, box: Size | None) -> Size:
    """Returns the size (height, width) of an image of `size`, scaled by `factor`.

    A `box` (long side, short side, for portrait and landscape images) is scaled, its sides cut to
    whole numbers, and the image fitted into it, keeping its aspect ratio. Without one the image is
    fitted into its own scaled and rounded size (mmcv transforms/processing.py, Resize). Sides are
    rounded half up (mmcv image/geometric.py, rescale_size) and at least 1.
    """
    if box is None:
        sides = [_round_side(side * factor) for side in size]
    else:
        sides = [int(side * factor) for side in box]
    fit = min(max(sides) / max(size), min(sides) / min(size))
    return _round_side(size[0] * fit), _round_side(size[1] * fit)


def resize_image(image: Array, size: Size) -> Array:
    """Resizes an image to `size` (height, width), bilinear; returns it unchanged if it has it."""
    if image.shape[:2] == size:
        return image
    return np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)


def _round_side(side: float) -> int:
    return max(int(side + 0.5), 1)


def write_image(path: Path, image: Array) -> None:
    """Writes an image, uint8 RGB [height, width, 3]; the suffix decides the format."""
    _write(path, Image.fromarray(image))


def write_mask(path: Path, mask: Array, palette: Palette) -> None:
    """Writes a mask, uint8 [height, width], as a PNG of indices with `palette`'s colors."""
    _write(path, _palette_image(mask, palette))


def encode_mask(mask: Array, palette: Palette) -> bytes:
    """Returns the bytes of the PNG that `write_mask` writes."""
    content = io.BytesIO()
    _palette_image(mask, palette).save(content, "PNG")
    return content.getvalue()


def palette_table(palette: Palette) -> Array:
    """Returns 256 colors, uint8 [256, 3]: the palette's, then black; 255 (ignored) is white."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    table[255] = 255
    return table


def distinct_palette(count: int) -> Palette:
    """Makes `count` (1 to 255) distinct colors, neighbors far apart, for classes without colors."""
    # Steps of the golden ratio spread any number of hues; brightness separates similar hues.
    hsv = ((index * 0.618034 % 1, 0.85, (1.0, 0.7, 0.45)[index % 3]) for index in range(count))
    colors = (colorsys.hsv_to_rgb(*color) for color in hsv)
    return tuple((round(r * 255), round(g * 255), round(b * 255)) for r, g, b in colors)


def readable_palette(palette: Palette) -> Palette:
    """Returns `palette`, or distinct colors in its place if the eye would take some for others.

    Two colors are alike when no channel differs by more than 5, or when both are nearly black: the
    palette of ids that were read as red, (0, 0, 0), (1, 0, 0), (2, 0, 0), ..., as in CARLA's masks.
    ADE20K's palette, in which 4 of 150 colors have a twin, stays.
    """
    colors = np.array(palette, np.int16).reshape(-1, 3)
    apart = np.abs(colors[:, None] - colors[None]).max(axis=2)
    dark = colors.max(axis=1) <= _NEARLY_BLACK
    alike = (apart <= _ALIKE) | (dark[:, None] & dark[None])
    np.fill_diagonal(alike, False)
    has_twin = alike.any(axis=1)
    return distinct_palette(len(palette)) if has_twin.mean() > _MAX_TWINS else palette


def hex_color(rgb: tuple[int, int, int]) -> str:
    """Returns a color as "#rrggbb"."""
    return "#" + bytes(rgb).hex()


def colorize(mask: Array, palette: Palette) -> Array:
    """Maps a mask, uint8 [height, width], to its palette's colors, uint8 [height, width, 3]."""
    return palette_table(palette)[mask]


def overlay(image: Array, mask: Array, palette: Palette, *, opacity: float = 0.5) -> Array:
    """Blends the mask's colors over the image, uint8 [height, width, 3]; `opacity` is 0 to 1."""
    return np.asarray(
        cv2.addWeighted(image, 1 - opacity, colorize(mask, palette), opacity, 0), np.uint8
    )


def _decode(content: Array) -> Array | None:
    """Decodes an image with OpenCV, uint8 RGB [height, width, 3]; None when OpenCV cannot."""
    try:
        image = cv2.imdecode(content, cv2.IMREAD_COLOR_RGB)
    except cv2.error:  # more pixels than OpenCV's limit, for example
        return None
    return None if image is None else np.asarray(image, np.uint8)


def _decode_without_alpha(content: Array) -> Array | None:
    """Decodes the colors of a TIFF that has alpha; None for one without.

    OpenCV would multiply colors by alpha. GDAL marks any fourth band as alpha, an infrared one too.
    """
    try:
        with Image.open(io.BytesIO(content.data)) as file:
            if file.mode not in ("RGBA", "LA"):
                return None
            return np.asarray(ImageOps.exif_transpose(file).convert("RGB"), np.uint8)
    except Exception:  # a corrupt file makes Pillow raise almost anything; OpenCV decides
        return None


def _decode_top_of_png(content: Array, rows: int) -> Array | None:
    """Decodes a PNG's first `rows` rows, the others black; None if it has to be decoded whole."""
    header, cropped = png.header(content.data), png.first_rows(content.data, rows)
    if header is None or cropped is None or header.pixels >= _LARGE:
        return None
    top = _decode(np.frombuffer(cropped, np.uint8))
    if top is None:
        return None
    image = np.zeros((header.height, header.width, 3), np.uint8)
    image[:rows] = top
    return image


def _read_matlab(path: Path) -> npt.NDArray[np.uint16]:
    from scipy.io import loadmat  # slow to import, and needed for two data sets

    content = io.BytesIO(_read_bytes(path).tobytes())
    try:
        variables = loadmat(content, variable_names=("GTcls", "LabelMap"), simplify_cells=True)
    except Exception as error:  # a corrupt file makes scipy raise almost anything
        raise CorruptFileError(f"{path}: not a MATLAB file that can be read ({error})") from None
    mask = variables.get("LabelMap")
    if "GTcls" in variables:
        mask = variables["GTcls"].get("Segmentation")
    if mask is None or np.ndim(mask) != 2 or not (mask == np.asarray(mask, np.uint16)).all():
        raise PerpixelError(
            f"{path}: holds no mask of whole numbers called GTcls.Segmentation or LabelMap"
        )
    return np.asarray(mask, np.uint16)


def _read_bytes(path: Path) -> Array:
    try:
        content = np.fromfile(path, np.uint8)
    except FileNotFoundError:
        raise PerpixelError(f"{path}: no such file") from None
    except OSError as error:
        raise CorruptFileError(f"{path}: cannot be read ({error.strerror or error})") from None
    if content.size == 0:
        raise CorruptFileError(f"{path}: the file is empty")
    return content


def _palette_image(mask: Array, palette: Palette) -> Image.Image:
    image = Image.fromarray(mask)
    image.putpalette(palette_table(palette).tobytes())
    return image


def _write(path: Path, image: Image.Image) -> None:
    """Writes the image atomically, as a partial file could pass for a result."""
    try:
        with atomic_replace(path) as part:
            image.save(part, Image.registered_extensions()[path.suffix.lower()])
    except KeyError:
        raise PerpixelError(
            f"{path}: cannot be written: {path.suffix!r} is no image format; use .png, for example"
        ) from None
    except (OSError, ValueError) as error:
        raise PerpixelError(f"{path}: cannot be written ({error})") from None
