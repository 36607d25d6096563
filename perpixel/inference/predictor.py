"""What users hold: a network with its classes, ready for pictures."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import ImageOps
from PIL.Image import Image as PILImage
from PIL.Image import fromarray

from perpixel.checkpoint import Checkpoint, network_of
from perpixel.errors import UsageError
from perpixel.images import Array, Palette, overlay, read_image
from perpixel.inference.windows import class_map
from perpixel.models.build import place


@dataclass(frozen=True)
class Result:
    """A picture's class map, uint8 [H, W] at the picture's own size, with the classes' meaning."""

    image: Array
    classes: Array
    names: tuple[str, ...]
    palette: Palette

    def overlay(self, *, opacity: float = 0.5) -> Array:
        """The picture with its classes' colours over it, uint8 RGB [H, W, 3]."""
        return overlay(self.image, self.classes, self.palette, opacity=opacity)

    def shares(self) -> dict[str, float]:
        """Share of the picture's pixels per class, 0..1."""
        counts = np.bincount(self.classes.ravel(), minlength=len(self.names))
        return dict(zip(self.names, (counts / self.classes.size).tolist(), strict=True))


class Predictor:
    """A checkpoint's network on a device."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.recipe = checkpoint.recipe
        self.names = checkpoint.names
        self.palette = checkpoint.palette
        self.dtype = dtype
        self.network = place(network_of(checkpoint), device)

    def predict(self, image: str | Path | Array | PILImage) -> Result:
        """The classes of one picture: a path, a PIL picture or a uint8 RGB array [H, W, 3].

        Raises PerpixelError for a file that cannot be read, UsageError for another kind of value.
        """
        pixels = _pixels(image)
        found = class_map(self.network, pixels, self.recipe, dtype=self.dtype)
        return Result(pixels, found, self.names, self.palette)


def _pixels(image: str | Path | Array | PILImage) -> Array:
    match image:
        case str() | Path():
            return read_image(Path(image))
        case PILImage():  # turned as its EXIF tag says, as a file's picture is
            turned = ImageOps.exif_transpose(image)
            if turned.mode.startswith("I;16"):  # Pillow would cut off at 255 what OpenCV scales
                turned = fromarray((np.asarray(turned) >> 8).astype(np.uint8))
            pixels = np.asarray(turned.convert("RGB"))
        case np.ndarray():
            pixels = image
        case _:
            raise UsageError(
                f"a picture is a path, a PIL picture or a uint8 RGB array, not "
                f"{type(image).__name__}"
            )
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise UsageError(
            f"a picture is a uint8 RGB array [height, width, 3], not {pixels.dtype} "
            f"{list(pixels.shape)}"
        )
    return pixels
