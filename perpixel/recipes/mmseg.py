"""mmsegmentation 0.x: the table of configs/fcn/README.md as of v0.11.0, trained in 2020.

Names are those of its configs and checkpoints; "r50b" is torchvision's ResNet with the 7x7 stem,
"r50" the deep stem of open-mmlab's v1c weights. The last iteration's weights were scored. ms+flip
is `perpixel eval NAME --data ROOT --scales 0.5,0.75,1,1.25,1.5,1.75 --flip`. Training was in
float32, and so are the recipes; `--set train.precision=auto` is faster.

Not reproduced: the auxiliary head of the two Pascal Context checkpoints had 19 outputs for 60
classes by a mistake in the configs; recipes have 60, and `zoo fetch` takes the file as it is. Its
logs count 257 epochs for 40,000 iterations, so that training perhaps took 32 images a step; the
config says 16, and so does the recipe. Batches come from one endless stream (docs/decisions.md).
"""

from typing import NamedTuple

from perpixel.recipes.models import FCN, Auxiliary, Model, ResNet
from perpixel.recipes.published import FCN_PAPER, imagenet
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

# backbone, crop, data set, thousands of steps, mIoU, ms+flip, GB, fps, run, sha256 of the weights
_TABLE = """
r50-d8    512x1024  cityscapes       40  72.25  73.36   5.7   4.17  20200604_192608  efe53f0d
r101-d8   512x1024  cityscapes       40  75.45  76.58   9.2   2.66  20200604_181852  a883d3a1
r50-d8    769x769   cityscapes       40  71.47  72.54   6.5   1.80  20200606_113104  977b5d02
r101-d8   769x769   cityscapes       40  73.93  75.14  10.4   1.19  20200606_113208  7d4ab69c
r18-d8    512x1024  cityscapes       80  71.11  72.91   1.7  14.65  20201225_021327  6c50f8b4
r50-d8    512x1024  cityscapes       80  73.61  74.24     -      -  20200606_113019  03aa804d
r101-d8   512x1024  cityscapes       80  75.13  75.94     -      -  20200606_113038  3fb937eb
r18-d8    769x769   cityscapes       80  70.80  73.16   1.9   6.40  20201225_021451  9739d1b8
r50-d8    769x769   cityscapes       80  72.64  73.32     -      -  20200606_195749  f5caeabc
r101-d8   769x769   cityscapes       80  75.52  76.61     -      -  20200606_214354  45cbac68
r18b-d8   512x1024  cityscapes       80  70.24  72.77   1.6  16.74  20201225_230143  92c0f445
r50b-d8   512x1024  cityscapes       80  75.65  77.59   5.6   4.20  20201225_094221  82957416
r101b-d8  512x1024  cityscapes       80  77.37  78.77   9.1   2.73  20201226_160213  4543858f
r18b-d8   769x769   cityscapes       80  69.66  72.07   1.7   6.70  20201226_004430  32d504e5
r50b-d8   769x769   cityscapes       80  73.83  76.60   6.3   1.82  20201225_094223  94552d38
r101b-d8  769x769   cityscapes       80  77.02  78.67  10.3   1.15  20201226_170012  82be37e2
r50-d8    512x512   ade20k           80  35.94  37.94   8.5  23.49  20200614_144016  f8ac5082
r101-d8   512x512   ade20k           80  39.61  40.83    12  14.78  20200615_014143  bc1809f7
r50-d8    512x512   ade20k          160  36.10  38.08     -      -  20200615_100713  4edbc3b4
r101-d8   512x512   ade20k          160  39.91  41.40     -      -  20200615_105816  fd192bd5
r50-d8    512x512   voc12aug         20  67.08  69.94   5.7  23.28  20200617_010715  52dc5306
r101-d8   512x512   voc12aug         20  71.16  73.57   9.2  14.81  20200617_010842  0bb4e798
r50-d8    512x512   voc12aug         40  66.97  69.04     -      -  20200613_161222  5e2dbf40
r101-d8   512x512   voc12aug         40  69.91  72.38     -      -  20200613_161240  4c8bcefd
r101-d8   480x480   pascal_context   40  44.14  45.67     -   9.93  20200911_212515  9b565a6d
r101-d8   480x480   pascal_context   80  44.47  45.74     -      -  20200915_032644  a3828480
"""


_BACKBONES = {
    "r18-d8": ResNet(depth=18, stem="deep", output_stride=8),
    "r50-d8": ResNet(depth=50, stem="deep", output_stride=8),
    "r101-d8": ResNet(depth=101, stem="deep", output_stride=8),
    "r18b-d8": ResNet(depth=18, output_stride=8),
    "r50b-d8": ResNet(depth=50, output_stride=8),
    "r101b-d8": ResNet(depth=101, output_stride=8),
}


class Setting(NamedTuple):
    """The settings shared by the rows of one data set and crop; `stride` None: whole images."""

    data: Data
    batch_size: int
    base_size: tuple[int, int]
    stride: tuple[int, int] | None = None
    align_corners: bool = False
    optimizer: Optimizer = Optimizer(lr=0.01, weight_decay=5e-4)


def _pascal_context(name: str) -> Setting:
    optimizer = Optimizer(lr=0.004, weight_decay=1e-4)
    return Setting(Data(name=name), 16, (520, 520), stride=(320, 320), optimizer=optimizer)


SETTINGS = {
    ("cityscapes", "512x1024"): Setting(Data(name="cityscapes"), 8, (2048, 1024)),
    ("cityscapes", "769x769"): Setting(
        Data(name="cityscapes"), 8, (2049, 1025), stride=(513, 513), align_corners=True
    ),
    ("ade20k", "512x512"): Setting(Data(name="ade20k"), 16, (2048, 512)),
    ("voc12aug", "512x512"): Setting(
        Data(name="pascal_voc", train_split="trainaug"), 16, (2048, 512)
    ),
    ("pascal_context", "480x480"): _pascal_context("pascal_context"),
    ("pascal_context_59", "480x480"): _pascal_context("pascal_context_59"),
}


def _recipe(number: int, line: str) -> Recipe:
    """Makes the recipe of a row; the config's link is its path in mmsegmentation 1.2.2."""
    model, size, dataset, thousands, *figures, run, sha256 = line.split()
    setting, backbone = SETTINGS[dataset, size], _BACKBONES[model]
    height, width = (int(side) for side in size.split("x"))
    miou, ms_flip, gb, fps = (None if figure == "-" else float(figure) for figure in figures)
    resnet18 = backbone.depth == 18
    config = f"fcn_{model}_{size}_{thousands}k_{dataset}"
    files = f"https://download.openmmlab.com/mmsegmentation/v0.5/fcn/{config}/{config}"
    dash = "-" if run > "20200900" else "_"  # before the date, in the logs' names
    return Recipe(
        name=f"mmseg/{config}",
        source=f"mmsegmentation v0.11.0, configs/fcn/README.md (table 001, row {number}); "
        + FCN_PAPER,
        data=setting.data,
        model=Model(
            backbone=backbone,
            head=FCN(num_convs=2, channels=128 if resnet18 else 512, concat_input=True),
            aux_head=Auxiliary(channels=64 if resnet18 else 256),
            align_corners=setting.align_corners,
        ),
        augment=Augment(base_size=setting.base_size, crop_size=(height, width), crop_attempts=11),
        loss=Loss(avg_non_ignore=False),
        optimizer=setting.optimizer,
        schedule=Schedule(min_lr=1e-4, min_lr_at_last_step=False),
        train=Train(
            steps=1000 * int(thousands),
            batch_size=setting.batch_size,
            pretrained=imagenet(backbone),
            precision="float32",
        ),
        inference=Inference(
            base_size=setting.base_size,
            mode="slide" if setting.stride else "whole",
            window_size=(height, width) if setting.stride else None,
            stride=setting.stride,
            resize_logits_twice=True,
            tta_average="probabilities",
        ),
        published=Published(
            miou=miou,
            miou_ms_flip=ms_flip,
            memory_gb=gb,
            fps=fps,
            config_url=f"configs/fcn/fcn_{model}_4xb{setting.batch_size // 4}-"
            f"{thousands}k_{dataset.replace('_', '-')}-{size}.py",
            weights_url=f"{files}_{run}-{sha256}.pth",
            log_url=f"{files}{dash}{run}.log.json",
        ),
    )


RECIPES = tuple(
    _recipe(number, line) for number, line in enumerate(_TABLE.strip().splitlines(), start=1)
)
