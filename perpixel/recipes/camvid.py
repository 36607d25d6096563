"""CamVid (Brostow et al., 2009) at 480x360, 11 classes, trained from random weights.

Random weights need this long schedule. On a CPU, or for a first look, `--set train.steps=600`
gives a shorter one of the same shape: warm-up and final phase are fractions of the steps.
"""

from typing import Literal

from perpixel.recipes.models import FCN, Auxiliary, Model, ResNet, SemanticFPN
from perpixel.recipes.schema import (
    Augment,
    Data,
    Evaluate,
    FinalPhase,
    Loss,
    Optimizer,
    Recipe,
    Schedule,
    Train,
)

_SOURCE = "perpixel: CamVid as split and resized for SegNet"


def _resnet(depth: Literal[18, 50], *, output_stride: Literal[8, 32] = 32) -> ResNet:
    return ResNet(depth=depth, output_stride=output_stride, zero_init_residual=True)


_FPN_R18 = Recipe(
    name="camvid/semantic_fpn_r18",
    source=_SOURCE,
    data=Data(name="camvid"),
    model=Model(backbone=_resnet(18), head=SemanticFPN()),
    augment=Augment(crop_size=(256, 336), cat_max_ratio=1.0),
    loss=Loss(label_smoothing=0.05),
    optimizer=Optimizer(lr=0.05, decay_norm_and_bias=False),
    schedule=Schedule(policy="cosine", warmup=0.03, min_lr=0.0),
    train=Train(
        steps=40_000,
        batch_size=16,
        final_phase=FinalPhase(fraction=0.1, crop_size=(360, 480)),
        ema_decay=0.999,
        save_every=500,
    ),
    evaluate=Evaluate(every=1000),
)


def _variant(name: str, model: Model) -> Recipe:
    return _FPN_R18.model_copy(update={"name": f"camvid/{name}", "model": model})


def _fcn(depth: Literal[18, 50], *, channels: int) -> Model:
    return Model(
        backbone=_resnet(depth, output_stride=8),
        head=FCN(num_convs=2, channels=channels, concat_input=True),
        aux_head=Auxiliary(channels=channels // 2),
    )


RECIPES = (
    _FPN_R18,
    _variant("semantic_fpn_r50", Model(backbone=_resnet(50), head=SemanticFPN())),
    _variant("fcn_r18-d8", _fcn(18, channels=128)),
    _variant("fcn_r50-d8", _fcn(50, channels=512)),
)
