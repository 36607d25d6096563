"""torchvision's FCN, and pytorch-auto-drive's: the same names without an auxiliary head.

Sources: torchvision/models/segmentation/{_utils,fcn}.py; pytorch-auto-drive utils/models/
segmentation/fcn.py and utils/runners/seg_tester.py. What differs is how logits are upsampled:
torchvision to the model's input size with align_corners=False, pytorch-auto-drive to the
image's size with align_corners=True.
"""

from dataclasses import replace

from perpixel.conversion.toolkit import Rules, Toolkit
from perpixel.recipes.models import FCN, Auxiliary, Model, ResNet
from perpixel.recipes.schema import Inference, Input

_ROWS = (
    ("backbone.conv1",                           "backbone.conv1"),
    ("backbone.bn1",                             "backbone.bn1"),
    ("backbone.layer{stage}.{b}.conv{k}",        "backbone.layer{stage}.{b}.conv{k}"),
    ("backbone.layer{stage}.{b}.bn{k}",          "backbone.layer{stage}.{b}.bn{k}"),
    ("backbone.layer{stage}.{b}.downsample.{i}", "backbone.layer{stage}.{b}.downsample.{i}"),
    ("classifier.{3k}",                          "head.convs.{k}.0"),
    ("classifier.{3k+1}",                        "head.convs.{k}.1"),
    ("classifier.{3n+1}",                        "head.classifier"),
)  # fmt: skip

_AUXILIARY_ROWS = (
    ("aux_classifier.{3k}",   "auxiliary.convs.{k}.0"),
    ("aux_classifier.{3k+1}", "auxiliary.convs.{k}.1"),
    ("aux_classifier.{3n+1}", "auxiliary.classifier"),
)  # fmt: skip


def _inexpressible(model: Model, backbone: ResNet) -> Rules:
    basic = backbone.depth in (18, 34)
    width = 128 if basic else 512  # a quarter of the features, the auxiliary head's too
    head, auxiliary = model.head, model.aux_head
    return (
        (backbone.stem == "deep", "a deep stem (backbone.stem)"),
        (backbone.stride_in_1x1, "strides in 1x1 convolutions (backbone.stride_in_1x1)"),
        (backbone.frozen_bn, "batch norm held constant (backbone.frozen_bn)"),
        (
            basic and backbone.output_stride != 32,
            "dilated blocks of two convolutions (backbone.output_stride, backbone.depth)",
        ),
        (
            not isinstance(head, FCN)
            or (head.num_convs, head.channels, head.kernel_size, head.dilation) != (1, width, 3, 1)
            or head.concat_input,
            f"another head than one 3x3 convolution of {width} channels (head)",
        ),
        (
            auxiliary is not None
            and (auxiliary.num_convs, auxiliary.channels, auxiliary.dilation) != (1, width // 2, 1),
            f"another auxiliary head than one convolution of {width // 2} channels (auxiliary)",
        ),
    )


_FCN = Model(
    backbone=ResNet(depth=50, output_stride=8),
    head=FCN(num_convs=1, channels=512, dropout_type="element"),
    aux_head=Auxiliary(channels=256, dropout_type="element"),
)

TORCHVISION = Toolkit(
    name="torchvision",
    rows=_ROWS + _AUXILIARY_ROWS,
    fcn=_FCN,
    semantic_fpn=None,
    input=Input(),
    inference=Inference(resize_logits_twice=True),
    inexpressible=_inexpressible,
)

PYTORCH_AUTO_DRIVE = replace(
    TORCHVISION,
    name="pytorch-auto-drive",
    rows=_ROWS,
    fcn=_FCN.model_copy(update={"aux_head": None, "align_corners": True}),
    inference=Inference(resize_logits_twice=False),
    inexpressible=None,
)
