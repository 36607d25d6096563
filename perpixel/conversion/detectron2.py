"""detectron2's Semantic FPN.

Sources: detectron2/modeling/{backbone/resnet,backbone/fpn,meta_arch/semantic_seg,
postprocessing}.py and detectron2/config/defaults.py. Its ResNets from Caffe weights (MSRA, the
default) have the stride in the 1x1 convolution and take BGR pixels with std 1; names and shapes do
not show that. Batch norm without num_batches_tracked is its FrozenBatchNorm2d.
"""

from perpixel.conversion.toolkit import Toolkit
from perpixel.recipes.models import Model, ResNet, SemanticFPN
from perpixel.recipes.schema import Inference, Input

_NAME_MAP = (
    ("backbone.bottom_up.stem.conv1",                     "backbone.conv1"),
    ("backbone.bottom_up.stem.conv1.norm",                "backbone.bn1"),
    ("backbone.bottom_up.res{stage+1}.{b}.conv{k}",       "backbone.layer{stage}.{b}.conv{k}"),
    ("backbone.bottom_up.res{stage+1}.{b}.conv{k}.norm",  "backbone.layer{stage}.{b}.bn{k}"),
    ("backbone.bottom_up.res{stage+1}.{b}.shortcut",      "backbone.layer{stage}.{b}.downsample.0"),
    ("backbone.bottom_up.res{stage+1}.{b}.shortcut.norm", "backbone.layer{stage}.{b}.downsample.1"),
    ("backbone.fpn_lateral{level+2}",                     "head.lateral.{level}"),
    ("backbone.fpn_output{level+2}",                      "head.output.{level}"),
    ("sem_seg_head.p{level+2}.{2k}",                      "head.scales.{level}.{k}.0"),
    ("sem_seg_head.p{level+2}.{2k}.norm",                 "head.scales.{level}.{k}.1"),
    ("sem_seg_head.predictor",                            "head.classifier"),
)  # fmt: skip

DETECTRON2 = Toolkit(
    name="detectron2",
    name_map=_NAME_MAP,
    fcn=None,
    semantic_fpn=Model(
        backbone=ResNet(depth=50, stride_in_1x1=True, frozen_bn=True),
        head=SemanticFPN(norm="group", dropout=0.0),
    ),
    input=Input(
        mean=(103.53, 116.28, 123.675), std=(1, 1, 1), channel_order="bgr", size_divisor=32
    ),
    inference=Inference(resize_logits_twice=True),
    mean_std_names=("pixel_mean", "pixel_std"),  # buffers, saved in 2020
)
