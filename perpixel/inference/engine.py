"""A network, and how it looks at pictures."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from perpixel.images import Array
from perpixel.models.inputs import autocast, normalise
from perpixel.models.segmenter import Segmenter
from perpixel.recipes.spec import Recipe


class Engine(NamedTuple):
    """The network runs where its weights are, in `dtype`, on `window_batch` windows at once.

    What of a picture it is fed, and what becomes of its logits, is the recipe's `inference`.
    """

    network: Segmenter
    recipe: Recipe
    dtype: torch.dtype = torch.float32
    window_batch: int = 4

    @property
    def device(self) -> torch.device:
        """Where the network's weights are."""
        return self.network.device

    def feed(self, images: Sequence[Array]) -> Tensor:
        """uint8 RGB pictures [H, W, 3] of one size, normalised on the device: [N, 3, H, W]."""
        pixels = torch.from_numpy(np.stack(images))
        return normalise(pixels.to(self.device), self.recipe.input)

    def logits(self, fed: Tensor) -> Tensor:
        """Coarse logits, [N, h, w, classes]."""
        with autocast(self.device, self.dtype):
            logits: Tensor = self.network(fed).main
        return logits.permute(0, 2, 3, 1)
