"""Files in, arrays out: what each kind of image and mask file gives, and what is refused."""

import struct
import sys
import warnings
import zlib
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from perpixel.data import registry
from perpixel.errors import CorruptFileError, PerpixelError
from perpixel.io.images import (
    IMAGE_SUFFIXES,
    colorize,
    distinct_palette,
    header_size,
    overlay,
    palette_table,
    read_image,
    read_mask,
    read_palette,
    readable_palette,
    write_image,
    write_mask,
)

IDS = np.array([[0, 1, 2], [2, 1, 255]], np.uint8)
PALETTE = ((10, 20, 30), (200, 0, 0), (0, 0, 200))
RGB = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [9, 8, 7]]], np.uint8)


def _image(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


# --- Images ------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".PNG"])
def test_a_written_image_is_read_back_in_rgb_order(tmp_path, suffix):
    write_image(tmp_path / f"new/folder/a{suffix}", RGB)
    image = read_image(tmp_path / f"new/folder/a{suffix}")
    assert image.dtype == np.uint8
    assert np.array_equal(image, RGB)


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_every_listed_format_can_be_read(tmp_path, suffix):
    Image.fromarray(np.full((8, 8, 3), (200, 100, 0), np.uint8)).save(tmp_path / f"a{suffix}")
    image = read_image(tmp_path / f"a{suffix}")
    assert np.abs(image.astype(int) - (200, 100, 0)).max() <= 6


def test_gray_is_repeated_and_alpha_dropped(tmp_path):
    Image.fromarray(IDS).save(tmp_path / "gray.png")
    assert np.array_equal(read_image(tmp_path / "gray.png"), np.dstack([IDS] * 3))
    opaque = np.full((2, 2), 255, np.uint8)
    for name, alpha in (("opaque", opaque), ("clear", opaque * 0)):
        Image.fromarray(np.dstack([RGB, alpha])).save(tmp_path / f"{name}.png")
        assert np.array_equal(read_image(tmp_path / f"{name}.png"), RGB)


def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    wide = np.array([[0, 257 * 7, 257 * 128, 65535]], np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), wide)
    assert read_image(tmp_path / "a.png")[0, :, 0].tolist() == [0, 7, 128, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", [".jpg", ".png", ".tif"])
def test_orientation_is_applied_or_not(tmp_path, orientation, kind):
    pixels = np.zeros((16, 48, 3), np.uint8)
    pixels[:8, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{kind}"
    Image.fromarray(pixels).save(path, exif=exif, quality=95)
    with Image.open(path) as file:
        turned = np.asarray(ImageOps.exif_transpose(file))
    assert np.abs(read_image(path).astype(int) - turned).mean() < 20
    if kind == ".tif" and orientation > 1:  # which is rare: said, and no more
        for read in (read_mask, partial(read_image, apply_exif_orientation=False)):
            with pytest.raises(PerpixelError, match=rf"orientation tag, {orientation}, rotates"):
                read(path)
    else:
        stored = read_image(path, apply_exif_orientation=False)
        assert stored.shape == pixels.shape
        assert np.abs(stored.astype(int) - pixels).mean() < 20


# --- Masks ---------------------------------------------------------------------------------------


def test_a_palette_mask_gives_its_indices(tmp_path):
    write_mask(tmp_path / "a.png", IDS, PALETTE)
    mask = read_mask(tmp_path / "a.png")
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, IDS)
    colors = read_palette(tmp_path / "a.png")
    assert colors is not None
    assert colors[:3] == PALETTE
    assert colors[255] == (255, 255, 255)
    assert np.array_equal(read_image(tmp_path / "a.png"), colorize(IDS, PALETTE))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_palette_mask_of_few_bits_gives_its_indices(tmp_path, bits):
    ids = np.array([[0, 1], [1, 0]], np.uint8)
    file = Image.fromarray(ids)
    file.putpalette([1, 2, 3, 4, 5, 6])
    file.save(tmp_path / "a.png", bits=bits)
    assert np.array_equal(read_mask(tmp_path / "a.png"), ids)


def test_a_palette_mask_with_transparency_gives_its_indices(tmp_path):
    file = Image.fromarray(IDS)
    file.putpalette(palette_table(PALETTE).tobytes())
    file.save(tmp_path / "a.png", transparency=0)
    assert np.array_equal(read_mask(tmp_path / "a.png"), IDS)


def test_only_palette_files_have_a_palette(tmp_path):
    Image.fromarray(IDS).save(tmp_path / "gray.png")
    assert read_palette(tmp_path / "gray.png") is None


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_mask_of_sixteen_bits_keeps_them(tmp_path, suffix):
    ids = np.array([[0, 300], [7000, 65535]], np.uint16)
    Image.fromarray(ids).save(tmp_path / f"a{suffix}")
    mask = read_mask(tmp_path / f"a{suffix}")
    assert mask.dtype == np.uint16
    assert np.array_equal(mask, ids)


def test_a_mask_in_foreign_byte_order_or_32_bits_becomes_sixteen(tmp_path):
    ids = np.array([[0, 300], [7000, 65535]], np.uint16)
    swapped = Image.frombytes("I;16B", (2, 2), ids.astype(">u2").tobytes())
    swapped.save(tmp_path / "swapped.tif")
    Image.fromarray(ids.astype(np.int32)).save(tmp_path / "wide.tif")
    for name in ("swapped.tif", "wide.tif"):
        mask = read_mask(tmp_path / name)
        assert mask.dtype == np.uint16
        assert np.array_equal(mask, ids)


def test_a_mask_of_one_bit_gives_0_and_1(tmp_path):
    # Not 0 and 255: 255 would be taken for "no label" and nothing would be learnt.
    ids = np.array([[0, 1], [1, 0]], np.uint8)
    Image.fromarray(ids * 255).convert("1").save(tmp_path / "a.png")
    mask = read_mask(tmp_path / "a.png")
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, ids)


def test_masks_lose_their_alpha(tmp_path):
    alpha = np.full((2, 2), 128, np.uint8)
    Image.fromarray(np.dstack([RGB, alpha])).save(tmp_path / "rgba.png")
    assert np.array_equal(read_mask(tmp_path / "rgba.png"), RGB)
    gray = np.array([[0, 3], [255, 1]], np.uint8)
    Image.fromarray(np.dstack([gray, alpha]), mode="LA").save(tmp_path / "la.png")
    assert np.array_equal(read_mask(tmp_path / "la.png"), gray)


# --- What cannot be read -------------------------------------------------------------------------


@pytest.mark.parametrize("read", [read_image, read_mask])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_a_file_that_is_cut_off_is_named(tmp_path, capfd, read, suffix, share):
    full, cut = tmp_path / f"full{suffix}", tmp_path / f"cut{suffix}"
    Image.fromarray(_image(60, 80)).save(full)
    cut.write_bytes(full.read_bytes()[: int(share * full.stat().st_size)])
    with pytest.raises(PerpixelError) as error:
        read(cut)
    assert str(error.value).startswith(f"{cut}: ")
    assert "BytesIO" not in str(error.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("read", [read_image, read_mask, read_palette])
def test_what_is_not_an_image_is_named(tmp_path, read):
    (tmp_path / "text.png").write_text("not an image\n" * 50)
    (tmp_path / "folder.png").mkdir()
    for name in ("text.png", "folder.png", "none.png"):
        with pytest.raises(PerpixelError) as error:
            read(tmp_path / name)
        assert str(error.value).startswith(f"{tmp_path / name}: ")


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PerpixelError, match=r"file/a\.png: cannot be written"):
        write_image(tmp_path / "file/a.png", RGB)
    with pytest.raises(PerpixelError, match=r"a\.unknown: cannot be written"):
        write_image(tmp_path / "a.unknown", RGB)


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on files' sizes there")
def test_what_does_not_fit_on_the_disk_leaves_nothing(tmp_path):
    import resource

    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    write_mask(tmp_path / "old.png", noise[:8], ((1, 2, 3),))
    before, limits = (tmp_path / "old.png").read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        for name in ("old.png", "new.png"):
            with pytest.raises(PerpixelError, match=rf"{name}: cannot be written"):
                write_mask(tmp_path / name, noise, ((1, 2, 3),))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["old.png"]
    assert (tmp_path / "old.png").read_bytes() == before


# --- Colors -------------------------------------------------------------------------------------


def test_unlabeled_is_white_and_the_rest_of_the_table_black():
    table = palette_table(PALETTE)
    assert table.shape == (256, 3)
    assert table[:3].tolist() == [list(color) for color in PALETTE]
    assert table[255].tolist() == [255, 255, 255]
    assert not table[3:255].any()


def test_overlay_mixes_the_image_and_the_colors():
    image = np.full((2, 3, 3), 100, np.uint8)
    assert np.array_equal(overlay(image, IDS, PALETTE, opacity=0), image)
    colored = np.where((IDS == 255)[..., None], image, colorize(IDS, PALETTE))
    assert np.array_equal(overlay(image, IDS, PALETTE, opacity=1), colored)
    assert overlay(image, IDS, PALETTE)[0, 1].tolist() == [150, 50, 50]


def test_generated_colors_differ():
    assert distinct_palette(3) == distinct_palette(255)[:3]
    assert len(set(distinct_palette(255))) == 255
    few = np.array(distinct_palette(12), int)
    distances = np.abs(few[:, None] - few).sum(-1)
    assert distances[~np.eye(12, dtype=bool)].min() > 60


def test_generated_colors_are_readable_and_the_first_is_not_the_red_of_errors():
    red, _, blue = distinct_palette(2)[0]
    assert red < 100 < blue
    assert readable_palette(distinct_palette(20)) == distinct_palette(20)


@pytest.mark.parametrize("suffix", [".png", ".gif", ".bmp", ".tif"])
def test_a_palette_gives_indices_or_the_colors_it_shows(tmp_path, suffix):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette([9, 8, 7, 255, 0, 0, 0, 255, 0])
    image.save(tmp_path / f"a{suffix}", transparency=1)
    assert read_mask(tmp_path / f"a{suffix}").tolist() == [[0, 1, 2]]
    with warnings.catch_warnings(action="error"):
        colors = read_mask(tmp_path / f"a{suffix}", palette_as_colors=True)
    assert colors.tolist() == [[[9, 8, 7], [255, 0, 0], [0, 255, 0]]]


def test_gray_read_by_color_is_gray(tmp_path):
    for mode, value in (("L", 7), ("1", 255)):
        Image.new(mode, (2, 1), value).save(tmp_path / "a.png")
        assert read_mask(tmp_path / "a.png", palette_as_colors=True).tolist() == [[[value] * 3] * 2]


def test_paths_may_hold_any_letters(tmp_path):
    path: Path = tmp_path / "Straße ü.png"
    write_image(path, RGB)
    assert np.array_equal(read_image(path), RGB)


@pytest.mark.parametrize("kind", ["png", "jpg", "bmp", "tif", "webp"])
def test_a_header_tells_the_size(tmp_path, kind):
    write_image(tmp_path / f"a.{kind}", _image(7, 11))
    assert header_size((tmp_path / f"a.{kind}").read_bytes(), origin="it") == (7, 11)


@pytest.mark.parametrize("content", [b"", b"x", b"\x89PNG\r\n\x1a\n", b"GIF89a\x01\x00\x01\x00"])
def test_without_a_header_of_a_known_format_there_is_no_size(content):
    with pytest.raises(PerpixelError, match="it: not an image that can be read"):
        header_size(content, origin="it")


@pytest.mark.parametrize("read", [read_image, read_mask])
@pytest.mark.parametrize("color", [0, 2], ids=["gray", "rgb"])
def test_a_file_that_would_unpack_into_gigabytes_is_refused(tmp_path, capfd, read, color):
    """60,000 x 60,000 pixels in a hundred bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, color, 0, 0, 0)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b"")
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    with pytest.raises(PerpixelError, match=r"bomb\.png: not a"):
        read(path)
    with pytest.raises(PerpixelError, match=r"bomb\.png: not a"):
        read_image(path, rows=1)
    with pytest.raises(PerpixelError, match=r"bomb\.png: not a"):
        read_palette(path)


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_a_tiff_whose_pixels_are_said_to_lie_beyond_any_file_is_named(tmp_path, read):
    tifffile.imwrite(tmp_path / "a.tif", IDS, bigtiff=True)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        file.pages.first.tags["StripOffsets"].overwrite(2**64 - 1)
    with pytest.raises(CorruptFileError, match=r"a\.tif: "):
        read(tmp_path / "a.tif")


@pytest.mark.parametrize("alpha", [0, 128])
def test_a_tiffs_alpha_is_dropped_and_not_multiplied_by(tmp_path, alpha):
    """As GDAL marks the fourth of four bands, whatever it holds."""
    four = np.dstack([RGB, np.full((2, 2), alpha, np.uint8)])
    Image.fromarray(four).save(tmp_path / "a.tif")
    assert np.array_equal(read_image(tmp_path / "a.tif"), RGB)


def test_a_tiff_is_as_large_as_its_tiles(tmp_path):
    """They are decoded whole, however little of them is the image."""
    tags = {  # number: (type, value); 3 is a short, 4 a long
        256: (4, 2), 257: (4, 2), 258: (3, 8), 259: (3, 1), 262: (3, 1), 277: (3, 1),
        322: (4, 4096), 323: (4, 2048), 324: (4, 200), 325: (4, 4),
    }  # fmt: skip
    entries = [struct.pack("<HHII", n, kind, 1, value) for n, (kind, value) in tags.items()]
    content = b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(entries) + bytes(100)
    assert header_size(content, origin="it") == (2048, 4096)


def test_a_mask_of_16_bits_with_colors_is_refused(tmp_path):
    """Pillow reads 8 of them."""
    cv2.imwrite(str(tmp_path / "a.png"), np.full((2, 2, 3), 300, np.uint16))
    with pytest.raises(PerpixelError, match=r"a\.png: 16 bits with colors or alpha"):
        read_mask(tmp_path / "a.png")


@pytest.mark.parametrize(
    "palette",
    [
        *(registry.classes(name).palette for name in registry.NAMES if name != "folder"),
        ((0, 0, 0), (255, 255, 255)),
        ((0, 0, 0), (0, 0, 40)),
        ((0, 0, 0),),
        PALETTE,
    ],
)
def test_colors_that_differ_stay(palette):
    assert readable_palette(palette) is palette


@pytest.mark.parametrize(
    "palette",
    [
        tuple((index, 0, 0) for index in range(28)),  # CARLA's raw ids
        tuple((index, index, index) for index in range(3)),
        ((0, 0, 0), (0, 0, 20), (255, 255, 255)),
        ((200, 10, 10), (203, 8, 13)),
        ((9, 9, 9), (9, 9, 9)),
    ],
)
def test_colors_that_look_the_same_are_replaced(palette):
    readable = readable_palette(palette)
    assert len(readable) == len(palette)
    assert readable_palette(readable) == readable


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_masks_of_few_bits_hold_their_numbers(tmp_path, bits):
    ids = np.arange(8, dtype=np.uint8)[None] % 2**bits
    binary = (ids[0][:, None] >> np.arange(bits)[::-1]) & 1
    rows = zlib.compress(b"\0" + np.packbits(binary.ravel().astype(np.uint8)).tobytes())
    head = struct.pack(">IIBBBBB", 8, 1, bits, 0, 0, 0, 0)
    with (tmp_path / "a.png").open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, data in ((b"IHDR", head), (b"IDAT", rows), (b"IEND", b"")):
            checksum = zlib.crc32(kind + data)
            file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum))
    assert np.array_equal(read_mask(tmp_path / "a.png"), ids)


def test_a_link_stays_a_link_and_names_may_be_long(tmp_path):
    """Though a part of the file is written under another name first."""
    (tmp_path / "there").mkdir()
    link, long = tmp_path / "link.png", tmp_path / ("x" * 251 + ".png")
    link.symlink_to(tmp_path / "there/mask.png")
    classes = np.zeros((2, 3), np.uint8)
    for path in (link, long):
        write_mask(path, classes, ((0, 0, 0),))
    assert link.is_symlink()
    assert read_mask(tmp_path / "there/mask.png").tolist() == classes.tolist()
    assert {path.name for path in tmp_path.iterdir()} == {"there", link.name, long.name}


def test_an_array_with_a_corrupt_header_is_named(tmp_path: Path):
    """NumPy passes on what Python's tokenizer raises, which is no ValueError."""
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((4, 5), np.uint8))
    content = path.read_bytes()
    path.write_bytes(content.replace(b"'shape': (4, 5)", b"'shape': ((, 5)"))
    with pytest.raises(CorruptFileError, match=r"a\.npy: not an array that can be read"):
        read_mask(path)
