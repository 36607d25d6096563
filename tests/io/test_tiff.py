"""TIFF files as GIS, microscopes and editors write them: stored numbers, and bands as colors."""

import struct
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from miniatures import write_bands
from PIL import Image

from perpixel.errors import PerpixelError
from perpixel.io import tiff
from perpixel.io.images import read_image, read_mask

IDS = np.array([[0, 1, 2], [3, 255, 7]], np.uint8)


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    top = np.iinfo(dtype).max
    return np.random.default_rng(0).integers(0, top, shape, dtype, endpoint=True)


def written(path: Path, pixels: np.ndarray, **tags: object) -> Path:
    tifffile.imwrite(path, pixels, **{"photometric": "minisblack", "metadata": None, **tags})
    return path


# --- Images --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("bands", [3, 4])
@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize("options", [{"byteorder": "<", "bigtiff": True}, {"byteorder": ">"}])
def test_bands_that_nothing_marks_are_red_green_and_blue(
    tmp_path, capfd, dtype, bands, planes, options
):
    pixels = noise(7, 11, bands, dtype=dtype)
    write_bands(tmp_path / "a.tif", pixels, planes=planes, **options)
    image = read_image(tmp_path / "a.tif")
    assert image.shape == (7, 11, 3)
    assert np.abs(image - pixels[..., :3] / (np.iinfo(dtype).max // 255)).max() <= 0.5
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize("compression", [None, "deflate"])
def test_any_three_bands_take_the_place_of_red_green_and_blue(tmp_path, planes, compression):
    pixels = noise(20, 11, 6, dtype=np.uint16)
    path = tmp_path / "a.tif"
    write_bands(path, pixels, planes=planes, compression=compression, rowsperstrip=8)
    image = read_image(path, bands=(4, 3, 6))
    assert np.array_equal(image, np.rint(pixels[..., [3, 2, 5]] / 257))
    with pytest.raises(PerpixelError, match=r"a\.tif: has 6 bands, and bands = \[1, 2, 7\]"):
        read_image(path, bands=(1, 2, 7))
    with pytest.raises(PerpixelError, match=r"a TIFF of 6 bands .* bands = \[4, 3, 2\] in"):
        read_image(path)


def test_bands_of_other_formats_are_those_of_rgb(tmp_path):
    pixels = noise(40, 11, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png", bands=(3, 3, 1)), pixels[..., [2, 2, 0]])
    top = read_image(tmp_path / "a.png", bands=(3, 3, 1), rows=2)
    assert np.array_equal(top[:2], pixels[:2, :, [2, 2, 0]])
    with pytest.raises(PerpixelError, match=r"a\.png: has 3 bands"):
        read_image(tmp_path / "a.png", bands=(4, 3, 2))


@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_bands_are_read_from_what_gdal_writes(tmp_path, interleave):
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
    pixels = noise(6, 40, 33, dtype=np.uint16)
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", count=6, height=40, width=33, dtype="uint16",
        compress="deflate", interleave=interleave, predictor=2, tiled=True, blockxsize=16,
        blockysize=16,
    ) as file:  # fmt: skip
        file.write(pixels)
    image = read_image(tmp_path / "a.tif", bands=(6, 1, 2))
    assert np.array_equal(image, np.rint(np.moveaxis(pixels[[5, 0, 1]], 0, 2) / 257))


def test_a_compression_that_needs_a_package_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    Image.fromarray(noise(4, 5, 4)).save(tmp_path / "a.tif", compression="tiff_lzw")
    with pytest.raises(PerpixelError, match=r"a\.tif: a TIFF of 4 bands .*LZW.* imagecodecs"):
        read_image(tmp_path / "a.tif", bands=(4, 2, 3))


def test_negative_numbers_of_images_are_black(tmp_path):
    values = np.array([[-9999, -1, 0, 1000, 10000]], np.int16)
    image = read_image(written(tmp_path / "a.tif", values))
    assert image[0, :, 0].tolist() == [0, 0, 0, 4, 39]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_images_whose_zero_is_white_are_inverted(tmp_path, dtype):
    top = np.iinfo(dtype).max
    values = np.array([[0, top, top // 255 * 5]], dtype)
    image = read_image(written(tmp_path / "a.tif", values, photometric="miniswhite"))
    assert image[0, :, 0].tolist() == [255, 0, 250]


# --- Masks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "dtype", "given"),
    [
        ([-9999, -1, 0, 1000, 10000], "int16", "int32"),
        ([-1, 0, 5], "int8", "int32"),
        ([0, 1, 127], "int8", "uint8"),
        ([0, 3, 255], "uint8", "uint8"),
        ([0, 300, 65535], "uint16", "uint16"),
        ([0, 300, 65535], "uint32", "uint16"),
        ([0, 300, 65535], "int32", "uint16"),
        ([-32768, 65535], "int64", "int32"),
        ([0, 7, 300], "uint64", "uint16"),
        ([0, 1, 255], "float32", "uint16"),
        ([-9999, 1, 2], "float64", "int32"),
    ],
)
@pytest.mark.parametrize(
    "tags", [{"byteorder": ">", "tile": (16, 16)}, {"byteorder": "<", "photometric": "miniswhite"}]
)
def test_masks_hold_their_numbers(tmp_path, values, dtype, given, tags):
    """TIFF 6.0, PhotometricInterpretation: it says what is seen, not what is stored."""
    ids = np.tile(np.array(values), (20, 7))
    mask = read_mask(written(tmp_path / "a.tif", ids.astype(dtype), **tags))
    assert mask.dtype == given
    assert np.array_equal(mask, ids)


@pytest.mark.parametrize(
    ("values", "dtype", "says"),
    [
        ([0, 65536], "uint32", "values from 0 to 65536; a mask's are -32768 to 65535"),
        ([-2147483648, 1], "int32", "values from -2147483648 to 1; "),
        ([0, 0.5, 1], "float32", r"\(float32\) that are not whole, as 0.5 at 1 of 3 pixels"),
        ([0, np.nan], "float32", "not whole, as nan"),
        ([-3.4028235e38, 1], "float32", "values from -3.40282.*e.38 to 1"),
        ([0, 1], "complex64", "band of 64-bit numbers, which cannot be read as a mask|complex64"),
    ],
)
def test_numbers_that_are_no_ids_are_named(tmp_path, values, dtype, says):
    path = written(tmp_path / "a.tif", np.array([values], dtype))
    with pytest.raises(PerpixelError, match=rf"a\.tif: .*({says})"):
        read_mask(path)


@pytest.mark.parametrize("compression", ["group4", "tiff_lzw", None])
@pytest.mark.parametrize("zero_is_white", [False, True])
def test_a_mask_of_one_bit_holds_its_bits(tmp_path, compression, zero_is_white):
    bits = noise(9, 21) > 100
    tags = {262: 0 if zero_is_white else 1}
    Image.fromarray(bits).save(tmp_path / "a.tif", compression=compression, tiffinfo=tags)
    stored = ~bits if zero_is_white else bits  # Pillow inverts what it writes, as one bit is seen
    assert np.array_equal(read_mask(tmp_path / "a.tif"), stored)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32"])
def test_compressed_masks_hold_their_numbers(tmp_path, dtype):
    """Whose compression tifffile lacks without imagecodecs."""
    Image.fromarray(IDS.astype(dtype)).save(tmp_path / "a.tif", compression="tiff_lzw")
    assert np.array_equal(read_mask(tmp_path / "a.tif"), IDS)
    file = Image.fromarray(IDS)
    file.putpalette(noise(768).tobytes())
    file.save(tmp_path / "palette.tif", compression="tiff_lzw")
    assert np.array_equal(read_mask(tmp_path / "palette.tif"), IDS)


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_a_mask_of_two_bands_is_refused_unless_one_is_alpha(tmp_path, compression):
    ids = np.dstack([IDS, IDS[::-1]])
    tags = {"planarconfig": "contig", "compression": compression}
    two = written(tmp_path / "two.tif", ids, extrasamples=["unspecified"], **tags)
    with pytest.raises(PerpixelError, match=r"two\.tif: a TIFF of 2 bands .* -b 1"):
        read_mask(two)
    alpha = written(tmp_path / "alpha.tif", ids, extrasamples=["unassalpha"], **tags)
    assert np.array_equal(read_mask(alpha), IDS)


def test_colors_of_16_bits_are_refused(tmp_path):
    path = written(tmp_path / "a.tif", noise(4, 5, 3).astype(np.uint16) * 257, photometric="rgb")
    with pytest.raises(PerpixelError, match=r"a\.tif: holds 3 channels of uint16"):
        read_mask(path)


# --- Pages ---------------------------------------------------------------------------------------


def test_overviews_masks_and_thumbnails_are_no_pages(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(IDS)
        file.write(IDS[:, ::2], subfiletype=1)
        file.write(IDS, subfiletype=1)
        file.write(IDS > 0, subfiletype=4)
        file.write(IDS[:1, :2])
    assert np.array_equal(read_mask(tmp_path / "a.tif"), IDS)
    assert np.array_equal(read_image(tmp_path / "a.tif")[..., 0], IDS)


@pytest.mark.parametrize("read", [read_image, read_mask])
@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF"])
def test_several_pages_or_frames_are_refused(tmp_path, kind, read):
    first, second = Image.fromarray(IDS), Image.fromarray(IDS[::-1].copy())
    first.save(tmp_path / "a", kind, save_all=True, append_images=[second])
    with pytest.raises(PerpixelError, match=r"a: holds several pages or frames"):
        read(tmp_path / "a")


# --- What cannot be read -------------------------------------------------------------------------


@pytest.mark.parametrize("read", [read_image, read_mask])
@pytest.mark.parametrize(
    ("bands", "dtype", "says"),
    [
        (5, np.uint16, "5 bands of 16-bit numbers"),
        (3, np.float32, "3 bands of 32-bit floating-point numbers"),
        (3, np.uint32, "3 bands of 32-bit numbers"),
        (2, np.uint8, "2 bands of 8-bit numbers"),
    ],
)
def test_sound_files_that_cannot_be_decoded_are_not_called_damaged(
    tmp_path, read, bands, dtype, says
):
    write_bands(tmp_path / "a.tif", noise(7, 11, bands).astype(dtype))
    with pytest.raises(PerpixelError, match=f"a.tif: a TIFF of {says}, which") as error:
        read(tmp_path / "a.tif")
    assert "corrupt" not in str(error.value)


def test_what_is_no_tiff_or_cut_off_has_no_tags(tmp_path):
    write_bands(tmp_path / "a.tif", noise(7, 11, 3))
    content = (tmp_path / "a.tif").read_bytes()
    assert tiff.parse(memoryview(content[:40])) is None
    assert tiff.parse(memoryview(content[:6])) is None
    assert tiff.parse(memoryview(cv2.imencode(".png", noise(7, 11, 3))[1].tobytes())) is None


def test_what_unpacks_to_more_than_its_size_is_refused(tmp_path, monkeypatch):
    """Tens of gigabytes in a request's 32 MiB; here 3 MB in 3 kB."""
    path = written(tmp_path / "a.tif", np.zeros((1000, 3000), np.uint8), compression="deflate",
                   rowsperstrip=1000)  # fmt: skip
    with tifffile.TiffFile(path, mode="r+") as file:
        for tag in ("ImageLength", "RowsPerStrip"):
            file.pages.first.tags[tag].overwrite(10)
    monkeypatch.setattr(tiff, "_LARGE_SEGMENT", 100)
    with pytest.raises(PerpixelError, match="unpacks to more than its size"):
        read_mask(path)


def test_pages_in_a_circle_end(tmp_path):
    path = written(tmp_path / "a.tif", np.stack([IDS] * 3))
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        first, *_, last = (page.offset for page in file.pages)
        tags = len(file.pages[-1].tags)
    content[last + 2 + 12 * tags : last + 6 + 12 * tags] = struct.pack("<I", first)
    path.write_bytes(content)
    with pytest.raises(PerpixelError, match="pages or frames"):
        read_mask(path)
