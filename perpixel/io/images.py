"""Reads and writes images and masks; palettes and overlays.

Images are uint8 RGB, [height, width, 3]. OpenCV reads them, as in the reference toolkits, whose
bilinear and JPEG results are OpenCV's; Pillow reads and writes masks, because a palette PNG must
give its indices and not its colors.
"""

import colorsys
import io
import zlib
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from perpixel.errors import CorruptFileError, PerpixelError, plural
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

_LARGE = 2**27
"""Pixels from which on a file is left to decoders that limit the size: it may be made to fill the
memory, as a header that claims any size costs nothing."""

SOFTWARE = "perpixel predict"
"""What a predicted mask's metadata says."""

UNREADABLE = (OSError, SyntaxError, ValueError, OverflowError, Image.DecompressionBombError)
"""The exceptions that Pillow raises for a file that it cannot read."""

_ALIKE = 5
"""The largest difference of a channel, 0..255, at which two colors of a palette look the same."""
_NEARLY_BLACK = 24
"""The largest value of a channel of a color that looks black."""
_MAX_TWINS = 0.1
"""The largest fraction of a palette's colors that may look like another."""

_UNREADABLE_TIFF = (
    "which cannot be read: images are 1, 3 or 4 bands of 8 or 16 bits, masks one band of ids, or "
    "RGB of 8 bits. bands = [4, 3, 2] in dataset.toml or gdal_translate -b 4 -b 3 -b 2 choose "
    "bands of an image, -b 1 one for a mask; -ot Byte -scale makes 8 bits of other numbers"
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
    its bands are. `bands`, counted from 1, take the place of red, green and blue. `rows` is how
    many rows from the top are needed; those below may be left black. Raises PerpixelError naming
    the file when it does not exist, has several pages or no such bands, CorruptFileError when it
    cannot be decoded.
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

    Raises PerpixelError naming `origin` for several pages, a TIFF of another kind and one without
    such bands, CorruptFileError when the bytes cannot be decoded.
    """
    image = None
    file = tiff.parse(content.data)
    _require_one_page(content, file, origin=origin)
    if file is not None:
        _require_image(file, bands, origin=origin)
        if not apply_exif_orientation:  # OpenCV and Pillow always apply a TIFF's
            file.require_upright(origin=origin)
        if _needs_numbers(file, bands):
            return _from_numbers(file, bands, origin=origin)
        image = _decode_without_alpha(content)
    if image is None:
        image = _decode(content, apply_exif_orientation=apply_exif_orientation)
    if image is None:
        raise CorruptFileError(f"{origin}: not an image that can be decoded, or a corrupt one")
    return image if bands is None else _choose(image, bands, origin=origin)


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


def exif_orientation(path: Path) -> int:
    """Reads the EXIF orientation, 1 to 8, of an image file; 1, upright, where there is none."""
    try:
        with Image.open(path) as image:
            orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a corrupt file makes Pillow raise almost anything
        return 1
    return orientation if orientation in range(1, 9) else 1


def read_mask(path: Path, *, palette_as_colors: bool = False) -> RawMask:
    """Reads a mask: ids, [height, width], or colors, uint8 [height, width, 3] RGB.

    Ids are uint8 or uint16, and int32 where one is negative. A palette file gives its indices, a
    file of 1, 2 or 4 bits its numbers, a TIFF its stored numbers, whether 0 is white or black in
    it; floating-point numbers must be whole. Alpha is dropped. A MATLAB file gives
    GTcls.Segmentation (SBD), LabelMap (Pascal Context), S (SIFT Flow) or segmentation (NYUDv2), a
    .npy file its array. With `palette_as_colors` a palette file gives the colors that it shows, and
    8 bits of gray or fewer give gray colors. Raises PerpixelError naming the file: for values that
    are no ids, several pages, a rotated TIFF and 16 bits with colors or alpha; CorruptFileError for
    a corrupt file.
    """
    match path.suffix.lower():
        case ".mat":
            mask = _read_matlab(path)
        case ".npy":
            mask = _read_npy(path)
        case _:
            mask = _decode_mask(path, palette_as_colors=palette_as_colors)
    return _require_ids(path, mask)


def _decode_mask(path: Path, *, palette_as_colors: bool) -> tiff.Numbers:
    content = _read_bytes(path)
    header, file = png.header(content.data), tiff.parse(content.data)
    _require_one_page(content, file, origin=str(path))
    if file is not None and not (palette_as_colors and file.photometric == tiff.PALETTE):
        return _read_tiff_mask(path, file)
    if header and header.depth == 16 and header.color != 0:  # Pillow reads the upper 8 of them
        raise PerpixelError(f"{path}: 16 bits with colors or alpha; a mask of 16 bits is gray")
    # OpenCV decodes 8 bits of gray a fifth faster; Pillow refuses files that are too large.
    if header and header.is_gray_8_bit and header.pixels < _LARGE and not palette_as_colors:
        gray = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
        if gray is not None and gray.ndim == 2:
            return np.asarray(gray, np.uint8)
    try:
        with Image.open(io.BytesIO(content.data)) as image:
            if palette_as_colors and image.mode in ("1", "L", "LA", "P"):
                image.info.pop("transparency", None)  # Pillow would warn of it
                return np.asarray(image.convert("RGB"))
            mask = np.asarray(image.convert(_PLAIN_MODES.get(image.mode, image.mode)))
            if header and image.mode == "L" and header.depth in (2, 4):  # Pillow scales to 0..255
                mask = mask // (255 // (2**header.depth - 1))
            return mask
    except UnidentifiedImageError:
        raise CorruptFileError(f"{path}: not an image in a format that can be read") from None
    except UNREADABLE as error:
        raise CorruptFileError(f"{path}: not a mask that can be decoded ({error})") from None


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
        raise PerpixelError(f"{path}: not an image in a format that can be read") from None
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


def stretched_size(size: Size, multiple: int) -> Size:
    """Returns the size whose sides are the next multiples, as mmsegmentation's ResizeToMultiple."""
    return -(-size[0] // multiple) * multiple, -(-size[1] // multiple) * multiple


def resize_image(image: Array, size: Size) -> Array:
    """Resizes an image to `size` (height, width), bilinear; returns it unchanged if it has it."""
    if image.shape[:2] == size:
        return image
    return np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)


def _round_side(side: float) -> int:
    return max(int(side + 0.5), 1)


def write_image(path: Path, image: Array) -> None:
    """Writes an image, uint8 RGB [height, width, 3]; the suffix decides the format.

    A PNG is compressed by run lengths: a photo in a third of the time, and a few percent larger.
    """
    _write(path, Image.fromarray(image), compress_type=zlib.Z_RLE)


def write_ids(path: Path, ids: npt.NDArray[np.uint8 | np.uint16]) -> None:
    """Writes a prediction's ids, [height, width], as a gray PNG of 8 or 16 bits."""
    _write(path, Image.fromarray(ids), pnginfo=_prediction_metadata())


def write_mask(path: Path, mask: Array, palette: Palette, *, is_prediction: bool = False) -> None:
    """Writes a mask, uint8 [height, width], as a PNG of indices with `palette`'s colors.

    That of a prediction says so in its metadata, by which it is told from a mask by hand.
    """
    metadata = _prediction_metadata() if is_prediction else None
    _write(path, _palette_image(mask, palette), pnginfo=metadata)


def is_prediction(path: Path) -> bool:
    """Returns whether a mask's metadata, of a PNG or TIFF, say that it was predicted."""
    try:
        if path.suffix.lower() in (".tif", ".tiff"):
            return tiff.read_software(path) == SOFTWARE
        with Image.open(path) as file:
            return file.info.get("Software") == SOFTWARE
    except UNREADABLE:
        return False


def encode_mask(mask: Array, palette: Palette) -> bytes:
    """Returns the bytes of the PNG that `write_mask` writes for a prediction."""
    content = io.BytesIO()
    _palette_image(mask, palette).save(content, "PNG", pnginfo=_prediction_metadata())
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
    """Blends the mask's colors over the image, uint8 [height, width, 3]; `opacity` is 0 to 1.

    Pixels without a label, 255, stay as they are.
    """
    blended = cv2.addWeighted(image, 1 - opacity, colorize(mask, palette), opacity, 0)
    unlabeled = mask == 255
    if unlabeled.any():
        blended[unlabeled] = image[unlabeled]
    return np.asarray(blended, np.uint8)


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
        raise PerpixelError(f"{origin}: has {plural(count, 'band')}, and bands = {list(bands)}")
    return np.ascontiguousarray(image[..., [band - 1 for band in bands]])


def _require_one_page(content: Array, file: tiff.Tiff | None, *, origin: str) -> None:
    """Raises PerpixelError for several pages or frames: which of them would be meant?

    An animated PNG is its default image.
    """
    several = False
    if file is not None:
        several = file.has_more_pages()
    elif content[:4].tobytes() in (b"GIF8", b"RIFF"):  # RIFF holds WebP
        with suppress(Exception), Image.open(io.BytesIO(content.data)) as image:
            several = getattr(image, "is_animated", False)
    if several:
        raise PerpixelError(
            f"{origin}: holds several pages or frames; write the one that is meant to a new file"
        )


def _require_image(file: tiff.Tiff, bands: Bands | None, *, origin: str) -> None:
    """Raises PerpixelError for a TIFF of other numbers or bands than images are made of.

    OpenCV would cut off floating-point numbers.
    """
    is_gray_or_rgb = file.bands in (1, 3, 4) or (file.bands == 2 and file.has_alpha)
    is_short = file.dtype is not None and file.dtype.kind in "ui" and file.bits <= 16
    if not (is_short and (is_gray_or_rgb or bands is not None)):
        raise PerpixelError(f"{origin}: a TIFF of {file}, {_UNREADABLE_TIFF}")


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
    numbers = file.read(origin=origin)
    if bands is None:
        bands = (1, 1, 1) if file.bands < 3 else (1, 2, 3)
    image = _scale_to_8_bits(_choose(numbers, bands, origin=origin), bits=file.bits)
    return 255 - image if file.photometric == tiff.WHITE_IS_ZERO else image


def _scale_to_8_bits(numbers: tiff.Numbers, *, bits: int) -> Array:
    """Scales integers of up to 16 bits to uint8, rounded; negative ones become 0."""
    top = 2**bits - 1
    scaled = (np.maximum(numbers, 0).astype(np.uint32) * 255 + top // 2) // top
    return np.asarray(scaled, np.uint8)


def _read_tiff_mask(path: Path, file: tiff.Tiff) -> tiff.Numbers:
    """Reads a TIFF's ids, [height, width], or colors, [height, width, 3]."""
    colors = 3 if file.photometric == tiff.RGB else 1
    is_gray = file.photometric in (tiff.WHITE_IS_ZERO, tiff.BLACK_IS_ZERO, tiff.PALETTE)
    if not (colors == 3 or is_gray) or file.bands - file.has_alpha != colors:
        raise PerpixelError(f"{path}: a TIFF of {file}, {_UNREADABLE_TIFF}")
    numbers = file.read(origin=str(path))
    return numbers[..., 0] if colors == 1 else numbers[..., :3]


def _require_ids(path: Path, mask: tiff.Numbers) -> RawMask:
    """Returns ids or colors in the type that `read_mask` gives; raises PerpixelError."""
    if mask.ndim == 3 and (mask.shape[2] != 3 or mask.dtype != np.uint8):
        raise PerpixelError(
            f"{path}: holds {mask.shape[2]} channels of {mask.dtype}; a mask is gray, a palette or "
            f"8 bits of RGB"
        )
    if mask.dtype.kind not in "biuf" or mask.size == 0:
        raise PerpixelError(f"{path}: holds {mask.size} {mask.dtype} values, and no class ids")
    if mask.dtype.kind == "f" and (mask != np.trunc(mask)).any():  # NaN, too
        fractions = mask[mask != np.trunc(mask)]
        raise PerpixelError(
            f"{path}: holds floating-point numbers ({mask.dtype}) that are not whole, as "
            f"{fractions[0]:g} at {fractions.size} of {mask.size} pixels; a mask holds class ids. "
            f"Are these probabilities?"
        )
    if mask.dtype in (np.bool_, np.uint8):
        return mask.astype(np.uint8, copy=False)
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


_MATLAB_MASKS = "GTcls", "LabelMap", "S", "segmentation"
"""The variables of SBD (a structure with Segmentation), Pascal Context, SIFT Flow and NYUDv2."""


def _read_matlab(path: Path) -> tiff.Numbers:
    from scipy.io import loadmat  # slow to import, and needed for a few data sets

    content = io.BytesIO(_read_bytes(path).tobytes())
    try:
        variables = loadmat(content, variable_names=_MATLAB_MASKS, simplify_cells=True)
    except Exception as error:  # a corrupt file makes scipy raise almost anything
        raise CorruptFileError(f"{path}: not a MATLAB file that can be read ({error})") from None
    mask = next((variables[name] for name in _MATLAB_MASKS if name in variables), None)
    if isinstance(mask, dict):
        mask = mask.get("Segmentation")
    if mask is None or np.ndim(mask) != 2:
        raise PerpixelError(
            f"{path}: holds no mask called GTcls.Segmentation, LabelMap, S or segmentation"
        )
    return np.asarray(mask)


def _read_npy(path: Path) -> tiff.Numbers:
    try:
        mask = np.load(io.BytesIO(_read_bytes(path).tobytes()), allow_pickle=False)
    except Exception as error:  # a corrupt header makes NumPy raise what Python's parser does
        raise CorruptFileError(f"{path}: not an array that can be read ({error})") from None
    if not isinstance(mask, np.ndarray) or mask.ndim != 2:
        shape = list(mask.shape) if isinstance(mask, np.ndarray) else "several"
        raise PerpixelError(f"{path}: holds an array of shape {shape}; a mask's is [height, width]")
    return mask


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


def _prediction_metadata() -> PngImagePlugin.PngInfo:
    metadata = PngImagePlugin.PngInfo()
    metadata.add_text("Software", SOFTWARE)
    return metadata


def _write(
    path: Path,
    image: Image.Image,
    *,
    pnginfo: PngImagePlugin.PngInfo | None = None,
    compress_type: int = -1,  # Pillow chooses
) -> None:
    """Writes the image atomically, as a partial file could pass for a result."""
    try:
        with atomic_replace(path) as part:
            format_name = Image.registered_extensions()[path.suffix.lower()]
            image.save(part, format_name, pnginfo=pnginfo, compress_type=compress_type)
    except KeyError:
        raise PerpixelError(
            f"{path}: cannot be written: {path.suffix!r} is no image format; use .png, for example"
        ) from None
    except (OSError, ValueError) as error:
        raise PerpixelError(f"{path}: cannot be written ({error})") from None
