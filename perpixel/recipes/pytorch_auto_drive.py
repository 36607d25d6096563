"""pytorch-auto-drive: its table of FCN, torchvision's model trained on one GPU.

The printed mIoU is the best of three runs, and of each run's evaluations every 1000 steps, as that
of `perpixel eval RUN` is. The mean of three is 70.72 (mixed precision, VOC), 70.91 (float32, VOC)
and 68.05 (Cityscapes). On Cityscapes images and labels are halved first, in training and in
testing, and scores count halved labels; its printed resolution of 321x321 is a slip for 256x512.

Mixed precision is float16, as there; `--set train.precision=auto` is bfloat16 where the device has
it. Not reproduced: images are resized as 8-bit values here, there as floating-point numbers with
sides rounded down; a crop is padded there before it is flipped, here after. Its VOC scores are of
SegmentationClassAug's masks.

The last three rows of table 003 profile the Cityscapes model: one image, float32, the mean of
300 passes after 10, best of three. Upsampling the logits is in the time and not in the count.
"""

from typing import Literal, NamedTuple

from perpixel.recipes.models import FCN, Model, ResNet
from perpixel.recipes.published import FCN_PAPER, IMAGES, download, steps
from perpixel.recipes.schema import (
    Augment,
    Data,
    Evaluate,
    Inference,
    Loss,
    Optimizer,
    Published,
    PublishedProfile,
    Recipe,
    Schedule,
    Train,
)

_VOC = Data(name="pascal_voc", train_split="trainaug")
_CITYSCAPES = Data(name="cityscapes", resize=(512, 1024))
_CONFIG = "configs/semantic_segmentation/fcn"
_DRIVE = "https://drive.google.com/file/d"


class _Row(NamedTuple):
    name: str
    config: str
    data: Data
    epochs: int
    lr: float
    crop: tuple[int, int]
    padded_to: tuple[int, int] | None
    precision: Literal["float16", "float32"]
    miou: float
    drive_id: str


# fmt: off
_ROWS = (
    _Row("fcn_resnet101_pascalvoc_321x321", "resnet101_pascalvoc_321x321", _VOC, 30, 0.002,
         (321, 321), (505, 505), "float16", 70.83, "1SIIpApBdL0wXanlLeLWBSJJmX3AYLBnf"),
    _Row("fcn_resnet101_pascalvoc_321x321_fp32", "resnet101_pascalvoc_321x321", _VOC, 30, 0.002,
         (321, 321), (505, 505), "float32", 71.55, "1ZunsGFjXxSIwR8Blckyk-Ils6IdhSqV1"),
    _Row("fcn_resnet101_cityscapes_256x512", "resnet101_cityscapes_256x512", _CITYSCAPES, 60, 0.004,
         (256, 512), None, "float16", 68.20, "1zT-lBElfkD1Sratu4WYiTCRU9PF16lLj"),
)
# fmt: on

_PROFILES = tuple(
    PublishedProfile(size=size, machine="RTX 2080 Ti", fps=fps, gflops=gflops, mparams=51.95)
    for size, fps, gflops in (
        ((256, 512), 43.32, 216.42),
        ((512, 1024), 12.06, 865.69),
        ((1024, 2048), 3.06, 3462.77),
    )
)


def _recipe(number: int, row: _Row) -> Recipe:
    return Recipe(
        name=f"pytorch-auto-drive/{row.name}",
        source=f"pytorch-auto-drive, {_CONFIG}/README.md (table 003, row {number}); {FCN_PAPER}",
        data=row.data,
        model=Model(
            backbone=ResNet(depth=101, output_stride=8),
            head=FCN(num_convs=1, channels=512, dropout_type="element"),
            align_corners=True,
        ),
        augment=Augment(
            scale_range=(0.5, 1.5),
            crop_size=row.crop,
            cat_max_ratio=1.0,
            photometric=None,
            pad="bottom-right",
            pad_value="black",
        ),
        loss=Loss(avg_non_ignore=True),
        optimizer=Optimizer(lr=row.lr, weight_decay=5e-4),
        schedule=Schedule(min_lr=0.0),
        train=Train(
            steps=steps(
                epochs=row.epochs,
                images=IMAGES[row.data.name],
                batch_size=8,
                drop_last=False,
            ),
            batch_size=8,
            pretrained=download("https://download.pytorch.org/models/resnet101-5d3b4d8f.pth"),
            precision=row.precision,
        ),
        inference=Inference(pad_to=row.padded_to),
        evaluate=Evaluate(every=1000),
        published=Published(
            miou=row.miou,
            config_url=f"{_CONFIG}/{row.config}.py",
            weights_url=f"{_DRIVE}/{row.drive_id}/view?usp=sharing",
            profiles=_PROFILES if row.data is _CITYSCAPES else (),
        ),
    )


RECIPES = tuple(_recipe(number, row) for number, row in enumerate(_ROWS, start=1))
