"""A model, and how it looks at images."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from perpixel.io.images import Array
from perpixel.models.normalize import autocast, normalize
from perpixel.models.segmenter import Segmenter
from perpixel.recipes.schema import Recipe


class Engine(NamedTuple):
    """The model runs where its weights are, in `dtype`, on `window_batch` windows at once.

    What of an image it is fed, and what becomes of its logits, is the recipe's `inference`.
    """

    model: Segmenter
    recipe: Recipe
    dtype: torch.dtype = torch.float32
    window_batch: int = 4

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return self.model.device

    def feed(self, images: Sequence[Array]) -> Tensor:
        """uint8 RGB images [H, W, 3] of one size, normalized on the device: [N, 3, H, W]."""
        pixels = torch.from_numpy(np.stack(images))
        return normalize(pixels.to(self.device), self.recipe.input)

    def logits(self, fed: Tensor) -> Tensor:
        """Coarse logits, [N, h, w, classes]."""
        with autocast(self.device, self.dtype):
            logits: Tensor = self.model(fed).logits
        return logits.permute(0, 2, 3, 1)
