"""Recipes for the built-in pictures: small enough for a first run on any machine."""

from perpixel.recipes.network import FCN, Model, ResNet, SemanticFPN
from perpixel.recipes.spec import Augment, Data, Evaluate, Optimizer, Recipe, Train

_SOURCE = "perpixel: pictures drawn by perpixel.data.scenes, weights from random initialisation"

_FPN = Recipe(
    name="scenes/semantic_fpn_r18",
    source=_SOURCE,
    data=Data(name="scenes"),
    model=Model(backbone=ResNet(depth=18), head=SemanticFPN()),
    augment=Augment(scale=(0.75, 1.5)),
    optimizer=Optimizer(lr=0.05),
    train=Train(steps=500, images_per_step=8, crop=(96, 128), log_every=10, save_every=100),
    evaluate=Evaluate(every=100),
)

_FCN = _FPN.model_copy(
    update={
        "name": "scenes/fcn_r18-d8",
        "model": Model(backbone=ResNet(depth=18, output_stride=8), head=FCN(convs=1, width=128)),
    }
)

RECIPES = (_FPN, _FCN)
