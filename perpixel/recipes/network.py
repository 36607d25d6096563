"""The network of a recipe."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from perpixel.recipes.base import Positive, Share, Spec


class ResNet(Spec):
    """ResNet (He et al., 2015, table 1), dilated to the wanted output stride.

    `stem` "deep" is three 3x3 convolutions of 32, 32 and 64 channels (the "v1c" of open-mmlab).
    `stride_in_1x1` puts a bottleneck's stride in its first 1x1 convolution (Caffe, detectron2).
    `frozen_norm` holds batch norm's statistics and scale as constants (detectron2).
    `zero_init_residual` starts every residual branch at zero (Goyal et al., 2017, section 5.1);
    it says nothing where norms are frozen.
    """

    kind: Literal["resnet"] = "resnet"
    depth: Literal[18, 34, 50, 101] = 50
    stem: Literal["7x7", "deep"] = "7x7"
    output_stride: Literal[8, 16, 32] = 32
    stride_in_1x1: bool = False
    frozen_norm: bool = False
    zero_init_residual: bool = False


class Timm(Spec):
    """A backbone of the timm library by its name there, with features at four strides or fewer.

    Its weights and normalisation are timm's matter: `input` is to say what they were trained on.
    """

    kind: Literal["timm"] = "timm"
    name: str = "convnext_tiny"
    output_stride: Literal[8, 16, 32] = 32


def _kind_of_backbone(value: object) -> str:
    """Recipes of before there were kinds say none, and are of a ResNet."""
    kind = value.get("kind", "resnet") if isinstance(value, dict) else getattr(value, "kind", None)
    return str(kind)


Backbone = Annotated[
    Annotated[ResNet, Tag("resnet")] | Annotated[Timm, Tag("timm")],
    Discriminator(_kind_of_backbone),
]


class FCN(Spec):
    """Convolutions on the last stage and a 1x1 classifier (Long et al., 2015; the toolkits' heads).

    `concat_input` appends the backbone's features to the head's and fuses them with one more
    convolution (mmsegmentation). `dropout_kind` "channel" drops whole feature maps (Dropout2d),
    "element" single values (torchvision).
    """

    kind: Literal["fcn"] = "fcn"
    convs: Annotated[int, Field(ge=0, le=16)] = 2
    width: Positive = 512
    kernel: Literal[1, 3] = 3
    dilation: Positive = 1
    concat_input: bool = False
    dropout: Share = 0.1
    dropout_kind: Literal["channel", "element"] = "channel"

    @model_validator(mode="after")
    def _fuse_needs_convs(self) -> "FCN":
        if self.concat_input and self.convs == 0:
            raise ValueError("concat_input needs at least one convolution (convs >= 1)")
        return self


class SemanticFPN(Spec):
    """A feature pyramid merged at stride 4 (Kirillov et al., 2019, "Panoptic FPN", section 3).

    `neck_norm` gives the neck's convolutions batch norm and ReLU in place of a bias
    (sssegmentation). `norm` "group" uses GroupNorm with 32 groups in the scale heads (detectron2).
    """

    kind: Literal["semantic_fpn"] = "semantic_fpn"
    neck_width: Positive = 256
    neck_norm: bool = False
    width: Positive = 128
    norm: Literal["batch", "group"] = "batch"
    dropout: Share = 0.1

    @model_validator(mode="after")
    def _groups_divide_width(self) -> "SemanticFPN":
        if self.norm == "group" and self.width % 32:
            raise ValueError(f"norm=group has 32 groups: width {self.width} is no multiple of 32")
        return self


METHODS = {"fcn": "FCN", "semantic_fpn": "Semantic FPN"}
"""What a network is called, by its head's kind."""


class Auxiliary(Spec):
    """A small FCN head on the third stage, used in training only.

    `classes` is set only where a published checkpoint's auxiliary head counts other classes than
    its main head (mmsegmentation's Pascal Context files of 2020).
    """

    convs: Annotated[int, Field(gt=0, le=16)] = 1
    width: Positive = 256
    dilation: Positive = 1
    dropout: Share = 0.1
    dropout_kind: Literal["channel", "element"] = "channel"
    classes: Positive | None = None


class Model(Spec):
    """A network.

    `align_corners` holds for every bilinear resize of its logits, in training and testing, and
    inside Semantic FPN's head.
    """

    backbone: Backbone = ResNet()
    head: Annotated[FCN | SemanticFPN, Field(discriminator="kind")] = FCN()
    auxiliary: Auxiliary | None = None
    align_corners: bool = False
