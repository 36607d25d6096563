import io
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from perpixel.errors import PerpixelError
from perpixel.io import png
from perpixel.io.images import read_image, read_mask


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    top = np.iinfo(dtype).max
    return np.random.default_rng(0).integers(0, top, shape, dtype, endpoint=True)


def written(image: Image.Image, **settings: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "png", **settings)
    return file.getvalue()


def kinds() -> dict[str, bytes]:
    palette = Image.fromarray(noise(40, 30))
    palette.putpalette(noise(768).tobytes())
    smooth = cv2.GaussianBlur(noise(40, 30, 3), (9, 9), 0)
    described = PngImagePlugin.PngInfo()
    described.add_text("title", "an image")
    return {
        "rgb": written(Image.fromarray(noise(40, 30, 3))),
        "smooth": written(Image.fromarray(smooth)),  # uses the filters that look upwards
        "opencv": cv2.imencode(".png", smooth)[1].tobytes(),
        "rgba": written(Image.fromarray(noise(40, 30, 4))),
        "gray": written(Image.fromarray(noise(40, 30))),
        "gray and alpha": written(Image.fromarray(noise(40, 30, 2))),
        "16 bits": written(Image.fromarray(noise(40, 30, dtype=np.uint16))),
        "palette": written(palette),
        "text": written(Image.fromarray(smooth), pnginfo=described),
    }


KINDS = kinds()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 7, 30])
def test_the_first_rows_are_those_of_the_whole(tmp_path, kind: str, rows: int):
    path = tmp_path / "a.png"
    path.write_bytes(KINDS[kind])
    image, top = read_image(path), read_image(path, rows=rows)
    assert png.first_rows(memoryview(KINDS[kind]), rows) is not None
    assert top.shape == image.shape
    assert (top[:rows] == image[:rows]).all()
    assert not top[rows:].any()


def bent(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]


@pytest.mark.parametrize("share", [0.75, 1.0])
def test_a_file_is_cut_where_that_is_faster(monkeypatch, share: float):
    monkeypatch.setattr(png, "_MAX_FRACTION", share)
    content = memoryview(KINDS["rgb"])
    assert png.first_rows(content, int(40 * share)) is not None
    assert share == 1 or png.first_rows(content, int(40 * share) + 1) is None


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_extra_the_rows_are_the_same(monkeypatch, kind: str):
    content = memoryview(KINDS[kind])
    cropped = png.first_rows(content, 20)
    assert cropped is not None
    monkeypatch.setattr(png, "decompressobj", zlib.decompressobj)
    assert png.first_rows(content, 20) == cropped


def test_what_is_not_rows_from_the_top_is_read_as_a_whole(tmp_path):
    image, turned = Image.fromarray(noise(40, 30, 3)), Image.Exif()
    turned[0x0112] = 6  # orientation: lies on its side
    others = {
        "one bit": (written(Image.fromarray(noise(40, 30) > 127)), 5),
        "turned": (written(image, exif=turned), 5),
        "jpeg": (cv2.imencode(".jpg", noise(40, 30, 3))[1].tobytes(), 5),
        "animated": (written(image, save_all=True, append_images=[image.rotate(90)]), 5),
    }
    for content, rows in others.values():
        path = tmp_path / "a"
        path.write_bytes(content)
        assert png.first_rows(memoryview(content), rows) is None
        assert (read_image(path, rows=rows) == read_image(path)).all()
    interlaced = bytearray(KINDS["rgb"])
    interlaced[28] = 1
    assert png.first_rows(memoryview(interlaced), 5) is None


def test_damage_is_found_in_the_rows_that_are_read(tmp_path):
    content = KINDS["rgb"]
    for corrupt in (content[:1000], content[:200], bent(content, 700), bent(content, 60)):
        path = tmp_path / "a.png"
        path.write_bytes(corrupt)
        assert png.first_rows(memoryview(corrupt), 20) is None
        with pytest.raises(PerpixelError, match=r"a\.png: not an image that can be decoded"):
            read_image(path, rows=20)


def test_what_is_stored_anew_is_a_png_file():
    cut = png.first_rows(memoryview(KINDS["rgb"]), 5)
    assert cut is not None
    with Image.open(io.BytesIO(cut)) as file:
        file.verify()
    assert png.header(memoryview(cut)) == (30, 5, 8, 2, 0, 0, 0)
    assert zlib.crc32(cut[12:29]) == int.from_bytes(cut[29:33], "big")
    assert png.header(memoryview(b"\xff\xd8\xff")) is None


@pytest.mark.parametrize("kind", ["gray", "palette", "16 bits", "gray and alpha"])
def test_masks_are_what_pillow_reads(tmp_path, kind: str):
    path = tmp_path / "a.png"
    path.write_bytes(KINDS[kind])
    with Image.open(path) as file:
        expected = np.asarray(file.convert("L") if file.mode == "LA" else file)
    assert (read_mask(path) == expected).all()
    path.write_bytes(KINDS[kind][:300])
    with pytest.raises(PerpixelError, match=r"a\.png: not a mask that can be decoded"):
        read_mask(path)
