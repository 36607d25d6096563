"""What users hold: a network with its classes, ready for pictures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import ImageOps
from PIL.Image import Image as PILImage
from PIL.Image import fromarray

from perpixel import hub
from perpixel.checkpoint import Checkpoint, network_of, read_checkpoint
from perpixel.errors import UsageError
from perpixel.images import Array, Palette, overlay, read_image
from perpixel.inference.class_maps import class_maps, score_bands
from perpixel.inference.engine import Engine
from perpixel.models.build import to_device
from perpixel.models.compiling import compile_network
from perpixel.models.folding import folded
from perpixel.recipes.spec import Inference


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


Picture = str | Path | Array | PILImage


class Predictor:
    """A checkpoint's network on a device.

    `inference` replaces the recipe's own way of seeing pictures (scales, flip, windows);
    `window_batch` windows of a picture go through the network at once. `compiled` has torch.compile
    make it faster, which takes its time at the first picture of every size.
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
        self.names = checkpoint.names
        self.palette = checkpoint.palette
        self.network = to_device(folded(network_of(checkpoint)), device).to(dtype)
        if compiled:
            compile_network(self.network, options={"freezing": True})  # weights as constants
        self.engine = Engine(self.network, self.recipe, dtype, window_batch)

    def predict(self, image: Picture) -> Result:
        """The classes of one picture: a path, a PIL picture or a uint8 RGB array [H, W, 3].

        Raises PerpixelError for a file that cannot be read, UsageError for another kind of value.
        """
        return self.predict_batch([image])[0]

    def predict_batch(self, images: Sequence[Picture]) -> list[Result]:
        """The classes of several pictures; those of one size go through the network together."""
        pictures = [_pixels(image) for image in images]
        maps: dict[int, Array] = {}
        for size in dict.fromkeys(picture.shape for picture in pictures):
            same = [index for index, picture in enumerate(pictures) if picture.shape == size]
            found = class_maps(self.engine, [pictures[index] for index in same])
            maps |= dict(zip(same, found, strict=True))
        return [
            Result(picture, maps[index], self.names, self.palette)
            for index, picture in enumerate(pictures)
        ]

    def probabilities(self, image: Picture) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """(first row, class probabilities float32 [rows, W, classes]) of bands, from the top down.

        Together they are [H, W, classes], which for a large picture does not fit into memory.
        """
        for top, values in score_bands(self.engine, _pixels(image), probabilities=True):
            yield top, values.cpu().numpy()

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


def _pixels(image: Picture) -> Array:
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
