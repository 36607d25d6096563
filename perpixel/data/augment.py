"""Augmentation of one training image; every step is a pure function of its arguments and rng.

Images are uint8 RGB [height, width, 3], labels uint8 masks [height, width]. Geometry is
OpenCV's (bilinear for images, nearest for labels), as in mmsegmentation's pipeline, whose order
and distributions these steps follow (datasets/transforms/transforms.py).

A window is drawn by the label alone, so that no more of the image need be read than it shows.
"""

import cv2
import numpy as np

from perpixel.data.window import Window, crop_image, crop_mask
from perpixel.io.images import Array, Size, resize_image, scaled_size
from perpixel.recipes.schema import IGNORE_INDEX, Augment, Input, Photometric

Rng = np.random.Generator
Pair = tuple[Array, Array]

_GRID = 128
"""Class shares are counted on a grid of at least so many points a side."""


def sample_crop(label: Array, rng: Rng, *, spec: Augment, crop: Size) -> Window:
    """The window of at most `crop` (height, width) that a training image shows.

    The image is resized by one factor, uniform in `spec.scale_range`, on top of the fit into
    `base_size`, and the window drawn uniformly, again while one class has too large a share of it:
    it is taken when the commonest class covers less than `spec.cat_max_ratio` of the labeled
    points of its grid; the last of `spec.crop_attempts` draws is taken as it is.
    """
    size = scaled_size(label.shape, rng.uniform(*spec.scale_range), box=spec.base_size)
    height, width = min(crop[0], size[0]), min(crop[1], size[1])
    every = max(min(height, width) // _GRID, 1)
    for attempt in range(spec.crop_attempts):
        top = int(rng.integers(size[0] - height + 1))
        left = int(rng.integers(size[1] - width + 1))
        window = Window(size, top, left, height, width)
        if spec.cat_max_ratio >= 1 or attempt == spec.crop_attempts - 1:
            break
        if _is_varied(crop_mask(label, window, every=every), spec.cat_max_ratio):
            break
    return window


def augment(
    image: Array,
    label: Array,
    rng: Rng,
    *,
    window: Window,
    spec: Augment,
    crop: Size,
    fed: Input,
) -> Pair:
    """A training image and label of exactly `crop` (height, width), from one of its windows."""
    image, label = crop_image(image, window), crop_mask(label, window)
    if rng.random() < spec.flip_prob:
        image, label = np.asarray(cv2.flip(image, 1), np.uint8), label[:, ::-1]
    if spec.photometric is not None:
        image = distort_colors(image, rng, spec=spec.photometric)
    mean = fed.mean if fed.channel_order == "rgb" else fed.mean[::-1]
    color = tuple(round(m) for m in mean) if spec.pad_value == "mean" else (0, 0, 0)
    return pad(image, label, crop, color=color, centered=spec.pad == "center")


def resize(image: Array, label: Array, size: Size) -> Pair:
    """Image (bilinear) and label (nearest) at `size` (height, width)."""
    if label.shape == size:
        return image, label
    nearest = cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST)
    return resize_image(image, size), np.asarray(nearest, np.uint8)


_IDENTITY = np.arange(256, dtype=np.uint8)


def distort_colors(image: Array, rng: Rng, *, spec: Photometric) -> Array:
    """Brightness, contrast, saturation and hue, each changed with probability 1/2.

    Contrast comes before or after the color steps by a coin flip. Values are cut to 0..255 and
    truncated to whole numbers after each step (mmsegmentation's PhotoMetricDistortion). Steps on
    single values are gathered in tables of 256, so that the image is passed over once for all.
    """
    table = _IDENTITY
    if rng.random() < 0.5:
        table = _linear(table, offset=rng.uniform(-spec.brightness, spec.brightness))
    contrast_first = rng.random() < 0.5
    contrast = rng.uniform(*spec.contrast) if rng.random() < 0.5 else 1.0
    saturation = rng.uniform(*spec.saturation) if rng.random() < 0.5 else 1.0
    hue = int(rng.integers(-spec.hue, spec.hue)) if spec.hue and rng.random() < 0.5 else 0
    if contrast_first:
        table = _linear(table, factor=contrast)
    if saturation != 1 or hue:
        hsv = cv2.cvtColor(_look_up(image, table), cv2.COLOR_RGB2HSV)
        turned = ((np.arange(256) + hue) % 180).astype(np.uint8)  # OpenCV's hue: half degrees
        changed = np.dstack([turned, _linear(_IDENTITY, factor=saturation), _IDENTITY])
        image = np.asarray(cv2.cvtColor(cv2.LUT(hsv, changed), cv2.COLOR_HSV2RGB), np.uint8)
        table = _IDENTITY
    if not contrast_first:
        table = _linear(table, factor=contrast)
    return _look_up(image, table)


def pad(
    image: Array,
    label: Array,
    size: Size,
    *,
    color: tuple[int, ...],
    centered: bool = False,
) -> Pair:
    """Pads both to `size` (height, width): the image with a color, the mask with IGNORE_INDEX."""
    down, across = size[0] - label.shape[0], size[1] - label.shape[1]
    if down == across == 0:
        return image, label
    top, left = (down // 2, across // 2) if centered else (0, 0)
    around = top, down - top, left, across - left, cv2.BORDER_CONSTANT
    return (
        np.asarray(cv2.copyMakeBorder(image, *around, value=color), np.uint8),
        np.asarray(cv2.copyMakeBorder(label, *around, value=IGNORE_INDEX), np.uint8),
    )


def _is_varied(label: Array, largest_share: float) -> bool:
    counts = np.bincount(label.ravel(), minlength=256)[:IGNORE_INDEX]
    return bool(counts.max() < largest_share * counts.sum())


def _linear(table: Array, *, factor: float = 1.0, offset: float = 0.0) -> Array:
    """A table of 256 values, each turned into value * factor + offset, cut and truncated."""
    if factor == 1 and offset == 0:
        return table
    changed = table.astype(np.float32) * factor + offset
    return np.asarray(np.clip(changed, 0, 255), np.uint8)


def _look_up(image: Array, table: Array) -> Array:
    return image if table is _IDENTITY else np.asarray(cv2.LUT(image, table), np.uint8)
