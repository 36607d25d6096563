"""A whole network: backbone, head and, for training, an auxiliary head."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from perpixel.models.fcn import FCNHead
from perpixel.models.resnet import ResNet
from perpixel.models.semantic_fpn import SemanticFPNHead
from perpixel.models.timm_backbone import TimmBackbone
from perpixel.recipes.network import Model


class Logits(NamedTuple):
    """Scores before softmax, [N, classes, h, w], each at its own head's stride."""

    main: Tensor
    auxiliary: Tensor | None = None


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
    def classes(self) -> int:
        """How many classes the logits tell apart."""
        return self.head.classifier.out_channels

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.head.classifier.weight.device

    def forward(self, images: Tensor, auxiliary: bool = False) -> Logits:
        """Normalised pictures, float [N, 3, H, W], to logits; `auxiliary` asks for both heads'."""
        features = self.backbone(images)
        main = self.head(features if isinstance(self.head, SemanticFPNHead) else features[-1])
        if auxiliary and self.auxiliary is not None:
            return Logits(main, self.auxiliary(features[-2]))
        return Logits(main)
