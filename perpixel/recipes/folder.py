"""Recipes for a user's own images, a folder described by its dataset.toml; and camvid/fast.

They start from the backbone's ImageNet weights, and train for a number of epochs: see Train.epochs.

`folder/fast`, EfficientNet-Lite0 (3 M parameters), is for CPUs and phones, which run its plain
convolutions, without squeeze-and-excitation, well. `folder/balanced`, ConvNeXt Nano (15 M), and
`folder/accurate`, ConvNeXt Small (49 M, for a GPU), were trained on ImageNet-12k before ImageNet;
docs/own-data.md has what each costs. They see images fitted into 640x640, in training and
prediction, so that photos of any camera fit: `augment.base_size=null inference.base_size=null`
keeps the images' own size, as objects of few pixels in aerial or microscope images need. The
recipes on ResNets see the images' own size. `camvid/fast` is `folder/fast` on CamVid, in fewer
steps: its weights are the ones that perpixel ships. `camvid/fcn_mobilenetv2-d8` trains
mmsegmentation's MobileNetV2-D8 FCN like it.
"""

from perpixel.recipes.base import Size
from perpixel.recipes.camvid import RECIPES as _CAMVID
from perpixel.recipes.models import FCN, Auxiliary, Model, SemanticFPN, Timm
from perpixel.recipes.schema import (
    Augment,
    Data,
    Evaluate,
    Inference,
    Input,
    Loss,
    Optimizer,
    Recipe,
    Schedule,
    Train,
)

_SOURCE = "perpixel: a start for one's own images"
_SIZE = 640, 640
_HALF = 127.5, 127.5, 127.5
_BY_NEED = (  # name, backbone, channels of FPN and head, crop size, learning rate, input
    ("fast", "tf_efficientnet_lite0", (128, 64), (288, 384), 1e-3, Input(mean=_HALF, std=_HALF)),
    ("balanced", "convnext_nano.in12k_ft_in1k", (128, 128), (448, 448), 3e-4, Input()),
    ("accurate", "convnext_small.in12k_ft_in1k", (256, 128), (512, 512), 2e-4, Input()),
)


def _by_need(
    name: str, backbone: str, channels: tuple[int, int], crop_size: Size, lr: float, input: Input
) -> Recipe:
    fpn_channels, head_channels = channels
    return Recipe(
        name=f"folder/{name}",
        source=_SOURCE,
        data=Data(name="folder"),
        model=Model(
            backbone=Timm(name=backbone),
            head=SemanticFPN(fpn_channels=fpn_channels, channels=head_channels),
        ),
        input=input,
        augment=Augment(base_size=_SIZE, crop_size=crop_size),
        loss=Loss(dice=0.5),  # rare classes, such as cracks, count as much as common ones
        optimizer=Optimizer(
            name="adamw", lr=lr, weight_decay=0.05, decay_norm_and_bias=False, clip_grad_norm=1.0
        ),
        schedule=Schedule(policy="cosine", warmup=0.05, min_lr=0.0),
        train=Train(epochs="auto", batch_size=8, pretrained="imagenet", ema_decay=0.999),
        inference=Inference(base_size=_SIZE),
        evaluate=Evaluate(fraction=0.1),
    )


def _on_resnet(recipe: Recipe) -> Recipe:
    return recipe.model_copy(
        update={
            "name": recipe.name.replace("camvid/", "folder/"),
            "source": _SOURCE,
            "data": Data(name="folder"),
            "augment": Augment(crop_size=recipe.augment.crop_size),
            "optimizer": recipe.optimizer.model_copy(update={"lr": 0.01}),
            # The final phase's crops have CamVid's size.
            "train": recipe.train.model_copy(
                update={"final_phase": None, "epochs": "auto", "pretrained": "imagenet"}
            ),
            "evaluate": Evaluate(fraction=0.1),
        }
    )


def _on_camvid(recipe: Recipe) -> Recipe:
    return recipe.model_copy(
        update={
            "name": recipe.name.replace("folder/", "camvid/"),
            "source": "perpixel, for two CPU cores",
            "data": Data(name="camvid"),
            "train": recipe.train.model_copy(update={"epochs": None, "steps": 1000}),
        }
    )


_FAST, *_LARGER = (_by_need(*row) for row in _BY_NEED)
_CAMVID_FAST = _on_camvid(_FAST)
_CAMVID_MOBILENETV2 = _CAMVID_FAST.model_copy(
    update={
        "name": "camvid/fcn_mobilenetv2-d8",
        "model": Model(
            backbone=Timm(name="mobilenetv2_100", output_stride=8, as_published=True),
            head=FCN(concat_input=True),
            aux_head=Auxiliary(),
        ),
        "input": Input(),
    }
)
RECIPES = (
    _FAST,
    *_LARGER,
    *map(_on_resnet, _CAMVID),
    _CAMVID_FAST,
    _CAMVID_MOBILENETV2,
)
