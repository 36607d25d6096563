"""CamVid (Brostow et al., 2009) at 480x360, 11 classes, trained from random weights."""

from perpixel.recipes.spec import (
    FCN,
    Augment,
    Auxiliary,
    Data,
    Evaluate,
    Model,
    Optimizer,
    Recipe,
    ResNet,
    SemanticFPN,
    Train,
)

_SOURCE = "perpixel: CamVid as split and resized for SegNet, weights from random initialisation"

_FPN_R18 = Recipe(
    name="camvid/semantic_fpn_r18",
    source=_SOURCE,
    data=Data(name="camvid"),
    model=Model(backbone=ResNet(depth=18), head=SemanticFPN()),
    augment=Augment(photometric=None, max_class_share=1.0),
    optimizer=Optimizer(lr=0.05),
    train=Train(steps=600, images_per_step=8, crop=(360, 480), log_every=10, save_every=100),
    evaluate=Evaluate(every=200),
)

_FCN_R18 = _FPN_R18.model_copy(
    update={
        "name": "camvid/fcn_r18-d8",
        "model": Model(
            backbone=ResNet(depth=18, output_stride=8),
            head=FCN(convs=2, width=128, concat_input=True),
            auxiliary=Auxiliary(width=64),
        ),
    }
)

RECIPES = (_FPN_R18, _FCN_R18)
