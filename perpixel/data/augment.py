"""Augmentation of one training picture; every step is a pure function of (image, label, rng).

Images are uint8 RGB [height, width, 3], labels uint8 class maps [height, width]. Geometry is
OpenCV's (bilinear for pictures, nearest for labels), as in mmsegmentation's pipeline, whose order
and distributions these steps follow (datasets/transforms/transforms.py).
"""

import cv2
import numpy as np

from perpixel.images import Array, scaled_size
from perpixel.recipes.spec import IGNORE, Augment, Input, Photometric

Rng = np.random.Generator
Pair = tuple[Array, Array]


def augment(
    image: Array, label: Array, rng: Rng, *, spec: Augment, crop: tuple[int, int], fed: Input
) -> Pair:
    """A training picture and label of exactly `crop` (height, width)."""
    image, label = random_scale(image, label, rng, spec=spec)
    image, label = random_crop(image, label, rng, spec=spec, crop=crop)
    if rng.random() < spec.flip:
        image, label = image[:, ::-1], label[:, ::-1]
    if spec.photometric is not None:
        image = distort_colours(image, rng, spec=spec.photometric)
    colour = tuple(round(m) for m in _mean_rgb(fed)) if spec.pad_value == "mean" else (0, 0, 0)
    return pad(image, label, crop, colour=colour, centred=spec.pad == "centre")


def random_scale(image: Array, label: Array, rng: Rng, *, spec: Augment) -> Pair:
    """Both resized by one factor, uniform in `spec.scale`, on top of the fit into `base_size`."""
    size = scaled_size(label.shape, rng.uniform(*spec.scale), box=spec.base_size)
    return resize(image, label, size)


def resize(image: Array, label: Array, size: tuple[int, int]) -> Pair:
    """Picture (bilinear) and label (nearest) at `size` (height, width)."""
    if label.shape == size:
        return image, label
    wide = size[1], size[0]
    return (
        np.asarray(cv2.resize(image, wide, interpolation=cv2.INTER_LINEAR), np.uint8),
        np.asarray(cv2.resize(label, wide, interpolation=cv2.INTER_NEAREST), np.uint8),
    )


def random_crop(
    image: Array, label: Array, rng: Rng, *, spec: Augment, crop: tuple[int, int]
) -> Pair:
    """A window of at most `crop`, drawn again while one class has too large a share of it.

    A window is taken when its labelled pixels show more than one class and the commonest covers
    less than `spec.max_class_share`; the last of `spec.crop_tries` draws is taken as it is.
    """
    height, width = label.shape
    tall, wide = min(crop[0], height), min(crop[1], width)
    for attempt in range(spec.crop_tries):
        top = int(rng.integers(height - tall + 1))
        left = int(rng.integers(width - wide + 1))
        window = slice(top, top + tall), slice(left, left + wide)
        last = attempt == spec.crop_tries - 1
        if last or spec.max_class_share >= 1 or _is_varied(label[window], spec.max_class_share):
            break
    return image[window], label[window]


def distort_colours(image: Array, rng: Rng, *, spec: Photometric) -> Array:
    """Brightness, contrast, saturation and hue, each changed with probability 1/2.

    Contrast comes before or after the colour steps by a coin flip. Values are cut to 0..255 and
    truncated to whole numbers after each step (mmsegmentation's PhotoMetricDistortion).
    """
    if rng.random() < 0.5:
        image = _linear(image, offset=rng.uniform(-spec.brightness, spec.brightness))
    contrast_first = rng.random() < 0.5
    contrast = rng.uniform(*spec.contrast) if rng.random() < 0.5 else 1.0
    saturation = rng.uniform(*spec.saturation) if rng.random() < 0.5 else 1.0
    hue = int(rng.integers(-spec.hue, spec.hue)) if spec.hue and rng.random() < 0.5 else 0
    if contrast_first:
        image = _linear(image, factor=contrast)
    if saturation != 1 or hue:
        hsv = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), np.uint8)
        hsv[..., 1] = _linear(hsv[..., 1], factor=saturation)
        hsv[..., 0] = (hsv[..., 0].astype(np.int16) + hue) % 180  # OpenCV's hue: half degrees
        image = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)
    if not contrast_first:
        image = _linear(image, factor=contrast)
    return image


def pad(
    image: Array,
    label: Array,
    size: tuple[int, int],
    *,
    colour: tuple[int, ...],
    centred: bool = False,
) -> Pair:
    """Both enlarged to `size` (height, width): the picture with `colour`, the label with IGNORE."""
    height, width = label.shape
    if (height, width) == size:
        return image, label
    top = (size[0] - height) // 2 if centred else 0
    left = (size[1] - width) // 2 if centred else 0
    padded = np.empty((*size, 3), np.uint8)
    padded[:] = colour
    padded[top : top + height, left : left + width] = image
    unlabelled = np.full(size, IGNORE, np.uint8)
    unlabelled[top : top + height, left : left + width] = label
    return padded, unlabelled


def _is_varied(label: Array, largest_share: float) -> bool:
    counts = np.bincount(label.ravel(), minlength=256)[:IGNORE]
    return bool((counts > 0).sum() > 1 and counts.max() < largest_share * counts.sum())


def _linear(values: Array, *, factor: float = 1.0, offset: float = 0.0) -> Array:
    """values * factor + offset, cut to 0..255 and truncated; by table, as there are 256 inputs."""
    if factor == 1 and offset == 0:
        return values
    table = np.clip(np.arange(256, dtype=np.float32) * factor + offset, 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(values, table), np.uint8)


def _mean_rgb(fed: Input) -> tuple[float, ...]:
    return fed.mean if fed.channel_order == "rgb" else fed.mean[::-1]
