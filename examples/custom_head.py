"""A head of your own under a recipe's backbone: one class of settings and one torch module.

    python examples/custom_head.py [--steps 60] [--out runs/custom-head]

The head is that of LR-ASPP (Howard et al., 2019, "Searching for MobileNetV3", section 6.3): the
coarsest features, weighted by what the whole image shows, are added to finer ones. A backbone of
your own is a subclass of `CustomBackbone` in the same way. Where a program loads the trained model,
as `perpixel.load("runs/custom-head")`, it imports this module first.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import interpolate

import perpixel
from perpixel.recipes.models import CustomHead


class LRASPP(CustomHead):
    """The head's settings: what `--set model.head.channels=64` and a checkpoint's header name."""

    type: Literal["lr_aspp"] = "lr_aspp"
    channels: int = 128

    def build(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        align_corners: bool,
    ) -> nn.Module:
        """The module for a backbone's channels and a data set's classes."""
        return LRASPPHead(self, in_channels, num_classes, align_corners=align_corners)


class LRASPPHead(nn.Module):
    """The head itself: features at strides 4 to 32 to logits at stride 8."""

    def __init__(
        self, spec: LRASPP, in_channels: Sequence[int], num_classes: int, *, align_corners: bool
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.project = nn.Sequential(
            nn.Conv2d(in_channels[-1], spec.channels, 1, bias=False),
            nn.BatchNorm2d(spec.channels),
            nn.ReLU(inplace=True),
        )
        self.weigh = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(in_channels[-1], spec.channels, 1, bias=False),
            nn.Sigmoid(),
        )
        self.coarse = nn.Conv2d(spec.channels, num_classes, 1)
        self.fine = nn.Conv2d(in_channels[1], num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """The backbone's features, finest first, to logits [N, num_classes, H/8, W/8]."""
        x = self.project(features[-1]) * self.weigh(features[-1])
        size = features[1].shape[-2:]
        x = interpolate(x, size=size, mode="bilinear", align_corners=self.align_corners)
        logits: Tensor = self.coarse(x) + self.fine(features[1])
        return logits


base = perpixel.recipe("folder/fcn_r18-d8")
model = base.model.model_copy(update={"head": LRASPP(), "aux_head": None})
recipe = base.model_copy(update={"name": "lr-aspp", "model": model})
"""For `perpixel train examples/custom_head.py:recipe --data photos --out runs/photos`, too."""


def main() -> None:
    """Trains the head on drawn shapes, loads it again, and scores it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("runs/custom-head"))
    given = parser.parse_args()

    from custom_dataset import Shapes

    run = perpixel.train(
        perpixel.override(
            recipe,
            [
                f"train.steps={given.steps}",
                "train.batch_size=8",
                "augment.crop_size=64x64",
                "train.ema_decay=0.9",
                "evaluate.fraction=null",
            ],
        ),
        train_dataset=Shapes(200, seed=0),
        eval_dataset=Shapes(40, seed=1),
        out=given.out,
        init="none",  # without it: ImageNet weights, which are downloaded
    )
    scores = perpixel.evaluate(run.folder, dataset=Shapes(40, seed=1))
    print({name: round(iou or 0, 1) for name, iou in scores.iou.items()})


if __name__ == "__main__":
    main()
