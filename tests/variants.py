"""Models of every kind, small enough for tests, and a predictor of any model."""

from perpixel.inference.predictor import Predictor
from perpixel.models.segmenter import Segmenter
from perpixel.recipes.models import FCN, Auxiliary, Model, ResNet, SemanticFPN
from perpixel.recipes.schema import Recipe

VARIANTS = {
    "fcn-r18-d8-deep": Model(
        backbone=ResNet(depth=18, base_channels=8, stem="deep", output_stride=8),
        head=FCN(channels=16, concat_input=True),
        aux_head=Auxiliary(channels=8),
    ),
    "fcn-r34-d16": Model(
        backbone=ResNet(depth=34, base_channels=8, output_stride=16),
        head=FCN(num_convs=1, channels=16, dropout_type="element"),
    ),
    "fcn-r50-d32-1x1": Model(
        backbone=ResNet(depth=50, base_channels=8),
        head=FCN(num_convs=3, channels=16, kernel_size=1, dilation=2),
    ),
    "fcn-r18-linear": Model(backbone=ResNet(depth=18, base_channels=8), head=FCN(num_convs=0)),
    "fpn-r18": Model(
        backbone=ResNet(depth=18, base_channels=8), head=SemanticFPN(fpn_channels=32, channels=32)
    ),
    "fpn-r50-neck-norm": Model(
        backbone=ResNet(depth=50, base_channels=8, stem="deep"),
        head=SemanticFPN(fpn_norm=True, fpn_channels=32, channels=32),
    ),
    "fpn-r50-caffe": Model(
        backbone=ResNet(depth=50, base_channels=8, stride_in_1x1=True, frozen_bn=True),
        head=SemanticFPN(norm="group", fpn_channels=32, channels=32),
    ),
}


def predictor_of(model: Segmenter, recipe: Recipe) -> Predictor:
    """The model itself, with made-up class names and colors."""
    names = tuple(f"class_{index}" for index in range(model.num_classes))
    palette = tuple((index, 0, 0) for index in range(model.num_classes))
    return Predictor(model, recipe, class_names=names, palette=palette)
