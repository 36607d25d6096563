"""FCN heads: a few convolutions on one feature map, and a 1x1 classifier.

Departures from Long et al. (2015): no VGG, no skip connections, no learned upsampling; these are
the heads that today's toolkits call FCN. mmsegmentation has two convolutions and a third that
fuses in the backbone's features, sssegmentation two, torchvision and pytorch-auto-drive one.
"""

import torch
from torch import Tensor, nn

from perpixel.models.layers import conv_norm_relu, dropout


class FCNHead(nn.Module):
    """Keys: `convs.K.{0,1}`, `fuse.{0,1}` where features are concatenated, `classifier`."""

    def __init__(
        self,
        inputs: int,
        classes: int,
        *,
        convs: int,
        width: int,
        kernel: int = 3,
        dilation: int = 1,
        concat_input: bool = False,
        dropout_share: float,
        dropout_kind: str,
    ) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            *(
                conv_norm_relu(
                    inputs if index == 0 else width, width, kernel=kernel, dilation=dilation
                )
                for index in range(convs)
            )
        )
        self.fuse = conv_norm_relu(inputs + width, width, kernel=kernel) if concat_input else None
        self.dropout = dropout(dropout_share, kind=dropout_kind)
        self.classifier = nn.Conv2d(width if convs else inputs, classes, 1)

    def forward(self, features: Tensor) -> Tensor:
        """[N, inputs, h, w] to logits [N, classes, h, w]."""
        output = self.convs(features)
        if self.fuse is not None:
            output = self.fuse(torch.cat([features, output], dim=1))
        logits: Tensor = self.classifier(self.dropout(output))
        return logits
