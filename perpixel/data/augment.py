"""Augments one training image; every function is pure in its arguments and rng.

Images are uint8 RGB [height, width, 3], labels uint8 masks [height, width]. Resizing is OpenCV's
(bilinear for images, nearest for labels). Order and distributions are those of mmsegmentation's
pipeline (datasets/transforms/transforms.py).

A crop is sampled by the label alone, so that only the rows of the image that it shows are read.
"""

import cv2
import numpy as np

from perpixel.data.window import Window, crop_image, crop_mask
from perpixel.io.images import Array, Size, resize_image, scaled_size
from perpixel.recipes.schema import IGNORE_INDEX, Augment, Input, Photometric

Rng = np.random.Generator
Pair = tuple[Array, Array]

_GRID = 128
"""Class shares are counted on a grid of at least this many points a side."""


def sample_crop(label: Array, rng: Rng, *, spec: Augment) -> Window:
    """Samples a window of at most `spec.crop_size` of the randomly resized and rotated image.

    The image is resized by a factor uniform in `spec.scale_range`, on top of the fit into
    `base_size`. A window of the rotated image is a window of the image itself, its height and width
    exchanged after an odd number of quarter turns, which `augment` rotates. Windows are sampled
    uniformly until the most common class covers less than `spec.cat_max_ratio` of the labeled
    points of the window's grid; the last of `spec.crop_attempts` is used in any case. With
    `spec.enabled` off it is the whole image, as `whole_window` has it.
    """
    if not spec.enabled:
        return whole_window((label.shape[0], label.shape[1]), spec)
    size = scaled_size(label.shape, rng.uniform(*spec.scale_range), box=spec.base_size)
    # A probability of 0 takes no random number: recipes without it keep their stream of samples.
    turned = spec.rotate90_prob > 0 and rng.random() < spec.rotate90_prob
    turns = int(rng.integers(4)) if turned else 0
    crop_size = spec.crop_size or size
    if spec.crop_size and turns % 2:
        crop_size = crop_size[::-1]
    height, width = map(min, zip(crop_size, size, strict=True))
    every = max(min(height, width) // _GRID, 1)
    for attempt in range(spec.crop_attempts):
        top = int(rng.integers(size[0] - height + 1))
        left = int(rng.integers(size[1] - width + 1))
        window = Window(size, top, left, height, width, turns)
        if spec.cat_max_ratio >= 1 or attempt == spec.crop_attempts - 1:
            break
        if _is_varied(crop_mask(label, window, every=every), spec.cat_max_ratio):
            break
    return window


def whole_window(size: Size, spec: Augment) -> Window:
    """The window of a whole image of `size`, fitted into `spec.base_size` and `spec.crop_size`."""
    size = scaled_size(size, 1.0, box=spec.base_size)
    height, width = spec.crop_size or size
    fit = min(height / size[0], width / size[1], 1.0)
    size = max(round(size[0] * fit), 1), max(round(size[1] * fit), 1)
    return Window(size, 0, 0, *size)


def augment(
    image: Array,
    label: Array,
    rng: Rng,
    *,
    window: Window,
    spec: Augment,
    input_spec: Input,
) -> Pair:
    """Crops, rotates, flips, distorts and pads image and label to `spec.crop_size`, if any."""
    image, label = crop_image(image, window), crop_mask(label, window)
    if spec.enabled:
        image, label = _change_at_random(image, label, rng, window=window, spec=spec)
    if spec.crop_size is None:
        return image, label
    mean = input_spec.mean if input_spec.channel_order == "rgb" else input_spec.mean[::-1]
    color = tuple(round(m) for m in mean) if spec.pad_value == "mean" else (0, 0, 0)
    return pad(image, label, spec.crop_size, color=color, centered=spec.pad == "center")


def whole_mask(label: Array, *, spec: Augment) -> Array:
    """The mask that `augment` gives of `label` with `spec.enabled` off."""
    label = crop_mask(label, whole_window((label.shape[0], label.shape[1]), spec))
    if spec.crop_size is None:
        return label
    return _pad_mask(label, spec.crop_size, centered=spec.pad == "center")


def _change_at_random(
    image: Array, label: Array, rng: Rng, *, window: Window, spec: Augment
) -> Pair:
    """Rotates, flips and distorts a crop."""
    if window.quarter_turns:
        image = np.ascontiguousarray(np.rot90(image, window.quarter_turns))
        label = np.rot90(label, window.quarter_turns)
    if rng.random() < spec.flip_prob:
        image, label = np.asarray(cv2.flip(image, 1), np.uint8), label[:, ::-1]
    if spec.vertical_flip_prob > 0 and rng.random() < spec.vertical_flip_prob:
        image, label = np.asarray(cv2.flip(image, 0), np.uint8), label[::-1]
    if spec.photometric is not None:
        image = distort_colors(image, rng, spec=spec.photometric)
    return image, label


def resize(image: Array, label: Array, size: Size) -> Pair:
    """Resizes image (bilinear) and label (nearest) to `size` (height, width)."""
    return resize_image(image, size), resize_mask(label, size)


def resize_mask(label: Array, size: Size) -> Array:
    """Resizes a label (nearest) to `size` (height, width)."""
    if label.shape == size:
        return label
    nearest = cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST)
    return np.asarray(nearest, np.uint8)


_IDENTITY = np.arange(256, dtype=np.uint8)


def distort_colors(image: Array, rng: Rng, *, spec: Photometric) -> Array:
    """Changes brightness, contrast, saturation and hue, each with probability 1/2.

    Contrast comes before or after saturation and hue with equal probability. Values are clipped to
    0..255 and truncated to integers after each step (mmsegmentation's PhotoMetricDistortion). Steps
    on single values are combined in look-up tables of 256, applied to the image at once.
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
        hues = ((np.arange(256) + hue) % 180).astype(np.uint8)  # OpenCV's hue: half degrees
        tables = np.dstack([hues, _linear(_IDENTITY, factor=saturation), _IDENTITY])
        image = np.asarray(cv2.cvtColor(cv2.LUT(hsv, tables), cv2.COLOR_HSV2RGB), np.uint8)
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
    """Pads to `size` (height, width): the image with `color`, the label with IGNORE_INDEX."""
    if label.shape == size:
        return image, label
    borders = _borders(label, size, centered=centered)
    image = np.asarray(cv2.copyMakeBorder(image, *borders, value=color), np.uint8)
    return image, _pad_mask(label, size, centered=centered)


def _pad_mask(label: Array, size: Size, *, centered: bool) -> Array:
    borders = _borders(label, size, centered=centered)
    return np.asarray(cv2.copyMakeBorder(label, *borders, value=IGNORE_INDEX), np.uint8)


def _borders(label: Array, size: Size, *, centered: bool) -> tuple[int, int, int, int, int]:
    """OpenCV's widths at the top, bottom, left and right, and its kind of border."""
    down, across = size[0] - label.shape[0], size[1] - label.shape[1]
    top, left = (down // 2, across // 2) if centered else (0, 0)
    return top, down - top, left, across - left, cv2.BORDER_CONSTANT


def _is_varied(label: Array, largest_share: float) -> bool:
    counts = np.bincount(label.ravel(), minlength=256)[:IGNORE_INDEX]
    return bool(counts.max() < largest_share * counts.sum())


def _linear(table: Array, *, factor: float = 1.0, offset: float = 0.0) -> Array:
    """Maps a table's 256 values to value * factor + offset, clipped and truncated."""
    if factor == 1 and offset == 0:
        return table
    changed = table.astype(np.float32) * factor + offset
    return np.asarray(np.clip(changed, 0, 255), np.uint8)


def _look_up(image: Array, table: Array) -> Array:
    return image if table is _IDENTITY else np.asarray(cv2.LUT(image, table), np.uint8)
