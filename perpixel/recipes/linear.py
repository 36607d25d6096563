"""Linear probes of DINOv2 (Oquab et al., 2023, table 10; dinov2/eval/segmentation).

A frozen ViT, a batch norm and a 1x1 classifier on the last block's patches. AdamW for 40,000 steps
of 16 crops of 512, a linear fall of the rate after 1,500 steps of warm-up, which begins at a
millionth of the rate; windows of 512, 341 apart. `linear/NAME` without a data
set is for a folder of one's own, in as many steps as suit its images.

The published files hold a head alone; `zoo fetch` joins it with timm's weights of the backbone.
"""

from typing import NamedTuple

from perpixel.recipes.models import FCN, Model, Timm
from perpixel.recipes.schema import (
    Augment,
    Data,
    Evaluate,
    Inference,
    Loss,
    Optimizer,
    Published,
    Recipe,
    Schedule,
    Train,
)

_SOURCE = "https://github.com/facebookresearch/dinov2"
_FILES = "https://dl.fbaipublicfiles.com/dinov2"


class _Row(NamedTuple):
    name: str
    backbone: str
    data: Data
    miou: float | None = None


_FOLDER = Data(name="folder")
_ADE20K = Data(name="ade20k")
_VOC = Data(name="pascal_voc", train_split="train")
_S, _B = "vit_small_patch14_dinov2", "vit_base_patch14_dinov2"

_ROWS = (
    _Row("dinov2_vits14", _S, _FOLDER),
    _Row("dinov2_vitb14", _B, _FOLDER),
    _Row("dinov2_vits14_ade20k", _S, _ADE20K, 44.3),
    _Row("dinov2_vitb14_ade20k", _B, _ADE20K, 47.3),
    _Row("dinov2_vits14_voc2012", _S, _VOC, 81.1),
    _Row("dinov2_vitb14_voc2012", _B, _VOC, 82.5),
)


def _recipe(row: _Row) -> Recipe:
    own = row.data is _FOLDER
    files = f"{_FILES}/{row.name.rpartition('_')[0]}/{row.name}_linear"
    return Recipe(
        name=f"linear/{row.name}",
        source=f"{_SOURCE}, linear evaluation; Oquab et al. (2023), table 10",
        data=row.data,
        model=Model(
            backbone=Timm(name=row.backbone, final_norm=True, as_published=True),
            head=FCN(num_convs=0, input_norm=True, dropout=0.0),
        ),
        augment=Augment(base_size=(2048, 512), crop_size=(512, 512), crop_attempts=11),
        loss=Loss(avg_non_ignore=own),
        optimizer=Optimizer(name="adamw", lr=1e-3, weight_decay=1e-4),
        schedule=Schedule(power=1.0, warmup=1500 / 40_000, warmup_from=1e-6, min_lr=0.0),
        train=Train(
            steps=40_000,
            epochs="auto" if own else None,
            batch_size=16,
            pretrained="imagenet",
            freeze="backbone",
            precision="auto" if own else "float32",
        ),
        inference=Inference(
            base_size=(2048, 512), mode="slide", window_size=(512, 512), stride=(341, 341)
        ),
        evaluate=Evaluate(fraction=0.1),
        published=Published(
            miou=row.miou,
            config_url=f"{files}_config.py" if row.miou else None,
            weights_url=f"{files}_head.pth" if row.miou else None,
        ),
    )


RECIPES = tuple(_recipe(row) for row in _ROWS)
