"""Reads a model's spec from the names (ours) and shapes of its state dict."""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from perpixel.errors import PerpixelError, UsageError
from perpixel.models.resnet import BLOCKS
from perpixel.recipes.base import Spec
from perpixel.recipes.models import (
    FCN,
    VGG16,
    Auxiliary,
    CaffeNet,
    FCNSkip,
    Model,
    ResNet,
    SemanticFPN,
    Timm,
    backbone_name,
)
from perpixel.recipes.overrides import readable

Shapes = Mapping[str, tuple[int, ...]]

_AnySpec = TypeVar("_AnySpec", bound=Spec)


def is_pyramid(shapes: Shapes) -> bool:
    """Returns whether the names are a Semantic FPN's, else an FCN's."""
    return _any(shapes, r"head\.(lateral|output|scales)\..*")


def read_model(shapes: Shapes, example: Model) -> tuple[Model, int]:
    """Returns the nearest model and its number of classes.

    What names and shapes do not tell is taken from `example`, whose head has the same type. The
    most likely value replaces a missing entry: the caller reports missing entries. Raises
    PerpixelError for a value that no model here can have.
    """
    num_classes = _size(shapes, "head.classifier.weight", 0) or _size(
        shapes, "head.classifier.bias", 0
    )
    aux_head = None
    if isinstance(example.head, FCNSkip):
        return _fcn_skip(shapes, example, example.head), num_classes or 1
    if _any(shapes, r"auxiliary\..*"):
        aux_head = _auxiliary(shapes, example, num_classes or 1)
    match example.head:
        case FCN() as fcn:
            head: FCN | SemanticFPN = _fcn(shapes, fcn)
        case SemanticFPN() as semantic_fpn:
            head = _semantic_fpn(shapes, semantic_fpn)
        case _:
            raise AssertionError("an example has the head of a toolkit")
    like = example.backbone
    model = Model(
        backbone=like if isinstance(like, Timm) else _backbone(shapes, resnet_of(example)),
        head=head,
        aux_head=aux_head,
        align_corners=example.align_corners,
    )
    return model, num_classes or 1


def resnet_of(model: Model) -> ResNet:
    """Returns the model's ResNet; raises UsageError for another backbone."""
    if not isinstance(model.backbone, ResNet):
        raise UsageError(
            f"this toolkit's files are of models with a ResNet, and this model's backbone is "
            f"{backbone_name(model.backbone)}"
        )
    return model.backbone


def _backbone(shapes: Shapes, example: ResNet) -> ResNet:
    blocks = [_count(shapes, rf"backbone\.layer{stage}\.(\d+)\..*") for stage in (1, 2, 3, 4)]
    depths = (50, 101) if _any(shapes, r"backbone\.layer.*\.conv3\.weight") else (18, 34)
    nearest = min(
        depths,
        key=lambda depth: sum(abs(a - b) for a, b in zip(BLOCKS[depth], blocks, strict=True)),
    )
    has_counters = _any(shapes, r"backbone\..*\.num_batches_tracked")
    return _updated(
        example,
        {
            "depth": nearest,
            "stem": "deep" if _any(shapes, r"backbone\.stem\..*") else "7x7",
            "frozen_bn": example.frozen_bn and not has_counters,
            "base_channels": _size(shapes, "backbone.layer1.0.conv1.weight", 0)
            or example.base_channels,
        },
    )


def _fcn(shapes: Shapes, example: FCN) -> FCN:
    convs = _count(shapes, r"head\.convs\.(\d+)\..*")
    channels = _size(shapes, "head.convs.0.0.weight", 0)
    if channels is None and convs:
        channels = _size(shapes, "head.classifier.weight", 1)
    return _updated(
        example,
        {
            "num_convs": convs,
            "channels": channels or example.channels,
            "kernel_size": _size(shapes, "head.convs.0.0.weight", 2) or example.kernel_size,
            "concat_input": _any(shapes, r"head\.fuse\..*"),
            "input_norm": _any(shapes, r"head\.norm\..*"),
        },
    )


def _semantic_fpn(shapes: Shapes, example: SemanticFPN) -> SemanticFPN:
    batch_norm = _any(shapes, r"head\.scales\..*\.1\.running_mean")
    return _updated(
        example,
        {
            "fpn_channels": _size(shapes, "head.output.0.weight", 0)
            or _size(shapes, "head.output.0.0.weight", 0)
            or example.fpn_channels,
            "fpn_norm": _any(shapes, r"head\.(lateral|output)\.\d+\.1\..*"),
            "channels": _size(shapes, "head.scales.0.0.0.weight", 0) or example.channels,
            "norm": "batch" if batch_norm else "group",
            "input_norm": _any(shapes, r"head\.norms\..*"),
        },
    )


def _fcn_skip(shapes: Shapes, example: Model, head: FCNSkip) -> Model:
    strides = [stride for stride in (8, 16, 32) if f"head.upsample{stride}.weight" in shapes]
    like = example.backbone
    fc_channels = _size(shapes, "backbone.fc6.weight", 0) or 4096
    if _any(shapes, r"backbone\.conv\d\..*"):
        trunk: VGG16 | CaffeNet = _updated(
            like if isinstance(like, CaffeNet) else CaffeNet(), {"fc_channels": fc_channels}
        )
    else:
        trunk = _updated(
            like if isinstance(like, VGG16) else VGG16(),
            {
                "fc_channels": fc_channels,
                "base_channels": _size(shapes, "backbone.stages.0.0.weight", 0) or 64,
            },
        )
    skips = _count(shapes, r"head\.skips\.(\d+)\..*")
    stride = strides[0] if strides else 32 // 2**skips
    return _updated(example, {"backbone": trunk, "head": _updated(head, {"stride": stride})})


def _auxiliary(shapes: Shapes, example: Model, num_classes: int) -> Auxiliary:
    like = example.aux_head or Auxiliary()
    aux_classes = _size(shapes, "auxiliary.classifier.weight", 0) or num_classes
    return _updated(
        like,
        {
            "num_convs": _count(shapes, r"auxiliary\.convs\.(\d+)\..*"),
            "channels": _size(shapes, "auxiliary.convs.0.0.weight", 0) or like.channels,
            "num_classes": aux_classes if aux_classes != num_classes else None,
        },
    )


def _size(shapes: Shapes, name: str, axis: int) -> int | None:
    """Returns the size of an entry's axis; None where the entry is missing or has fewer axes."""
    shape = shapes.get(name, ())
    return shape[axis] if axis < len(shape) else None


def _count(shapes: Shapes, pattern: str) -> int:
    """Returns one more than the largest index that the pattern's group matches in the names."""
    matches = (re.fullmatch(pattern, name) for name in shapes)
    return max((int(match[1]) for match in matches if match), default=-1) + 1


def _any(shapes: Shapes, pattern: str) -> bool:
    return any(re.fullmatch(pattern, name) for name in shapes)


def _updated(spec: _AnySpec, values: Mapping[str, Any]) -> _AnySpec:
    try:
        return type(spec).model_validate({**spec.model_dump(), **values})
    except ValidationError as error:
        raise PerpixelError(
            f"by its names and shapes this is a model that cannot be built here: {readable(error)}"
        ) from None
