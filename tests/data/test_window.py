import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from perpixel.data.window import Window, crop_image, crop_mask, source_rows
from perpixel.io.images import read_image

LENGTH = st.integers(1, 90)


@st.composite
def windows(draw) -> tuple[tuple[int, int], Window]:
    """An image's size and a window of it, resized."""
    side = LENGTH
    size = (draw(side), draw(side))
    resized = (draw(side), draw(side))
    height, width = draw(st.integers(1, resized[0])), draw(st.integers(1, resized[1]))
    top = draw(st.integers(0, resized[0] - height))
    left = draw(st.integers(0, resized[1] - width))
    return size, Window(resized, top, left, height, width)


def resize_and_crop(image: np.ndarray, window: Window, interpolation: int) -> np.ndarray:
    resized = cv2.resize(image, window.size[::-1], interpolation=interpolation)
    down, across = window.top + window.height, window.left + window.width
    return resized[window.top : down, window.left : across]


@given(windows())
def test_labels_are_those_of_resize_then_crop(given_window):
    size, window = given_window
    label = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    cropped = crop_mask(label, window)
    assert (cropped == resize_and_crop(label, window, cv2.INTER_NEAREST)).all()
    assert (crop_mask(label, window, every=3) == cropped[::3, ::3]).all()


@given(windows())
@example(((1, 90), Window((90, 90), 5, 40, 3, 50)))
@example(((8, 1), Window((9, 1), 1, 0, 1, 1)))
@example(((400, 500), Window((401, 501), 10, 300, 200, 100)))
@example(((90, 1), Window((1, 1), 0, 0, 1, 1)))
def test_images_are_those_of_resize_then_crop_within_two_levels(given_window):
    """On noise, the worst case: neighbors differ by up to 255 levels."""
    size, window = given_window
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    cropped = crop_image(image, window)
    expected = resize_and_crop(image, window, cv2.INTER_LINEAR)
    assert cropped.shape == expected.shape
    assert cv2.absdiff(cropped, np.ascontiguousarray(expected)).max() <= 2


@given(windows())
def test_no_other_rows_are_read(given_window):
    size, window = given_window
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    first, end = source_rows(window, size)
    dark = np.zeros_like(image)
    dark[first:end] = image[first:end]
    assert (crop_image(dark, window) == crop_image(image, window)).all()


def test_only_a_part_of_the_image_is_read():
    assert source_rows(Window((2048, 4096), 1024, 0, 512, 1024), (1024, 2048)) == (511, 770)


@pytest.mark.parametrize("scale", [0.53, 0.8, 1.0, 1.37, 1.9])
def test_photographs_are_within_one_level(camvid, scale: float):
    """The figures of docs/performance.md: how often, and by how much."""
    image = read_image(camvid / "train" / "0001TP_006690.png")
    size = round(360 * scale), round(480 * scale)
    random, shares = np.random.default_rng(0), []
    for _ in range(20):
        top, left = random.integers(size[0] - 180), random.integers(size[1] - 240)
        window = Window(size, int(top), int(left), 180, 240)
        expected = np.ascontiguousarray(resize_and_crop(image, window, cv2.INTER_LINEAR))
        difference = cv2.absdiff(crop_image(image, window), expected)
        assert difference.max() <= 1
        shares.append((difference > 0).mean())
    assert np.mean(shares) < 0.1
