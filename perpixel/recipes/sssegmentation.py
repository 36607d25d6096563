"""sssegmentation: its tables of FCN (trained in November and December 2020) and Semantic FPN.

The scored weights are the last epoch's. Epochs became iterations by PyTorch's DistributedSampler
with the last partial batch dropped; 2, 4 and 8 GPUs give as many. Two runs of one recipe
differed by 0.7 to 0.9 mIoU (VOC, output stride 8). Training was in float32, and so are the
recipes; `--set train.precision=auto` is faster.

Not reproduced: heads started from PyTorch's default initialization (here as `models/build.py`
says); batches come from one endless stream and are never dropped (docs/decisions.md); the loss was
the average of the GPUs' own means, in which a GPU with fewer labeled pixels counted as much.
"""

from typing import Literal, NamedTuple

from perpixel.recipes.models import FCN, Auxiliary, Model, ResNet, SemanticFPN
from perpixel.recipes.published import (
    FCN_PAPER,
    IMAGES,
    SEMANTIC_FPN_PAPER,
    imagenet,
    steps,
)
from perpixel.recipes.schema import (
    Augment,
    Data,
    Inference,
    Loss,
    Optimizer,
    Published,
    Recipe,
    Schedule,
    Train,
)

_CONFIGS = "https://raw.githubusercontent.com/SegmentationBLWX/sssegmentation/main/ssseg/configs"
_FILES = "https://github.com/SegmentationBLWX/modelstore/releases/download"


class _Setting(NamedTuple):
    """The settings shared by the rows of one data set."""

    data: Data
    epochs: int
    batch_size: int
    crop: tuple[int, int]
    base_size: tuple[int, int]


SETTINGS = {
    "voc": _Setting(
        Data(name="pascal_voc", train_split="trainaug"), 60, 16, (512, 512), (2048, 512)
    ),
    "ade20k": _Setting(Data(name="ade20k"), 130, 16, (512, 512), (2048, 512)),
    "cityscapes": _Setting(Data(name="cityscapes"), 220, 8, (512, 1024), (2048, 1024)),
}

_MIOU = {  # by the tables' columns, as in SETTINGS
    "fcn_resnet50os8": (67.80, 36.96, 75.16),
    "fcn_resnet50os16": (66.58, 36.50, 73.94),
    "fcn_resnet101os8": (70.59, 41.22, 76.31),
    "fcn_resnet101os16": (69.39, 40.15, 75.36),
    "semanticfpn_resnet50": (70.88, 38.16, 76.09),
    "semanticfpn_resnet101": (72.51, 39.85, 76.39),
}


def _fcn(depth: Literal[50, 101], output_stride: Literal[8, 16]) -> Model:
    return Model(
        backbone=ResNet(depth=depth, stem="deep", output_stride=output_stride),
        head=FCN(num_convs=2, channels=512),
        aux_head=Auxiliary(channels=512),
    )


def _semantic_fpn(depth: Literal[50, 101]) -> Model:
    return Model(
        backbone=ResNet(depth=depth, stem="deep", output_stride=32),
        head=SemanticFPN(fpn_norm=True),
    )


_MODELS = {
    "fcn_resnet50os8": _fcn(50, 8),
    "fcn_resnet50os16": _fcn(50, 16),
    "fcn_resnet101os8": _fcn(101, 8),
    "fcn_resnet101os16": _fcn(101, 16),
    "semanticfpn_resnet50": _semantic_fpn(50),
    "semanticfpn_resnet101": _semantic_fpn(101),
}


def _recipe(config_name: str, dataset: str) -> Recipe:
    setting, model = SETTINGS[dataset], _MODELS[config_name]
    column = list(SETTINGS).index(dataset)
    method = config_name.partition("_")[0]
    names = [name for name in _MODELS if name.startswith(method)]
    row = column * len(names) + names.index(config_name) + 1
    table, paper = ("000", FCN_PAPER) if method == "fcn" else ("004", SEMANTIC_FPN_PAPER)
    config = f"{config_name}_{dataset}"
    files = f"{_FILES}/ssseg_{method}/{config}_train"
    return Recipe(
        name=f"sssegmentation/{config}",
        source=f"sssegmentation, docs of 2022 to 2023 (table {table}, row {row}); {paper}",
        data=setting.data,
        model=model,
        augment=Augment(
            base_size=setting.base_size, crop_size=setting.crop, crop_attempts=10, pad="center"
        ),
        loss=Loss(avg_non_ignore=True),
        optimizer=Optimizer(lr=0.01, weight_decay=5e-4),
        schedule=Schedule(min_lr=1e-4, min_lr_at_last_step=False),
        train=Train(
            steps=steps(
                epochs=setting.epochs,
                images=IMAGES[setting.data.name],
                batch_size=setting.batch_size,
                ranks=4,
                drop_last=True,
            ),
            batch_size=setting.batch_size,
            pretrained=imagenet(model.backbone),
            precision="float32",
        ),
        inference=Inference(base_size=setting.base_size, tta_average="logits"),
        published=Published(
            miou=_MIOU[config_name][column],
            config_url=f"{_CONFIGS}/{method}/{config}.py",
            weights_url=f"{files}.pth",
            log_url=f"{files}.log",
        ),
    )


RECIPES = tuple(_recipe(config_name, dataset) for dataset in SETTINGS for config_name in _MODELS)
