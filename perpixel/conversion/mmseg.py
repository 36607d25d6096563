"""mmsegmentation, 0.x and 1.x.

Sources: mmseg/models/{backbones/resnet,decode_heads/fcn_head,decode_heads/fpn_head,necks/fpn}.py
and configs/_base_/models/{fcn_r50-d8,fpn_r50}.py; inference as in mmseg/models/segmentors/
{base,encoder_decoder}.py. The configs of 769x769 recipes set align_corners, the "d6" ones a
dilation of 6 in both heads: names and shapes do not show either.
"""

from perpixel.conversion.structure import resnet_of
from perpixel.conversion.toolkit import Rules, Toolkit
from perpixel.recipes.models import FCN, Auxiliary, CustomHead, Model, ResNet, SemanticFPN
from perpixel.recipes.schema import Inference, Input

_NAME_MAP = (
    ("backbone.conv1",                            "backbone.conv1"),
    ("backbone.bn1",                              "backbone.bn1"),
    ("backbone.stem.{i}",                         "backbone.stem.{i}"),
    ("backbone.layer{stage}.{b}.conv{k}",         "backbone.layer{stage}.{b}.conv{k}"),
    ("backbone.layer{stage}.{b}.bn{k}",           "backbone.layer{stage}.{b}.bn{k}"),
    ("backbone.layer{stage}.{b}.downsample.{i}",  "backbone.layer{stage}.{b}.downsample.{i}"),
    ("decode_head.convs.{k}.conv",                "head.convs.{k}.0"),
    ("decode_head.convs.{k}.bn",                  "head.convs.{k}.1"),
    ("decode_head.conv_cat.conv",                 "head.fuse.0"),
    ("decode_head.conv_cat.bn",                   "head.fuse.1"),
    ("neck.lateral_convs.{level}.conv",           "head.lateral.{level}"),
    ("neck.fpn_convs.{level}.conv",               "head.output.{level}"),
    ("decode_head.scale_heads.{level}.{2k}.conv", "head.scales.{level}.{k}.0"),
    ("decode_head.scale_heads.{level}.{2k}.bn",   "head.scales.{level}.{k}.1"),
    ("decode_head.conv_seg",                      "head.classifier"),
    ("auxiliary_head.convs.{k}.conv",             "auxiliary.convs.{k}.0"),
    ("auxiliary_head.convs.{k}.bn",               "auxiliary.convs.{k}.1"),
    ("auxiliary_head.conv_seg",                   "auxiliary.classifier"),
)  # fmt: skip


def _unsupported(model: Model) -> Rules:
    backbone = resnet_of(model)
    yield isinstance(model.head, CustomHead), "a custom head (head)"
    yield backbone.frozen_bn, "frozen batch norm (backbone.frozen_bn)"
    if isinstance(model.head, SemanticFPN):
        yield model.head.fpn_norm, "batch norm and ReLU in the FPN (head.fpn_norm)"
        yield model.head.norm == "group", "GroupNorm in the scale heads (head.norm)"


MMSEG = Toolkit(
    name="mmseg",
    name_map=_NAME_MAP,
    fcn=Model(
        backbone=ResNet(depth=50, stem="deep", output_stride=8),
        head=FCN(num_convs=2, channels=512, concat_input=True),
        aux_head=Auxiliary(channels=256),
    ),
    semantic_fpn=Model(backbone=ResNet(depth=50, stem="deep"), head=SemanticFPN()),
    input=Input(),
    inference=Inference(resize_logits_twice=True, tta_average="probabilities"),
    unsupported=_unsupported,
)
