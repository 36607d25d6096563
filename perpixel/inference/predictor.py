"""The predictor: a model with its classes, from images to masks."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import ImageOps
from PIL.Image import Image as PILImage
from PIL.Image import fromarray
from torch import Tensor

from perpixel.acceleration.accelerate import accelerate
from perpixel.checkpoints.format import Checkpoint, model_from_checkpoint
from perpixel.errors import UsageError, plural
from perpixel.inference.tta import group_by_size, iter_scores, predict_masks
from perpixel.io.images import (
    Array,
    Bands,
    Palette,
    overlay,
    read_image,
    readable_palette,
    write_mask,
)
from perpixel.models.normalize import normalize
from perpixel.models.segmenter import Segmenter
from perpixel.recipes.schema import Inference, Recipe
from perpixel.runtime.dtype import autocast


@dataclass(frozen=True)
class Result:
    """An image's mask, uint8 [H, W] at the image's own size, with the classes' meaning."""

    image: Array
    mask: Array
    class_names: tuple[str, ...]
    palette: Palette

    def __repr__(self) -> str:
        height, width = self.mask.shape
        found = sorted(self.class_fractions.items(), key=lambda item: -item[1])
        shown = [f"{name} {fraction:.1%}" for name, fraction in found if fraction]
        others = [f"{len(shown) - 5} more"] * (len(shown) > 5)
        return f"Result({height}x{width}: {', '.join(shown[:5] + others)})"

    def _repr_png_(self) -> bytes:
        """The overlay, which notebooks show."""
        content = io.BytesIO()
        fromarray(self.overlay()).save(content, "PNG")
        return content.getvalue()

    def overlay(self, *, opacity: float = 0.5) -> Array:
        """The image with its classes' colors over it, uint8 RGB [H, W, 3]."""
        return overlay(self.image, self.mask, self.palette, opacity=opacity)

    def save(self, path: str | Path) -> None:
        """Writes the mask as a palette PNG of class indices; raises PerpixelError."""
        write_mask(Path(path), self.mask, self.palette, is_prediction=True)

    def show(self) -> None:
        """Opens the overlay in the system's image viewer."""
        fromarray(self.overlay()).show(title="perpixel")

    @property
    def class_fractions(self) -> dict[str, float]:
        """The fraction of the image's pixels of each class, 0..1."""
        counts = np.bincount(self.mask.ravel(), minlength=len(self.class_names))
        return dict(zip(self.class_names, (counts / self.mask.size).tolist(), strict=True))


ImageLike = str | Path | Array | PILImage


class Predictor:
    """A model ready to predict: from images to masks, in float32 unless `dtype` says otherwise.

    `recipe` says how images are normalized and seen (its `input`, `data.resize` and `inference`);
    `window_batch` windows of an image go through the model at once. The model is used as it is:
    see `from_checkpoint` and perpixel.acceleration. `step` and `origin` say which checkpoint it is
    from. Colors that the eye cannot tell apart are replaced in `palette`; `replaces_palette` is
    true then.
    """

    def __init__(
        self,
        model: Segmenter,
        recipe: Recipe,
        *,
        class_names: tuple[str, ...],
        palette: Palette,
        dtype: torch.dtype = torch.float32,
        window_batch: int = 4,
        step: int = 0,
        origin: Path | None = None,
    ) -> None:
        if model.num_classes != len(class_names):
            raise UsageError(
                f"the model has {plural(model.num_classes, 'class')}, and class_names "
                f"{len(class_names)}"
            )
        self.model = model.eval()
        self.recipe = recipe
        self.class_names = class_names
        self.palette = readable_palette(palette)
        self.replaces_palette = self.palette != palette
        self.dtype = dtype
        self.window_batch = window_batch
        self.step = step
        self.origin = origin

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Checkpoint,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        inference: Inference | None = None,
        window_batch: int = 4,
        compiled: bool = False,
    ) -> "Predictor":
        """Builds a predictor of the checkpoint's model, accelerated, on a device.

        `inference` replaces the recipe's own; `compiled` runs torch.compile at the first image of
        every size.
        """
        recipe = checkpoint.recipe
        if inference is not None:
            recipe = recipe.model_copy(update={"inference": inference})
        model = accelerate(
            model_from_checkpoint(checkpoint),
            device=device,
            dtype=dtype,
            training=False,
            compile="default" if compiled else "off",
        )
        return cls(
            model,
            recipe,
            class_names=checkpoint.class_names,
            palette=checkpoint.palette,
            dtype=dtype,
            window_batch=window_batch,
            step=checkpoint.step,
            origin=checkpoint.origin,
        )

    @property
    def device(self) -> torch.device:
        """The device that the model is on."""
        return self.model.device

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.recipe.name

    @property
    def bands(self) -> Bands | None:
        """The bands of image files that the model sees as red, green and blue; None is these."""
        return self.recipe.input.bands

    def preprocess(self, images: Sequence[Array]) -> Tensor:
        """uint8 RGB images [H, W, 3] of one size, normalized on the device: [N, 3, H, W]."""
        pixels = torch.from_numpy(np.stack(images))
        return normalize(pixels.to(self.device), self.recipe.input)

    def coarse_logits(self, pixel_values: Tensor) -> Tensor:
        """The model's logits for normalized images, at its own stride: [N, h, w, num_classes]."""
        with autocast(self.device, self.dtype):
            logits: Tensor = self.model(pixel_values).logits
        return logits.permute(0, 2, 3, 1)

    def predict(self, image: ImageLike) -> Result:
        """The classes of one image: a path, a PIL image or a uint8 RGB array [H, W, 3].

        A file is read in the recipe's `input.bands`; the channels of the others are to be these.
        Raises PerpixelError for a file that cannot be read, UsageError for another kind of value.
        """
        return self.predict_batch([image])[0]

    def predict_batch(self, images: Sequence[ImageLike]) -> list[Result]:
        """The classes of several images; those of one size go through the model together."""
        return predict_by_size(
            images,
            partial(predict_masks, self),
            bands=self.bands,
            class_names=self.class_names,
            palette=self.palette,
        )

    def logits(self, image: ImageLike) -> npt.NDArray[np.float32]:
        """Logits at the image's own size, float32 [H, W, num_classes].

        Over several scales or flips it is their mean, of logits or of class probabilities, as the
        recipe's `inference.tta_average` says. A large image may need much memory.
        """
        return self._scores(image, probabilities=False)

    def probabilities(self, image: ImageLike) -> npt.NDArray[np.float32]:
        """Class probabilities at the image's own size, float32 [H, W, num_classes], 0..1."""
        return self._scores(image, probabilities=True)

    def _scores(self, image: ImageLike, *, probabilities: bool) -> npt.NDArray[np.float32]:
        pixels = _pixels(image, self.bands)
        chunks = iter_scores(self, pixels, probabilities=probabilities)
        return np.concatenate([values.cpu().numpy() for _, values in chunks])


def predict_by_size(
    images: Sequence[ImageLike],
    predict_masks: Callable[[list[Array]], list[Array]],
    *,
    bands: Bands | None,
    class_names: tuple[str, ...],
    palette: Palette,
) -> list[Result]:
    """Returns the results of images, in their order; files are read in `bands`.

    `predict_masks` maps uint8 RGB images [H, W, 3] of one size to their masks, uint8 [H, W].
    """
    arrays = [_pixels(image, bands) for image in images]
    masks = [np.empty(0, np.uint8)] * len(arrays)
    by_size = sorted(enumerate(arrays), key=lambda pair: pair[1].shape)
    for group in group_by_size(by_size, len(arrays)):
        size_masks = predict_masks([array for _, array in group])
        for (index, _), mask in zip(group, size_masks, strict=True):
            masks[index] = mask
    return [
        Result(array, mask, class_names, palette) for array, mask in zip(arrays, masks, strict=True)
    ]


def _pixels(image: ImageLike, bands: Bands | None) -> Array:
    match image:
        case str() | Path():
            return read_image(Path(image), bands=bands)
        case PILImage():  # turned as its EXIF tag says, as a file's image is
            turned = ImageOps.exif_transpose(image)
            if turned.mode.startswith("I;16"):  # Pillow would cut off at 255 what OpenCV scales
                turned = fromarray((np.asarray(turned) >> 8).astype(np.uint8))
            pixels = np.asarray(turned.convert("RGB"))
        case np.ndarray():
            pixels = image
        case _:
            raise UsageError(
                f"an image is a path, a PIL image or a uint8 RGB array, not {type(image).__name__}"
            )
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise UsageError(
            f"an image is a uint8 RGB array [height, width, 3], not {pixels.dtype} "
            f"{list(pixels.shape)}"
        )
    return pixels
