"""timm's backbones as published segmentation code has them, where the two differ.

timm builds what classifies ImageNet. With the same weights the trunks below gave other features:

| backbone    | published code                            | what is changed                        |
|-------------|-------------------------------------------|----------------------------------------|
| DINOv2      | dinov2/eval/segmentation                  | images padded on all sides; positions  |
|             |                                           | resized without antialiasing           |
| HRNet       | mmsegmentation backbones/hrnet.py         | bilinear upsampling, to any size; the  |
|             |                                           | branches themselves as features        |
| MobileNetV2 | mmsegmentation backbones/mobilenet_v2.py  | of a group of blocks only the first is |
|             |                                           | dilated                                |
| RepViT      | RepViT segmentation/repvit.py             | features before the downsampling block |
| ResNeSt     | mmsegmentation backbones/resnest.py       | no averaging where there is no stride  |
| Twins-PCPVT | mmsegmentation backbones/twins.py         | layer norms' eps 1e-5; zeros where a   |
|             |                                           | patch would be cut                     |
| XCiT        | semantic_segmentation/backbone/xcit.py    | features of other blocks               |

Others (PVTv2, PoolFormer) need no change: timm's is the published trunk.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from timm.models._features import FeatureListNet
from timm.models.hrnet import HighResolutionModule
from timm.models.repvit import RepVitDownsample
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from perpixel.errors import UsageError


@dataclass(frozen=True)
class Published:
    """How the published trunks of a family are made of timm's.

    `change` changes timm's features in place, `options` are for timm.create_model in addition.
    `blocks` gives the blocks, from 0, of a plain ViT's features by its depth. Images are padded on
    all sides with `center_padding`.
    """

    change: Callable[[Any], None]
    options: Mapping[str, Any] = field(default_factory=dict)
    blocks: Mapping[int, list[int]] = field(default_factory=dict)
    center_padding: bool = False


def published(name: str) -> Published:
    """Returns the published trunk of the timm model `name`.

    Raises UsageError for a model without an entry in the table above.
    """
    family = family_of(name)
    if family is None:
        raise UsageError(
            f"model.backbone.as_published: no published code is known that differs from timm's "
            f"{name}; it does for {', '.join(_FAMILIES)}"
        )
    return _FAMILIES[family]


def family_of(name: str) -> str | None:
    """Returns the family of a timm model in the table above; None for others."""
    return next((family for family in _FAMILIES if family in name), None)


class _DINOv2(VisionTransformer):
    """Positions as in dinov2/models/vision_transformer.py, interpolate_pos_encoding."""

    def _pos_embed(self, x: Tensor) -> Tensor:
        size, grid = x.shape[1:3], self.patch_embed.grid_size
        if self.reg_token is not None or tuple(size) == tuple(grid):
            return super()._pos_embed(x)
        assert self.pos_embed is not None
        assert self.cls_token is not None
        first, positions = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        resized = interpolate(
            positions.reshape(1, *grid, -1).permute(0, 3, 1, 2),
            scale_factor=[(side + 0.1) / old for side, old in zip(size, grid, strict=True)],
            mode="bicubic",
        )
        assert resized.shape[2:] == size
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), x.flatten(1, 2)], dim=1)
        return tokens + torch.cat([first, resized.flatten(2).transpose(1, 2)], dim=1)


def _dinov2(body: Any) -> None:
    body.model.__class__ = _DINOv2


class _HighResolutionModule(HighResolutionModule):
    """Brings a coarser branch to the finer one's size, as at sides that are no multiple of 32."""

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        if self.num_branches == 1:
            return [self.branches[0](x[0])]
        x = [branch(feature) for branch, feature in zip(self.branches, x, strict=True)]
        fused = []
        for row, target in zip(self.fuse_layers, x, strict=True):
            total: Any = 0
            for layer, feature in zip(row, x, strict=True):
                part = layer(feature)
                if part.shape[2:] != target.shape[2:]:
                    part = interpolate(part, size=target.shape[2:], mode="bilinear")
                total = total + part
            fused.append(self.fuse_act(total))
        return fused


def _hrnet(body: Any) -> None:
    for module in body.modules():
        if isinstance(module, HighResolutionModule):
            module.__class__ = _HighResolutionModule
        if isinstance(module, nn.Upsample):
            module.mode, module.align_corners = "bilinear", False


def _mobilenetv2(body: Any) -> None:
    for blocks in body.blocks:
        widest = max(block.conv_dw.dilation for block in blocks)
        for index, block in enumerate(blocks):
            block.conv_dw.dilation = block.conv_dw.padding = (1, 1) if index else widest


class _RepViT(FeatureListNet):
    def forward(self, x: Tensor) -> list[Tensor]:  # type: ignore[override]  # as timm's own
        features = []
        for module in cast(Any, self).values():
            downsample = getattr(module, "downsample", None)
            if isinstance(downsample, RepVitDownsample):
                x = downsample.pre_block(x)
                features.append(x)
                x = downsample.channel_downsample(downsample.spatial_downsample(x))
                x = module.blocks(x + downsample.ffn(x))
            else:
                x = module(x)
        return [*features, x]


def _repvit(body: Any) -> None:
    body.__class__ = _RepViT


def _resnest(body: Any) -> None:
    for module in body.modules():
        downsample = getattr(module, "downsample", None)
        if isinstance(downsample, nn.Sequential):
            pool = downsample[0]
            if isinstance(pool, nn.AvgPool2d) and pool.stride in (1, (1, 1)):
                downsample[0] = nn.Identity()


def _twins_pcpvt(body: Any) -> None:
    for module in body.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5
    for embed in body.model.patch_embeds:
        embed.register_forward_pre_hook(_pad_patches)


def _pad_patches(embed: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
    (x,) = inputs
    tall, wide = embed.patch_size
    return (pad(x, (0, -x.shape[3] % wide, 0, -x.shape[2] % tall)),)


_FAMILIES = {  # by a part of timm's names
    "dinov2": Published(_dinov2, center_padding=True),
    "hrnet": Published(_hrnet, {"feature_location": "", "out_indices": (1, 2, 3, 4)}),
    "mobilenetv2": Published(_mobilenetv2),
    "repvit": Published(_repvit),
    "resnest": Published(_resnest),
    "twins_pcpvt": Published(_twins_pcpvt),
    "xcit": Published(lambda _: None, blocks={12: [3, 5, 7, 11], 24: [7, 11, 15, 23]}),
}
