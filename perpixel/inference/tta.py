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

from perpixel.errors import plural
from perpixel.inference.sliding_window import Read, Rows, slide
from perpixel.io.images import Array, Size, resize_image, scaled_size, stretched_size
from perpixel.models.normalize import normalize
from perpixel.ops.bilinear import ResizeWeights, compose, crop_output, resize_weights
from perpixel.ops.upsample_argmax import Upsampling, row_chunk, row_chunks, upsample_argmax
from perpixel.recipes.schema import Recipe
from perpixel.runtime.memory import oom_message

if TYPE_CHECKING:
    from perpixel.inference.predictor import Predictor

Sample = TypeVar("Sample", bound=tuple[Any, ...])


def group_by_size(samples: Iterable[Sample], max_count: int) -> Iterator[list[Sample]]:
    """Groups neighboring samples whose images (their second items) have one size."""
    for _, same_size in groupby(samples, key=lambda sample: sample[1].shape):
        while group := list(islice(same_size, max_count)):
            yield group


@torch.inference_mode()
def predict_masks(predictor: "Predictor", images: Sequence[Array]) -> list[Array]:
    """Predicts masks, uint8 [H, W], of uint8 RGB images [H, W, 3] of one size.

    They go through the model together. Raises OutOfMemoryError where they take too much.
    """
    masks = []
    size = images[0].shape[0], images[0].shape[1]
    with _oom_message(len(images), size):
        for passes in _passes(predictor, images):
            if len(passes) == 1 and isinstance(passes[0], Upsampling):
                best = upsample_argmax(passes[0])
            else:
                best = torch.cat(
                    [_best(values) for _, values in _row_chunk_means(predictor, passes, size)]
                )
            masks.append(best.cpu().numpy())
    return masks


@torch.inference_mode()
def iter_scores(
    predictor: "Predictor", image: Array, *, probabilities: bool = False
) -> Iterator[tuple[int, Tensor]]:
    """Yields (first row, scores [rows, W, classes]) of an image's row chunks, top to bottom.

    Float32 logits for a single pass; with several scales or flips the mean over the passes of
    class probabilities or logits, as the recipe's `inference.tta_average` says. `probabilities`
    puts logits through a softmax. Raises OutOfMemoryError.
    """
    size = image.shape[0], image.shape[1]
    with _oom_message(1, size):
        (passes,) = _passes(predictor, [image])
        logits = _averages_logits(predictor, passes)
        for top, values in _row_chunk_means(predictor, passes, size):
            yield top, values.softmax(dim=2) if probabilities and logits else values


@torch.inference_mode()
def predict_streaming(
    predictor: "Predictor", read: Read, size: Size
) -> Iterator[tuple[int, Array]]:
    """Yields (first row, mask uint8 [rows, W]) of the row chunks of an image read in windows.

    For images larger than memory: the recipe's windows slide, at one scale, on the image as it
    is. Flips are averaged as elsewhere. Raises OutOfMemoryError.
    """
    with _oom_message(1, size):
        passes = _sliding(predictor, read, size)
        for top, values in _row_chunk_means(predictor, passes, size):
            yield top, _best(values).cpu().numpy()


def _oom_message(count: int, size: Size) -> AbstractContextManager[None]:
    return oom_message(
        f"{plural(count, 'image')} of {size[0]}x{size[1]} pixels at once",
        hint="windows (slide or blend), smaller scales or fewer images at a time need less",
    )


Pass = Upsampling | Rows


def _best(scores: Tensor) -> Tensor:
    return scores.max(dim=2).indices.to(torch.uint8)


def _row_chunk_means(
    predictor: "Predictor", passes: Sequence[Pass], size: Size
) -> Iterator[tuple[int, Tensor]]:
    """Yields (first row, mean over the passes) of the row chunks, top to bottom."""
    for top, bottom in row_chunks(
        size, num_classes=len(predictor.class_names), device=predictor.device
    ):
        yield top, _mean(predictor, passes, top, bottom)


def _mean(predictor: "Predictor", passes: Sequence[Pass], top: int, bottom: int) -> Tensor:
    logits = _averages_logits(predictor, passes)
    total: Tensor | None = None
    for one_pass in passes:
        if isinstance(one_pass, Upsampling):
            values = row_chunk(*one_pass, top=top, bottom=bottom)
        else:
            values = one_pass(top, bottom)
        values = values if logits else values.softmax(dim=2)
        total = values if total is None else total.add_(values)
    assert total is not None
    return total.div_(len(passes)) if len(passes) > 1 else total


def _averages_logits(predictor: "Predictor", passes: Sequence[Pass]) -> bool:
    return len(passes) == 1 or predictor.recipe.inference.tta_average == "logits"


def _passes(predictor: "Predictor", images: Sequence[Array]) -> list[list[Pass]]:
    """The passes of every image, one for every scale with and without its flip."""
    recipe = predictor.recipe
    image_size = images[0].shape[0], images[0].shape[1]
    passes: list[list[Pass]] = [[] for _ in images]
    for scale in recipe.inference.scales:
        size = scaled_size(recipe.data.resize or image_size, scale, box=recipe.inference.base_size)
        resized = [resize_image(image, size) for image in images]
        if recipe.inference.resize_to_multiple > 1:  # a second time, as the toolkits do
            size = stretched_size(size, recipe.inference.resize_to_multiple)
            resized = [resize_image(image, size) for image in resized]
        if recipe.inference.mode == "whole":
            whole = _whole(predictor, resized, image_size)
            for image_passes, added in zip(passes, whole, strict=True):
                image_passes += added
            continue
        for image_passes, image in zip(passes, resized, strict=True):
            for rows in _sliding(predictor, _reader(image), size):
                if size != image_size:
                    rows = _upsampled(rows, size, image_size, recipe)
                image_passes.append(rows)
    return passes


def _whole(
    predictor: "Predictor", images: Sequence[Array], image_size: Size
) -> list[list[Upsampling]]:
    recipe = predictor.recipe
    pixel_values = predictor.preprocess(images)
    size = pixel_values.shape[2], pixel_values.shape[3]
    passes: list[list[Upsampling]] = [[] for _ in images]
    for flipped in (False, True) if recipe.inference.flip else (False,):
        padded = _padded(pixel_values.flip(3) if flipped else pixel_values, recipe)
        logits = predictor.coarse_logits(padded)
        twice = recipe.inference.resize_logits_twice or padded.shape != pixel_values.shape
        down, across = (
            _resize_weights(logits.shape[1 + axis], padded.shape[2 + axis], size[axis],
                            image_size[axis], twice=twice, align_corners=recipe.model.align_corners)
            for axis in (0, 1)
        )  # fmt: skip
        if flipped:  # the same logits, read from the other end
            across = ResizeWeights(across.small, across.first.flip(0), across.weights.flip(0))
        for image_passes, image_logits in zip(passes, logits, strict=True):
            image_passes.append(Upsampling(image_logits, down, across))
    return passes


def _resize_weights(
    coarse: int, padded: int, resized: int, image: int, *, twice: bool, align_corners: bool
) -> ResizeWeights:
    """Weights from logits to the image's size: at once, or `twice` with the model's input between.

    The input is the `resized` image, `padded`; padding is cropped off in between.
    """
    if not twice:
        return resize_weights(coarse, image, align_corners=align_corners)
    inner = crop_output(resize_weights(coarse, padded, align_corners=align_corners), resized)
    if resized == image:
        return inner
    return compose(inner, resize_weights(resized, image, align_corners=align_corners))


def _sliding(predictor: "Predictor", read: Read, size: Size) -> list[Rows]:
    def mirrored(top: int, left: int, height: int, width: int) -> Array:
        return read(top, size[1] - left - width, height, width)[:, ::-1]

    passes = [slide(predictor, read, size)]
    if predictor.recipe.inference.flip:
        other = slide(predictor, mirrored, size)
        passes.append(lambda top, bottom: other(top, bottom).flip(1))
    return passes


def _upsampled(rows: Rows, size: Size, image: Size, recipe: Recipe) -> Rows:
    """Turns rows of scores at `size` into rows of scores at the size of `image`."""
    down, across = (
        resize_weights(small, large, align_corners=recipe.model.align_corners)
        for small, large in zip(size, image, strict=True)
    )

    def upsampled(top: int, bottom: int) -> Tensor:
        firsts, weights = down.first[top:bottom], down.weights[top:bottom]
        start, end = int(firsts[0]), int(firsts[-1]) + weights.shape[1]
        chunk_down = ResizeWeights(end - start, firsts - start, weights)
        return row_chunk(rows(start, end), chunk_down, across, top=0, bottom=bottom - top)

    return upsampled


def _reader(image: Array) -> Read:
    return lambda top, left, height, width: image[top : top + height, left : left + width]


def _padded(pixel_values: Tensor, recipe: Recipe) -> Tensor:
    """Pads at the bottom and right: with black to `pad_to`, then with 0 to `size_divisor`."""
    count, _, height, width = pixel_values.shape
    if recipe.inference.pad_to is not None:
        tall, wide = (
            max(*sides) for sides in zip((height, width), recipe.inference.pad_to, strict=True)
        )
        black = torch.zeros(count, tall, wide, 3, dtype=torch.uint8, device=pixel_values.device)
        padded = normalize(black, recipe.input)
        padded[..., :height, :width] = pixel_values
        pixel_values, height, width = padded, tall, wide
    divisor = recipe.input.size_divisor
    return pad(pixel_values, (0, -width % divisor, 0, -height % divisor))
