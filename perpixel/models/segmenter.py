"""A whole model: backbone, head and, for training, an auxiliary head."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from perpixel.models.fcn import FCNHead
from perpixel.models.resnet import ResNet
from perpixel.models.semantic_fpn import SemanticFPNHead
from perpixel.models.timm_backbone import TimmBackbone
from perpixel.recipes.models import Model


class SegmentationOutput(NamedTuple):
    """Logits (before softmax), [N, num_classes, h, w], each at its own head's stride."""

    logits: Tensor
    aux_logits: Tensor | None = None


class Segmenter(nn.Module):
    """Keys: `backbone.*`, `head.*` and, where there is one, `auxiliary.*`. `spec` built it."""

    def __init__(
        self,
        spec: Model,
        backbone: ResNet | TimmBackbone,
        head: FCNHead | SemanticFPNHead,
        auxiliary: FCNHead | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = backbone
        self.head = head
        self.auxiliary = auxiliary

    @property
    def num_classes(self) -> int:
        """How many classes the logits tell apart."""
        return self.head.classifier.out_channels

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.head.classifier.weight.device

    def forward(self, images: Tensor, return_aux: bool = False) -> SegmentationOutput:
        """Normalized images, float [N, 3, H, W], to logits; `return_aux` asks for both heads'."""
        features = self.backbone(images)
        logits = self.head(features if isinstance(self.head, SemanticFPNHead) else features[-1])
        if return_aux and self.auxiliary is not None:
            return SegmentationOutput(logits, self.auxiliary(features[-2]))
        return SegmentationOutput(logits)
