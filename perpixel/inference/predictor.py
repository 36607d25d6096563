"""What users hold: a model with its classes, ready for images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import ImageOps
from PIL.Image import Image as PILImage
from PIL.Image import fromarray

from perpixel.acceleration.compile import compile_model
from perpixel.acceleration.fuse_conv_bn import fuse_conv_bn
from perpixel.checkpoints import hub
from perpixel.checkpoints.format import Checkpoint, model_from_checkpoint, read_checkpoint
from perpixel.errors import UsageError
from perpixel.inference.engine import Engine
from perpixel.inference.tta import iter_scores, predict_masks
from perpixel.io.images import Array, Palette, overlay, read_image, write_mask
from perpixel.models.build import to_device
from perpixel.recipes.schema import Inference


@dataclass(frozen=True)
class Result:
    """An image's mask, uint8 [H, W] at the image's own size, with the classes' meaning."""

    image: Array
    mask: Array
    class_names: tuple[str, ...]
    palette: Palette

    def overlay(self, *, opacity: float = 0.5) -> Array:
        """The image with its classes' colors over it, uint8 RGB [H, W, 3]."""
        return overlay(self.image, self.mask, self.palette, opacity=opacity)

    def save(self, path: str | Path) -> None:
        """Writes the mask as a palette PNG of class indices; raises PerpixelError."""
        write_mask(Path(path), self.mask, self.palette)

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
    """A checkpoint's model on a device.

    `inference` replaces the recipe's own way of seeing images (scales, flip, windows);
    `window_batch` windows of an image go through the model at once. `compiled` has torch.compile
    make it faster, which takes its time at the first image of every size.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        inference: Inference | None = None,
        window_batch: int = 4,
        compiled: bool = False,
    ) -> None:
        self.checkpoint = checkpoint
        self.recipe = checkpoint.recipe
        if inference is not None:
            self.recipe = self.recipe.model_copy(update={"inference": inference})
        self.class_names = checkpoint.class_names
        self.palette = checkpoint.palette
        self.model = to_device(fuse_conv_bn(model_from_checkpoint(checkpoint)), device).to(dtype)
        if compiled:
            compile_model(self.model, options={"freezing": True})  # weights as constants
        self.engine = Engine(self.model, self.recipe, dtype, window_batch)

    def predict(self, image: ImageLike) -> Result:
        """The classes of one image: a path, a PIL image or a uint8 RGB array [H, W, 3].

        Raises PerpixelError for a file that cannot be read, UsageError for another kind of value.
        """
        return self.predict_batch([image])[0]

    def predict_batch(self, images: Sequence[ImageLike]) -> list[Result]:
        """The classes of several images; those of one size go through the model together."""
        arrays = [_pixels(image) for image in images]
        masks: dict[int, Array] = {}
        for size in dict.fromkeys(array.shape for array in arrays):
            same = [index for index, array in enumerate(arrays) if array.shape == size]
            found = predict_masks(self.engine, [arrays[index] for index in same])
            masks |= dict(zip(same, found, strict=True))
        return [
            Result(array, masks[index], self.class_names, self.palette)
            for index, array in enumerate(arrays)
        ]

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
        chunks = iter_scores(self.engine, _pixels(image), probabilities=probabilities)
        return np.concatenate([values.cpu().numpy() for _, values in chunks])

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        device: torch.device | str = "cpu",
    ) -> "Predictor":
        """The model of a folder that `save_pretrained` wrote, or of OWNER/NAME on the Hub.

        `revision` is a branch, tag or commit there. Raises PerpixelError.
        """
        folder = Path(source)
        path = folder / hub.WEIGHTS
        if not folder.is_dir():
            path = hub.download(str(source), revision=revision)
        return cls(read_checkpoint(path), device=device)

    def save_pretrained(self, folder: str | Path, *, license: str | None = None) -> None:
        """Writes model.safetensors, config.json and a model card into `folder`.

        `license` is the card's, such as "cc-by-4.0". `perpixel.load` takes the folder. Raises
        PerpixelError when it cannot be written.
        """
        hub.save_pretrained(self.checkpoint, Path(folder), license=license)

    def push_to_hub(
        self, repository: str, *, private: bool = False, license: str | None = None
    ) -> str:
        """Uploads these files to the Hugging Face Hub as OWNER/NAME and returns the address.

        It needs the extra [hub] and a token (HF_TOKEN, or `hf auth login`). Raises PerpixelError.
        """
        return hub.push_to_hub(self.checkpoint, repository, private=private, license=license)


def _pixels(image: ImageLike) -> Array:
    match image:
        case str() | Path():
            return read_image(Path(image))
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
