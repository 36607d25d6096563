"""From one picture to its class map: whole or in windows, at one or several scales, flipped or not.

The semantics are data (`Inference`): mmsegmentation's and sssegmentation's differ in the number of
resizes and in what is averaged over scales and flips.
"""

from collections.abc import Iterator
from typing import assert_never

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from perpixel.images import Array, Size, scaled_size
from perpixel.models.inputs import normalise
from perpixel.models.segmenter import Segmenter
from perpixel.recipes.spec import Recipe


@torch.inference_mode()
def class_map(network: Segmenter, image: Array, recipe: Recipe, *, dtype: torch.dtype) -> Array:
    """The class of every pixel, uint8 [H, W], of a uint8 RGB picture [H, W, 3].

    The network runs where its weights are, in `dtype`.
    """
    return best_class(scores(network, image, recipe, dtype=dtype))


@torch.inference_mode()
def scores(network: Segmenter, image: Array, recipe: Recipe, *, dtype: torch.dtype) -> Tensor:
    """Scores at the picture's own size, float32 [classes, H, W].

    Logits for a single pass; with several scales or flips the mean over the passes of class
    probabilities or logits, as the recipe's `inference.average` says.
    """
    spec = recipe.inference
    several = len(spec.scales) > 1 or spec.flip
    total, count = torch.zeros(()), 0
    for logits in _passes(network, image, recipe, dtype):
        match spec.average:
            case "probabilities":
                total = total + (logits.softmax(dim=0) if several else logits)
            case "logits":
                total = total + logits
            case _:
                assert_never(spec.average)
        count += 1
    return total / count


def best_class(values: Tensor) -> Array:
    """Index of the largest score per pixel: [classes, H, W] to uint8 [H, W]."""
    return values.argmax(dim=0).to(torch.uint8).cpu().numpy()


def window_grid(size: Size, crop: Size, stride: Size) -> list[Size]:
    """Top-left corners of the windows that cover a picture of `size` (all are height, width).

    The last row and column are moved inward to end at the border (mmsegmentation
    encoder_decoder.py, slide_inference; sssegmentation base.py has the same grid).
    """
    tops, lefts = (
        [
            max(min(index * stride[axis], size[axis] - crop[axis]), 0)
            for index in range(-(-max(size[axis] - crop[axis], 0) // stride[axis]) + 1)
        ]
        for axis in (0, 1)
    )
    return [(top, left) for top in tops for left in lefts]


def _passes(
    network: Segmenter, image: Array, recipe: Recipe, dtype: torch.dtype
) -> Iterator[Tensor]:
    """Logits [classes, H, W] at the picture's size, of every scale with and without its flip."""
    device = next(network.parameters()).device
    picture_size = image.shape[0], image.shape[1]
    for scale in recipe.inference.scales:
        size = scaled_size(
            recipe.data.resize or picture_size, scale, box=recipe.inference.base_size
        )
        resized = image
        if size != picture_size:
            resized = np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR))
        pixels = torch.from_numpy(np.array(resized))[None].to(device)
        fed = normalise(pixels, recipe.input)
        for flipped in (False, True) if recipe.inference.flip else (False,):
            with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
                logits = _logits(network, fed.flip(3) if flipped else fed, recipe, picture_size)
            yield (logits.flip(3) if flipped else logits)[0]


def _logits(network: Segmenter, fed: Tensor, recipe: Recipe, picture_size: Size) -> Tensor:
    """Logits [1, classes, *picture_size] of one normalised picture [1, 3, H, W]."""
    align = recipe.model.align_corners
    size = fed.shape[2], fed.shape[3]
    if recipe.inference.windows == "slide":
        logits = _slide(network, fed, recipe)
    else:
        padded = _padded(fed, recipe)
        logits = network(padded).main.float()
        if padded.shape != fed.shape:  # the padding is cut off before the picture's size is made
            whole = (padded.shape[2], padded.shape[3])
            logits = _enlarge(logits, whole, align)[..., : size[0], : size[1]]
    if recipe.inference.two_resizes:
        logits = _enlarge(logits, size, align)
    return _enlarge(logits, picture_size, align)


def _padded(fed: Tensor, recipe: Recipe) -> Tensor:
    """Enlarged at the bottom and right: black to `pad_to`, then zeros to `size_divisor`."""
    if recipe.inference.pad_to is not None:
        wanted = recipe.inference.pad_to
        height, width = max(fed.shape[2], wanted[0]), max(fed.shape[3], wanted[1])
        picture = fed
        black = torch.zeros(1, height, width, 3, dtype=torch.uint8, device=fed.device)
        fed = normalise(black, recipe.input)
        fed[..., : picture.shape[2], : picture.shape[3]] = picture
    divisor = recipe.input.size_divisor
    return pad(fed, (0, -fed.shape[3] % divisor, 0, -fed.shape[2] % divisor))


def _slide(network: Segmenter, fed: Tensor, recipe: Recipe) -> Tensor:
    """Mean logits [1, classes, H, W] of the windows over a normalised picture [1, 3, H, W]."""
    crop, stride = recipe.inference.crop, recipe.inference.stride
    assert crop is not None
    assert stride is not None
    height, width = fed.shape[2:]
    tall, wide = min(crop[0], height), min(crop[1], width)
    total: Tensor | None = None
    count = torch.zeros(height, width, device=fed.device)
    for top, left in window_grid((height, width), (tall, wide), stride):
        window = slice(top, top + tall), slice(left, left + wide)
        logits = network(fed[..., *window]).main.float()
        logits = _enlarge(logits, (tall, wide), recipe.model.align_corners)
        if total is None:
            total = logits.new_zeros(1, logits.shape[1], height, width)
        total[..., *window] += logits
        count[window] += 1
    assert total is not None
    return total / count


def _enlarge(logits: Tensor, size: Size, align_corners: bool) -> Tensor:
    if logits.shape[2:] == size:
        return logits
    return interpolate(logits, size=size, mode="bilinear", align_corners=align_corners)
