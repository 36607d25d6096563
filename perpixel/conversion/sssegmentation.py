"""sssegmentation.

Sources: ssseg/modules/models/backbones/resnet.py and ssseg/modules/models/segmentors/{fcn/fcn,
semanticfpn/semanticfpn,base/base,base/fpn}.py; inference as in ssseg/test.py. Its code of 2020,
behind the older results table, has align_corners=True: names and shapes do not show that.
"""

from perpixel.conversion.toolkit import Toolkit
from perpixel.recipes.models import FCN, Auxiliary, Model, ResNet, SemanticFPN
from perpixel.recipes.schema import Inference, Input

_NAME_MAP = (
    ("backbone_net.conv1",                           "backbone.conv1"),
    ("backbone_net.bn1",                             "backbone.bn1"),
    ("backbone_net.stem.{i}",                        "backbone.stem.{i}"),
    ("backbone_net.layer{stage}.{b}.conv{k}",        "backbone.layer{stage}.{b}.conv{k}"),
    ("backbone_net.layer{stage}.{b}.bn{k}",          "backbone.layer{stage}.{b}.bn{k}"),
    ("backbone_net.layer{stage}.{b}.downsample.{i}", "backbone.layer{stage}.{b}.downsample.{i}"),
    ("decoder.{3k}",                                 "head.convs.{k}.0"),
    ("decoder.{3k+1}",                               "head.convs.{k}.1"),
    ("fpn_neck.lateral_convs.{level}.{i}",           "head.lateral.{level}.{i}"),
    ("fpn_neck.fpn_convs.{level}.{i}",               "head.output.{level}.{i}"),
    ("scale_heads.{level}.{2k}.{i}",                 "head.scales.{level}.{k}.{i}"),
    ("decoder.{3n+1}",                               "head.classifier"),
    ("auxiliary_decoder.{3k}",                       "auxiliary.convs.{k}.0"),
    ("auxiliary_decoder.{3k+1}",                     "auxiliary.convs.{k}.1"),
    ("auxiliary_decoder.{3n+1}",                     "auxiliary.classifier"),
)  # fmt: skip

SSSEGMENTATION = Toolkit(
    name="sssegmentation",
    name_map=_NAME_MAP,
    fcn=Model(
        backbone=ResNet(depth=50, stem="deep", output_stride=8),
        head=FCN(num_convs=2, channels=512),
        aux_head=Auxiliary(channels=512),
    ),
    semantic_fpn=Model(backbone=ResNet(depth=50, stem="deep"), head=SemanticFPN(fpn_norm=True)),
    input=Input(),
    inference=Inference(resize_logits_twice=False, tta_average="logits"),
)
