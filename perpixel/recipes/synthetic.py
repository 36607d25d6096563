"""Recipes for the built-in images: small enough for a first run on any machine."""

from perpixel.recipes.models import FCN, Model, ResNet, SemanticFPN
from perpixel.recipes.schema import Augment, Data, Evaluate, Optimizer, Recipe, Train

_SOURCE = "perpixel: images drawn by data/datasets/synthetic.py, random initial weights"

_FPN = Recipe(
    name="scenes/semantic_fpn_r18",
    source=_SOURCE,
    data=Data(name="scenes"),
    model=Model(backbone=ResNet(depth=18), head=SemanticFPN()),
    augment=Augment(scale_range=(0.75, 1.5), crop_size=(96, 128)),
    optimizer=Optimizer(lr=0.05),
    train=Train(steps=500, batch_size=8, log_every=10, save_every=100),
    evaluate=Evaluate(every=100),
)

_FCN = _FPN.model_copy(
    update={
        "name": "scenes/fcn_r18-d8",
        "model": Model(
            backbone=ResNet(depth=18, output_stride=8), head=FCN(num_convs=1, channels=128)
        ),
    }
)

RECIPES = (_FPN, _FCN)
