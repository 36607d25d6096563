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
from PIL import Image, ImageOps, UnidentifiedImageError

from perpixel.errors import CorruptFileError, PerpixelError
from perpixel.io import png, tiff
from perpixel.io.atomic import atomic_replace

Array = npt.NDArray[np.uint8]
Palette = tuple[tuple[int, int, int], ...]
Size = tuple[int, int]
Bands = tuple[int, int, int]
"""The bands of an image, counted from 1, that are taken for red, green and blue."""

RawMask = npt.NDArray[np.uint8 | np.uint16 | np.int32]
"""A mask as its file holds it: ids -32768 to 65535, [height, width], or RGB, [height, width, 3]."""

MIN_ID, MAX_ID = -(2**15), 2**16 - 1
"""The smallest and largest id of a mask."""

IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm",
)  # fmt: skip
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".gif", ".npy")
"""Formats without loss; .npy is an array [height, width] that numpy.save wrote."""

_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM")  # and TIFF
_ANIMATIONS = ("GIF", "PNG", "WEBP")

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
    "which cannot be read as an image: its bands are 1, 3 or 4 of 8 or 16 bits. Choose three of "
    "more bands by bands = [4, 3, 2] in dataset.toml, or convert it, as with gdal_translate -ot "
    "Byte -scale, and -b 1 -b 2 -b 3 for three of many bands"
)
_NO_MASK = (
    "which cannot be read as a mask: that is one band of class ids, or three of 8 bits, marked as "
    "RGB. Pick a band, as with gdal_translate -b 1"
)

_ORIENTATION = 0x0112  # EXIF's tag; 1 is upright

_PLAIN_MODES = {"LA": "L", "RGBA": "RGB", "CMYK": "RGB", "YCbCr": "RGB"}


def read_image(
    path: Path,
    *,
    rows: int | None = None,
    bands: Bands | None = None,
    apply_exif_orientation: bool = True,
) -> Array:
    """Reads an image as uint8 RGB, [height, width, 3], rotated as its EXIF tag says.

    Gray is repeated over the channels, alpha is dropped and 16 bits are scaled to 8, negative
    numbers becoming 0; a TIFF's first three bands are red, green and blue where no tag says what
    its bands are. `bands` are those that take the place of red, green and blue, counted from 1.
    `rows` is how many rows from the top are needed; those below may be left black. Raises
    PerpixelError naming the file when it does not exist or has no such bands, CorruptFileError
    when it cannot be decoded.
    """
    content = _read_bytes(path)
    image = None if rows is None else _decode_top_of_png(content, rows)
    if image is not None:
        return image if bands is None else _choose(image, bands, origin=str(path))
    return decode_image(
        content, origin=str(path), bands=bands, apply_exif_orientation=apply_exif_orientation
    )


def decode_image(
    content: Array,
    *,
    origin: str,
    bands: Bands | None = None,
    apply_exif_orientation: bool = True,
) -> Array:
    """Decodes a file's bytes, uint8 [n], as `read_image` does.

    Raises PerpixelError naming `origin` for a TIFF of another kind and one without such bands,
    CorruptFileError when the bytes cannot be decoded.
    """
    file = tiff.parse(content.data)
    if file is not None and not _is_image(file, bands):
        raise PerpixelError(f"{origin}: a TIFF of {file}, {_NO_IMAGE}")
    if file is not None and _needs_numbers(file, bands):
        image = _from_numbers(file, bands, origin=origin)
    else:
        decoded = None if file is None else _decode_without_alpha(content)
        if decoded is None:
            decoded = _decode(content, apply_exif_orientation=apply_exif_orientation)
        if decoded is None:
            raise CorruptFileError(f"{origin}: not an image that can be decoded, or a corrupt one")
        image = decoded if bands is None else _choose(decoded, bands, origin=origin)
    if file is not None and not apply_exif_orientation:  # OpenCV and Pillow always apply a TIFF's
        image = np.ascontiguousarray(tiff.turn_back(image, file.orientation))
    return image


def header_size(content: bytes, *, origin: str) -> Size:
    """Reads height and width from the header of a PNG, JPEG, BMP, TIFF or WebP file.

    A TIFF with tiles larger than the image gives the tiles' size, since tiles are decoded whole.
    Raises PerpixelError naming `origin` when there is no such header, and Pillow's
    DecompressionBombError for more than twice its MAX_IMAGE_PIXELS (89,478,485).
    """
    file = tiff.parse(memoryview(content))
    if file is not None:
        return max(file.height, file.tile[0]), max(file.width, file.tile[1])
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            return image.height, image.width
    except Image.DecompressionBombError:
        raise
    except Exception:  # a malicious header can make Pillow raise almost anything
        formats = ", ".join((*_FORMATS, "TIFF"))
        raise PerpixelError(f"{origin}: not an image that can be read ({formats})") from None


def count_pages(content: bytes) -> int:
    """Counts the pages of a TIFF, or the frames of an animation; 1 for what cannot be read.

    Readers of images and masks take the first. A TIFF's overviews and masks are no pages.
    """
    file = tiff.parse(memoryview(content))
    if file is not None:
        return file.count_pages()
    try:
        with Image.open(io.BytesIO(content), formats=_ANIMATIONS) as image:
            return int(getattr(image, "n_frames", 1))
    except Exception:  # a corrupt file makes Pillow raise almost anything
        return 1


def exif_orientation(path: Path) -> int:
    """Reads the EXIF orientation, 1 to 8, of an image file; 1, upright, where there is none."""
    try:
        with Image.open(path) as image:
            orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a corrupt file makes Pillow raise almost anything
        return 1
    return orientation if orientation in range(1, 9) else 1


def read_mask(
    path: Path, *, palette_as_colors: bool = False, apply_exif_orientation: bool = True
) -> RawMask:
    """Reads a mask: ids, [height, width], or colors, uint8 [height, width, 3] RGB.

    Ids are uint8 or uint16, and int32 where one is negative. A palette file gives its indices, a
    file of 1, 2 or 4 bits its numbers, a TIFF its stored numbers, whether 0 is white or black in
    it; floating-point numbers must be whole. Alpha is dropped. A MATLAB file gives
    GTcls.Segmentation (SBD) or LabelMap (Pascal Context), a .npy file its array. With
    `palette_as_colors` a palette file gives the colors that it shows, and 8 bits of gray or fewer
    give gray colors. A TIFF's orientation is applied, if `apply_exif_orientation`. Raises
    PerpixelError naming the file and values that are no ids.
    """
    mask = _read_numbers(path, apply_exif_orientation=apply_exif_orientation)
    if not palette_as_colors or mask.ndim == 3 or mask.dtype != np.uint8:
        return mask
    palette = read_palette(path)
    if palette is None:
        header = png.header(_read_bytes(path).data)
        white = 2**header.depth - 1 if header else 255
        return np.asarray((mask * (255 // white))[..., None].repeat(3, axis=2), np.uint8)
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(palette)] = palette
    return np.asarray(colors[mask], np.uint8)


def _read_numbers(path: Path, *, apply_exif_orientation: bool) -> RawMask:
    if path.suffix == ".mat":
        return _read_matlab(path)
    if path.suffix.lower() == ".npy":
        return _read_npy(path)
    content = _read_bytes(path)
    header, file = png.header(content.data), tiff.parse(content.data)
    # OpenCV decodes 8 bits of gray a fifth faster; Pillow refuses files that are too large.
    still = b"acTL" not in content[:256].tobytes()  # the chunk of an animation
    if header and header.is_gray_8_bit and header.pixels < _LARGE and still:
        gray = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
        if gray is not None and gray.ndim == 2:
            return np.asarray(gray, np.uint8)
    if header and header.depth == 16 and header.color != 0 and header.pixels < _LARGE:
        wide = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)  # Pillow gives the upper 8 bits
        if wide is not None and wide.ndim == 3:
            return _require_ids(path, wide[..., 0] if header.color == 4 else wide[..., 2::-1])
    if file is not None:
        _require_one_page(path, file.count_pages())
        numbers = _read_tiff_mask(path, file)
        if apply_exif_orientation:
            numbers = np.ascontiguousarray(tiff.turn(numbers, file.orientation))
        return _require_ids(path, numbers)
    try:
        with Image.open(io.BytesIO(content.data)) as image:
            if image.format in _ANIMATIONS:
                _require_one_page(path, getattr(image, "n_frames", 1))
            mask = np.asarray(image.convert(_PLAIN_MODES.get(image.mode, image.mode)))
            if header and image.mode == "L" and header.depth in (2, 4):  # Pillow scales to 0..255
                mask = mask // (255 // (2**header.depth - 1))
    except UnidentifiedImageError:
        raise CorruptFileError(f"{path}: {_UNKNOWN}") from None
    except UNREADABLE as error:
        raise CorruptFileError(f"{path}: not a mask that can be decoded ({error})") from None
    if mask.shape[2:] not in ((), (3,)):
        raise PerpixelError(f"{path}: a mask is 8 or 16 bits of gray, a palette or RGB colors")
    return _require_ids(path, mask)


def read_palette(path: Path) -> Palette | None:
    """Reads a palette file's colors, in the order of its indices; None for any other file."""
    if path.suffix.lower() not in (*IMAGE_SUFFIXES, ".gif"):
        return None
    try:
        content = _read_bytes(path)
        tags = tiff.parse(content.data)
        if tags is not None and tags.photometric != tiff.PALETTE:  # Pillow lacks some of these
            return None
        with Image.open(io.BytesIO(content.data)) as file:
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
    # Steps of the golden ratio spread any number of hues; brightness separates similar hues. The
    # first is blue: red, which reports show errors in, looks like one.
    hsv = (
        ((0.6 + index * 0.618034) % 1, 0.85, (1.0, 0.7, 0.45)[index % 3]) for index in range(count)
    )
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
    twins = int(alike.any(axis=1).sum())
    return distinct_palette(len(palette)) if twins > _MAX_TWINS * len(palette) else palette


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


def _decode(content: Array, *, apply_exif_orientation: bool = True) -> Array | None:
    """Decodes an image with OpenCV, uint8 RGB [height, width, 3]; None when OpenCV cannot."""
    flags = cv2.IMREAD_COLOR_RGB
    if not apply_exif_orientation:
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(content, flags)
    except cv2.error:  # more pixels than OpenCV's limit, for example
        return None
    return None if image is None else np.asarray(image, np.uint8)


def _choose(image: Array, bands: Bands, *, origin: str) -> Array:
    count = image.shape[2]
    if max(bands) > count:
        raise PerpixelError(
            f"{origin}: has {count} band{'s' * (count != 1)}, and bands = {list(bands)} are asked "
            f"for"
        )
    return np.ascontiguousarray(image[..., [band - 1 for band in bands]])


def _is_image(file: tiff.Tiff, bands: Bands | None) -> bool:
    """Whether a TIFF's numbers are integers of up to 16 bits in bands that are no matter of choice.

    OpenCV would cut off floating-point numbers.
    """
    is_gray_or_rgb = file.bands in (1, 3, 4) or (file.bands == 2 and file.has_alpha)
    return file.has_short_numbers and (is_gray_or_rgb or bands is not None)


def _needs_numbers(file: tiff.Tiff, bands: Bands | None) -> bool:
    """Whether a TIFF's image has to be made of its stored numbers.

    OpenCV shows unmarked bands as gray, takes signed numbers for unsigned ones, and inverts
    WhiteIsZero of 8 bits alone.
    """
    if file.photometric not in (tiff.WHITE_IS_ZERO, tiff.BLACK_IS_ZERO, tiff.RGB):
        return False
    if bands is not None:
        return True
    is_signed = file.dtype is not None and file.dtype.kind == "i"
    is_inverted = file.photometric == tiff.WHITE_IS_ZERO and file.bits > 8
    return file.is_unmarked or is_signed or is_inverted


def _from_numbers(file: tiff.Tiff, bands: Bands | None, *, origin: str) -> Array:
    """Makes an image, uint8 [height, width, 3], of a TIFF's stored numbers."""
    try:
        numbers = file.read()
    except ValueError as error:
        raise CorruptFileError(f"{origin}: a TIFF that cannot be decoded: {error}") from None
    if bands is None:
        bands = (1, 1, 1) if file.bands < 3 else (1, 2, 3)
    image = scale_to_8_bits(_choose(numbers, bands, origin=origin), bits=file.bits)
    if file.photometric == tiff.WHITE_IS_ZERO:
        image = 255 - image
    return np.ascontiguousarray(tiff.turn(image, file.orientation), np.uint8)


def scale_to_8_bits(numbers: tiff.Numbers, *, bits: int) -> Array:
    """Scales integers of up to 16 bits to uint8, rounded; negative ones become 0."""
    top = 2**bits - 1
    if top == 255 and numbers.dtype == np.uint8:
        return np.asarray(numbers, np.uint8)
    scaled = (np.maximum(numbers, 0).astype(np.uint32) * 255 + top // 2) // top
    return np.asarray(scaled, np.uint8)


def _read_tiff_mask(path: Path, file: tiff.Tiff) -> tiff.Numbers:
    """Reads a TIFF's ids, [height, width], or colors, [height, width, 3]."""
    colors = 3 if file.photometric in (tiff.RGB, tiff.YCBCR) else 1
    is_gray = file.photometric in (tiff.WHITE_IS_ZERO, tiff.BLACK_IS_ZERO, tiff.PALETTE)
    if not (colors == 3 or is_gray) or file.bands - file.has_alpha != colors:
        raise PerpixelError(f"{path}: a TIFF of {file}, {_NO_MASK}")
    try:
        numbers = file.read()
    except ValueError as error:
        raise CorruptFileError(f"{path}: not a mask that can be decoded ({error})") from None
    return numbers[..., 0] if colors == 1 else numbers[..., :3]


def _require_one_page(path: Path, pages: int) -> None:
    if pages > 1:
        raise PerpixelError(
            f"{path}: holds {pages} pages or frames, and a mask is one; write the one that belongs "
            f"to the image to a file of its own"
        )


def _require_ids(path: Path, mask: tiff.Numbers) -> RawMask:
    """Returns a mask's ids or colors in the type that `read_mask` gives; raises PerpixelError."""
    if mask.dtype.kind == "f":
        fractions = mask[mask != np.trunc(mask)]  # and NaN
        if fractions.size:
            raise PerpixelError(
                f"{path}: holds floating-point numbers ({mask.dtype}) that are not whole, as "
                f"{fractions[0]:g} at {fractions.size} pixels; a mask holds class ids. Are these "
                f"probabilities? Write ids, as with gdal_calc or numpy.rint, as integers"
            )
    elif mask.dtype.kind not in "biu":
        raise PerpixelError(f"{path}: holds {mask.dtype} numbers; a mask holds class ids")
    if mask.dtype.itemsize == 1 and mask.dtype.kind != "i":
        return mask.astype(np.uint8, copy=False)
    if mask.ndim == 3:
        if mask.dtype != np.uint16 or (mask % 257).any():  # 257 v is v in 16 bits
            raise PerpixelError(
                f"{path}: holds colors of {mask.dtype} that are not those of 8 bits; a mask's "
                f"colors are"
            )
        return (mask // 257).astype(np.uint8)
    smallest, largest = mask.min().item(), mask.max().item()
    if smallest < MIN_ID or largest > MAX_ID:
        raise PerpixelError(
            f"{path}: holds values from {smallest} to {largest}; a mask's are {MIN_ID} to {MAX_ID}"
        )
    if smallest < 0:
        return mask.astype(np.int32)
    return mask.astype(np.uint8 if mask.dtype.itemsize == 1 else np.uint16)


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


def _read_npy(path: Path) -> npt.NDArray[np.uint8 | np.uint16]:
    try:
        mask = np.load(io.BytesIO(_read_bytes(path).tobytes()), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise CorruptFileError(f"{path}: not an array that can be read ({error})") from None
    if not isinstance(mask, np.ndarray) or mask.ndim != 2 or mask.dtype.kind not in "biu":
        shape = f"{mask.dtype} {list(mask.shape)}" if isinstance(mask, np.ndarray) else "several"
        raise PerpixelError(
            f"{path}: an array of {shape}; a mask's is one of whole numbers, [height, width]"
        )
    if mask.size == 0 or mask.min() < 0 or mask.max() >= 2**16:
        values = f"values from {mask.min()} to {mask.max()}" if mask.size else "no values"
        raise PerpixelError(f"{path}: holds {values}; a mask's are 0 to 65535")
    return mask.astype(np.uint8 if mask.max() < 2**8 else np.uint16)


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
