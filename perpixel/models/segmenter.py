"""A whole model: backbone, head and, for training, an auxiliary head."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from perpixel.recipes.models import Model


class SegmentationOutput(NamedTuple):
    """Logits (before softmax), [N, num_classes, h, w], each at its own head's stride."""

    logits: Tensor
    aux_logits: Tensor | None = None


class Segmenter(nn.Module):
    """A model for `num_classes` classes, built from `spec`.

    Keys: `backbone.*`, `head.*` and, if any, `auxiliary.*`.
    """

    def __init__(
        self,
        spec: Model,
        backbone: nn.Module,
        head: nn.Module,
        auxiliary: nn.Module | None = None,
        *,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = backbone
        self.head = head
        self.auxiliary = auxiliary
        self.num_classes = num_classes

    @property
    def device(self) -> torch.device:
        """The device that its weights are on."""
        return next(self.parameters()).device

    def forward(
        self, images: Tensor | list[Tensor], return_aux: bool = False
    ) -> SegmentationOutput:
        """Normalized images, float [N, 3, H, W], to logits; `return_aux` asks for both heads'.

        The backbone's features of images, a list of [N, C, h, w], may take their place.
        """
        features = images if isinstance(images, list) else self.backbone(images)
        logits = self.head(features)
        if return_aux and self.auxiliary is not None:
            return SegmentationOutput(logits, self.auxiliary(features))
        return SegmentationOutput(logits)
