"""From images to masks: whole or in windows, at one or several scales, flipped or not.

The semantics are data (`Inference`): mmsegmentation's and sssegmentation's differ in the number of
resizes and in what is averaged over scales and flips. Scores exist in chunks of rows only; a
mask of one whole pass does not even need those (ops/upsample_argmax.py).
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from perpixel.inference.sliding_window import Read, Rows, slide
from perpixel.io.images import Array, Size, resize_image, scaled_size
from perpixel.models.normalize import normalize
from perpixel.ops.bilinear import ResizeWeights, compose, crop_output, resize_weights
from perpixel.ops.upsample_argmax import Enlargement, row_chunk, row_chunks, upsample_argmax
from perpixel.recipes.schema import Recipe
from perpixel.runtime.memory import memory_for

if TYPE_CHECKING:
    from perpixel.inference.predictor import Predictor

Sample = TypeVar("Sample", bound=tuple[Any, ...])


def group_by_size(samples: Iterable[Sample], most: int) -> Iterator[list[Sample]]:
    """Neighbors whose images, each its sample's second part, have one size; `most` at a time."""
    for _, alike in groupby(samples, key=lambda sample: sample[1].shape):
        while group := list(islice(alike, most)):
            yield group


@torch.inference_mode()
def predict_masks(predictor: "Predictor", images: Sequence[Array]) -> list[Array]:
    """The class of every pixel, uint8 [H, W], of uint8 RGB images [H, W, 3] of one size.

    They go through the model together. Raises OutOfMemoryError where they take too much.
    """
    found = []
    size = images[0].shape[0], images[0].shape[1]
    with _memory_for(len(images), size):
        for passes in _passes(predictor, images):
            if len(passes) == 1 and isinstance(passes[0], Enlargement):
                best = upsample_argmax(passes[0])
            else:
                best = torch.cat([_best(values) for _, values in _bands(predictor, passes, size)])
            found.append(best.cpu().numpy())
    return found


@torch.inference_mode()
def iter_scores(
    predictor: "Predictor", image: Array, *, probabilities: bool = False
) -> Iterator[tuple[int, Tensor]]:
    """(first row, scores [rows, W, classes]) of row chunks of an image, from top to bottom.

    Float32 logits for a single pass; with several scales or flips the mean over the passes of
    class probabilities or logits, as the recipe's `inference.tta_average` says. `probabilities`
    puts logits through a softmax. Raises OutOfMemoryError.
    """
    size = image.shape[0], image.shape[1]
    with _memory_for(1, size):
        (passes,) = _passes(predictor, [image])
        logits = _averages_logits(predictor, passes)
        for top, values in _bands(predictor, passes, size):
            yield top, values.softmax(dim=2) if probabilities and logits else values


@torch.inference_mode()
def predict_streaming(
    predictor: "Predictor", read: Read, size: Size
) -> Iterator[tuple[int, Array]]:
    """(first row, mask uint8 [rows, W]) of row chunks of an image that is read in windows.

    For images larger than memory: the recipe's windows slide, at one scale, on the image as it
    is. Flips are averaged as elsewhere. Raises OutOfMemoryError.
    """
    with _memory_for(1, size):
        passes = _sliding(predictor, read, size)
        for top, values in _bands(predictor, passes, size):
            yield top, _best(values).cpu().numpy()


def _memory_for(count: int, size: Size) -> AbstractContextManager[None]:
    return memory_for(
        f"{count} of {size[0]}x{size[1]} pixels",
        fix="in windows (slide or blend), at smaller scales or fewer at a time they take less",
    )


Pass = Enlargement | Rows


def _best(scores: Tensor) -> Tensor:
    return scores.max(dim=2).indices.to(torch.uint8)


def _bands(
    predictor: "Predictor", passes: Sequence[Pass], size: Size
) -> Iterator[tuple[int, Tensor]]:
    """(first row, mean over the passes) of row chunks from top to bottom."""
    for top, bottom in row_chunks(
        size, num_classes=len(predictor.class_names), device=predictor.device
    ):
        yield top, _mean(predictor, passes, top, bottom)


def _mean(predictor: "Predictor", passes: Sequence[Pass], top: int, bottom: int) -> Tensor:
    logits = _averages_logits(predictor, passes)
    total: Tensor | None = None
    for each in passes:
        if isinstance(each, Enlargement):
            values = row_chunk(*each, top=top, bottom=bottom)
        else:
            values = each(top, bottom)
        values = values if logits else values.softmax(dim=2)
        total = values if total is None else total.add_(values)
    assert total is not None
    return total.div_(len(passes)) if len(passes) > 1 else total


def _averages_logits(predictor: "Predictor", passes: Sequence[Pass]) -> bool:
    return len(passes) == 1 or predictor.recipe.inference.tta_average == "logits"


def _passes(predictor: "Predictor", images: Sequence[Array]) -> list[list[Pass]]:
    """For every image its passes, one for every scale with and without its flip."""
    recipe = predictor.recipe
    image_size = images[0].shape[0], images[0].shape[1]
    found: list[list[Pass]] = [[] for _ in images]
    for scale in recipe.inference.scales:
        size = scaled_size(recipe.data.resize or image_size, scale, box=recipe.inference.base_size)
        resized = [resize_image(image, size) for image in images]
        if recipe.inference.mode == "whole":
            for passes, own in zip(found, _whole(predictor, resized, image_size), strict=True):
                passes += own
            continue
        for passes, image in zip(found, resized, strict=True):
            for rows in _sliding(predictor, _part_of(image), size):
                passes.append(
                    rows if size == image_size else _upsampled(rows, size, image_size, recipe)
                )
    return found


def _whole(
    predictor: "Predictor", images: Sequence[Array], image_size: Size
) -> list[list[Enlargement]]:
    recipe = predictor.recipe
    fed = predictor.preprocess(images)
    size = fed.shape[2], fed.shape[3]
    found: list[list[Enlargement]] = [[] for _ in images]
    for flipped in (False, True) if recipe.inference.flip else (False,):
        padded = _padded(fed.flip(3) if flipped else fed, recipe)
        logits = predictor.coarse_logits(padded)
        by_way = recipe.inference.resize_logits_twice or padded.shape != fed.shape
        down, across = (
            _axis(logits.shape[1 + axis], padded.shape[2 + axis], size[axis], image_size[axis],
                  by_way=by_way, align_corners=recipe.model.align_corners)
            for axis in (0, 1)
        )  # fmt: skip
        if flipped:  # the same logits, read from the other end
            across = ResizeWeights(across.small, across.first.flip(0), across.weights.flip(0))
        for passes, each in zip(found, logits, strict=True):
            passes.append(Enlargement(each, down, across))
    return found


def _axis(
    low: int, padded: int, fed: int, image: int, *, by_way: bool, align_corners: bool
) -> ResizeWeights:
    """From logits to the image's size, `by_way` of the padded and the fed size or at once."""
    if not by_way:
        return resize_weights(low, image, align_corners=align_corners)
    inner = crop_output(resize_weights(low, padded, align_corners=align_corners), fed)
    if fed == image:
        return inner
    return compose(inner, resize_weights(fed, image, align_corners=align_corners))


def _sliding(predictor: "Predictor", read: Read, size: Size) -> list[Rows]:
    def mirrored(top: int, left: int, height: int, width: int) -> Array:
        return read(top, size[1] - left - width, height, width)[:, ::-1]

    found = [slide(predictor, read, size)]
    if predictor.recipe.inference.flip:
        other = slide(predictor, mirrored, size)
        found.append(lambda top, bottom: other(top, bottom).flip(1))
    return found


def _upsampled(rows: Rows, size: Size, image: Size, recipe: Recipe) -> Rows:
    """Rows of an image of `size`, upsampled to those of `image`."""
    down, across = (
        resize_weights(small, large, align_corners=recipe.model.align_corners)
        for small, large in zip(size, image, strict=True)
    )

    def upsampled(top: int, bottom: int) -> Tensor:
        firsts, weights = down.first[top:bottom], down.weights[top:bottom]
        start, end = int(firsts[0]), int(firsts[-1]) + weights.shape[1]
        own = ResizeWeights(end - start, firsts - start, weights)
        return row_chunk(rows(start, end), own, across, top=0, bottom=bottom - top)

    return upsampled


def _part_of(image: Array) -> Read:
    return lambda top, left, height, width: image[top : top + height, left : left + width]


def _padded(fed: Tensor, recipe: Recipe) -> Tensor:
    """Upsampled at the bottom and right: black to `pad_to`, then zeros to `size_divisor`."""
    if recipe.inference.pad_to is not None:
        wanted = recipe.inference.pad_to
        height, width = max(fed.shape[2], wanted[0]), max(fed.shape[3], wanted[1])
        images = fed
        black = torch.zeros(len(fed), height, width, 3, dtype=torch.uint8, device=fed.device)
        fed = normalize(black, recipe.input)
        fed[..., : images.shape[2], : images.shape[3]] = images
    divisor = recipe.input.size_divisor
    return pad(fed, (0, -fed.shape[3] % divisor, 0, -fed.shape[2] % divisor))
