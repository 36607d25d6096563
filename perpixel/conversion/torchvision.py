"""torchvision's FCN, and pytorch-auto-drive's: the same names without an auxiliary head.

Sources: torchvision/models/segmentation/{_utils,fcn}.py; pytorch-auto-drive utils/models/
segmentation/fcn.py and utils/runners/seg_tester.py. What differs is how logits are upsampled:
torchvision to the model's input size with align_corners=False, pytorch-auto-drive to the
image's size with align_corners=True.
"""

from dataclasses import replace

from perpixel.conversion.structure import resnet_of
from perpixel.conversion.toolkit import Rules, Toolkit
from perpixel.recipes.models import FCN, Auxiliary, Model, ResNet
from perpixel.recipes.schema import Inference, Input

_NAME_MAP = (
    ("backbone.conv1",                           "backbone.conv1"),
    ("backbone.bn1",                             "backbone.bn1"),
    ("backbone.layer{stage}.{b}.conv{k}",        "backbone.layer{stage}.{b}.conv{k}"),
    ("backbone.layer{stage}.{b}.bn{k}",          "backbone.layer{stage}.{b}.bn{k}"),
    ("backbone.layer{stage}.{b}.downsample.{i}", "backbone.layer{stage}.{b}.downsample.{i}"),
    ("classifier.{3k}",                          "head.convs.{k}.0"),
    ("classifier.{3k+1}",                        "head.convs.{k}.1"),
    ("classifier.{3n+1}",                        "head.classifier"),
)  # fmt: skip

_AUX_NAME_MAP = (
    ("aux_classifier.{3k}",   "auxiliary.convs.{k}.0"),
    ("aux_classifier.{3k+1}", "auxiliary.convs.{k}.1"),
    ("aux_classifier.{3n+1}", "auxiliary.classifier"),
)  # fmt: skip


def _unsupported(model: Model) -> Rules:
    backbone = resnet_of(model)
    basic_block = backbone.depth in (18, 34)
    channels = 128 if basic_block else 512  # a quarter of the backbone's, half of that for aux_head
    head, aux_head = model.head, model.aux_head
    return (
        (backbone.base_channels != 64, "another width (backbone.base_channels)"),
        (backbone.stem == "deep", "a deep stem (backbone.stem)"),
        (backbone.stride_in_1x1, "strides in 1x1 convolutions (backbone.stride_in_1x1)"),
        (backbone.frozen_bn, "frozen batch norm (backbone.frozen_bn)"),
        (
            basic_block and backbone.output_stride != 32,
            "dilated basic blocks (backbone.output_stride, backbone.depth)",
        ),
        (
            not isinstance(head, FCN)
            or (head.num_convs, head.channels, head.kernel_size, head.dilation)
            != (1, channels, 3, 1)
            or head.concat_input,
            f"another head than one 3x3 convolution of {channels} channels (head)",
        ),
        (
            aux_head is not None
            and (aux_head.num_convs, aux_head.channels, aux_head.dilation) != (1, channels // 2, 1),
            f"another auxiliary head than one convolution of {channels // 2} channels (aux_head)",
        ),
    )


_FCN = Model(
    backbone=ResNet(depth=50, output_stride=8),
    head=FCN(num_convs=1, channels=512, dropout_type="element"),
    aux_head=Auxiliary(channels=256, dropout_type="element"),
)

TORCHVISION = Toolkit(
    name="torchvision",
    name_map=_NAME_MAP + _AUX_NAME_MAP,
    fcn=_FCN,
    semantic_fpn=None,
    input=Input(),
    inference=Inference(resize_logits_twice=True),
    unsupported=_unsupported,
)

PYTORCH_AUTO_DRIVE = replace(
    TORCHVISION,
    name="pytorch-auto-drive",
    name_map=_NAME_MAP,
    fcn=_FCN.model_copy(update={"aux_head": None, "align_corners": True}),
    inference=Inference(resize_logits_twice=False),
    unsupported=None,
)
