"""TIFF files as GDAL writes several bands: their headers, and the bands taken for colors."""

import itertools
import struct

import cv2
import numpy as np
import pytest
from miniatures import tiff_of_bands
from PIL import Image

from perpixel.errors import PerpixelError
from perpixel.io import tiff
from perpixel.io.images import read_image, read_mask


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    top = np.iinfo(dtype).max
    return np.random.default_rng(0).integers(0, top, shape, dtype, endpoint=True)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("bands", [3, 4])
@pytest.mark.parametrize(
    ("order", "wide", "planes"), list(itertools.product("<>", [False, True], [False, True]))
)
def test_bands_that_nothing_marks_are_red_green_and_blue(
    tmp_path, capfd, dtype, bands, order, wide, planes
):
    pixels = noise(7, 11, bands, dtype=dtype)
    content = tiff_of_bands(pixels, order=order, wide=wide, planes=planes)
    (tmp_path / "a.tif").write_bytes(content)
    image = read_image(tmp_path / "a.tif")
    assert image.shape == (7, 11, 3)
    assert np.abs(image - pixels[..., :3] / (np.iinfo(dtype).max // 255)).max() <= 0.5
    header = tiff.header(memoryview(content))
    assert header is not None
    assert str(header) == f"{bands} bands of {pixels.itemsize * 8}-bit numbers"
    assert capfd.readouterr().err == ""


def test_a_mask_of_one_band_may_say_that_its_bands_lie_apart(tmp_path):
    """As rasterio writes with another file's profile; Pillow cannot unpack 16 bits of it."""
    ids = noise(7, 11, 1, dtype=np.uint16)
    (tmp_path / "a.tif").write_bytes(tiff_of_bands(ids, planes=True))
    assert np.array_equal(read_mask(tmp_path / "a.tif"), ids[..., 0])
    assert np.array_equal(read_image(tmp_path / "a.tif")[..., 0], ids[..., 0] >> 8)


def test_gray_and_colors_are_marked_as_they_are(tmp_path):
    for name, pixels in (("gray", noise(7, 11)), ("rgb", noise(7, 11, 3))):
        Image.fromarray(pixels).save(tmp_path / f"{name}.tif")
        header = tiff.header(memoryview((tmp_path / f"{name}.tif").read_bytes()))
        assert header is not None
        assert not header.is_unmarked
        assert (header.bands, header.bits) == (pixels[0, 0].size, 8)


@pytest.mark.parametrize("read", [read_image, read_mask])
@pytest.mark.parametrize(
    ("bands", "dtype", "says"),
    [
        (5, np.uint16, "5 bands of 16-bit numbers"),
        (3, np.float32, "3 bands of 32-bit floating-point numbers"),
        (3, np.uint32, "3 bands of 32-bit numbers"),
    ],
)
def test_sound_files_that_cannot_be_decoded_are_not_called_damaged(
    tmp_path, read, bands, dtype, says
):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff_of_bands(noise(7, 11, bands).astype(dtype)))
    with pytest.raises(PerpixelError, match=f"a.tif: a TIFF of {says}, which") as error:
        read(path)
    assert "corrupt" not in str(error.value)


def test_what_is_no_tiff_or_cut_off_has_no_header():
    content = tiff_of_bands(noise(7, 11, 3))
    assert tiff.header(memoryview(content[:100])) is None
    assert tiff.header(memoryview(content[:6])) is None
    assert tiff.header(memoryview(cv2.imencode(".png", noise(7, 11, 3))[1].tobytes())) is None


def test_a_directory_of_any_length_ends_with_its_file():
    content = b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, 2**63) + bytes(100)
    assert tiff.header(memoryview(content)) == (1, 1, 0, 1)
