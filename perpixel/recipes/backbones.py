"""Published results on backbones of timm: mmsegmentation's, and the families' own repositories.

FCN on HRNet, MobileNetV2-D8 and ResNeSt-101-D8 (mmsegmentation 0.x, tables of configs/hrnet,
mobilenet_v2 and resnest); Semantic FPN on Twins-PCPVT and PoolFormer (mmsegmentation,
configs/twins and poolformer), PVTv2 (whai362/PVTv2-Seg), RepViT (THU-MIG/RepViT) and XCiT
(facebookresearch/xcit), all on ADE20K in crops of 512. ms+flip is as in recipes/mmseg.py.

PoolFormer, PVTv2 and RepViT are tested on images stretched to multiples of 32
(`inference.resize_to_multiple`); mmsegmentation has PoolFormer's figures without it, too: 36.68,
40.12, 41.61, 41.95, 42.43. Twins' rate is constant, as the floor of its schedule is its rate.
PoolFormer's stem is frozen, and RepViT's batch norms keep their statistics, as in their code.

Not reproduced: where the source starts from a file of its own (open-mmlab's HRNet, MobileNetV2 and
ResNeSt), recipes start from timm's for the same backbone. LoveDA, Potsdam, Vaihingen and iSAID are
no data sets here. XCiT's drop path is equal in all
blocks; timm's is, too, in its XCiT.
"""

from typing import NamedTuple

from perpixel.recipes.mmseg import SETTINGS
from perpixel.recipes.models import FCN, Auxiliary, Model, SemanticFPN, Timm
from perpixel.recipes.published import FCN_PAPER, SEMANTIC_FPN_PAPER
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

_OPENMMLAB = "https://download.openmmlab.com/mmsegmentation/v0.5"

# backbone, crop, data set, thousands of steps, mIoU, ms+flip, GB, run, sha256 of the weights
_FCN_TABLE = """
hr18s    512x1024  cityscapes           40  73.86  75.91   1.7  20200601_014216  93db27d0
hr18     512x1024  cityscapes           40  77.19  78.92   2.9  20200601_014216  f196fb4e
hr48     512x1024  cityscapes           40  78.48  79.69   6.2  20200601_014240  a989b146
hr18s    512x1024  cityscapes           80  75.31  77.48     -  20200601_202700  1462b75d
hr18     512x1024  cityscapes           80  78.65  80.35     -  20200601_223255  4e7b345e
hr48     512x1024  cityscapes           80  79.93  80.72     -  20200601_202606  58ea95d6
hr18s    512x1024  cityscapes          160  76.31  78.31     -  20200602_190901  4a0797ea
hr18     512x1024  cityscapes          160  78.80  80.74     -  20200602_190822  221e4a4f
hr48     512x1024  cityscapes          160  80.65  81.92     -  20200602_190946  59b7973e
hr18s    512x512   ade20k               80  31.38  32.45   3.8  20200614_144345  77fc814a
hr18     512x512   ade20k               80  36.27  37.28   4.9  20210827_114910  6c9382c0
hr48     512x512   ade20k               80  41.90  43.27   8.2  20200614_193946  7ba5258d
hr18s    512x512   ade20k              160  33.07  34.56     -  20210829_174739  f1e7c2e7
hr18     512x512   ade20k              160  36.79  38.58     -  20200614_214426  ca961836
hr48     512x512   ade20k              160  42.02  43.86     -  20200614_214407  a52fc02c
hr18s    512x512   voc12aug             20  65.50  68.89   1.8  20210829_174910  0aceadb4
hr18     512x512   voc12aug             20  72.30  74.71   2.9  20200617_224503  488d45f7
hr48     512x512   voc12aug             20  75.87  78.58   6.2  20200617_224419  89de05cd
hr18s    512x512   voc12aug             40  66.61   70.0     -  20200614_000648  4f8d6e7f
hr18     512x512   voc12aug             40  72.90  75.59     -  20200613_224401  1b4b76cd
hr48     512x512   voc12aug             40  76.24  78.49     -  20200613_222111  1b0f18bc
hr48     480x480   pascal_context       40  45.14  47.42   6.1  20200911_164852  667d00b0
hr48     480x480   pascal_context       80  45.84  47.84     -  20200911_155322  847a6711
hr48     480x480   pascal_context_59    40  50.33  52.83     -  20210410_122738  b808b8b2
hr48     480x480   pascal_context_59    80  51.12  53.56     -  20210411_003240  3ae7081e
m-v2-d8  512x1024  cityscapes           80  71.19  73.34   3.4  20230224_185436  13fef4ea
m-v2-d8  512x512   ade20k              160  19.71      -   6.5  20200825_214953  c40e1095
s101-d8  512x1024  cityscapes           80  77.56  78.98  11.4  20200807_140631  f8d155b3
s101-d8  512x512   ade20k              160  45.62  46.16  14.2  20200807_145416  d3160329
"""


class _Trunk(NamedTuple):
    folder: str
    config: str
    backbone: Timm
    head: FCN
    aux_head: Auxiliary | None = None


def _hrnet(name: str, config: str, channels: int) -> _Trunk:
    head = FCN(num_convs=1, kernel_size=1, channels=channels, inputs="all", dropout=0.0)
    return _Trunk("hrnet", config, Timm(name=name, as_published=True), head)


def _dilated(folder: str, config: str, name: str) -> _Trunk:
    backbone = Timm(name=name, output_stride=8, as_published=True)
    return _Trunk(folder, config, backbone, FCN(concat_input=True), Auxiliary())


_TRUNKS = {
    "hr18s": _hrnet("hrnet_w18_small_v2.ms_in1k", "fcn_hr18s", 270),
    "hr18": _hrnet("hrnet_w18.ms_aug_in1k", "fcn_hr18", 270),
    "hr48": _hrnet("hrnet_w48.ms_in1k", "fcn_hr48", 720),
    "m-v2-d8": _dilated("mobilenet_v2", "mobilenet-v2-d8_fcn", "mobilenetv2_100"),
    "s101-d8": _dilated("resnest", "resnest_s101-d8_fcn", "resnest101e.in1k"),
}


def _fcn_recipe(line: str) -> Recipe:
    model, size, dataset, thousands, *figures, run, sha256 = line.split()
    setting, trunk = SETTINGS[dataset, size], _TRUNKS[model]
    height, width = (int(side) for side in size.split("x"))
    miou, ms_flip, gb = (None if figure == "-" else float(figure) for figure in figures)
    name = f"fcn_{model}_{size}_{thousands}k_{dataset}"
    config = (
        f"{trunk.config}_4xb{setting.batch_size // 4}-{thousands}k_"
        f"{dataset.replace('_', '-')}-{size}"
    )
    files = f"{_OPENMMLAB}/{trunk.folder}/{name}/{name}"
    dash = "_" if trunk.folder == "hrnet" and "pascal" not in dataset else "-"
    weights, log = f"{files}_{run}-{sha256}.pth", f"{files}{dash}{run}.log.json"
    if run == "20230224_185436":  # trained with mmsegmentation 1.x, under its names
        files = f"{_OPENMMLAB}/{trunk.folder}/{config}/{config}"
        weights, log = f"{files}-{run}-{sha256}.pth", f"{files}_{run}.json"
    return Recipe(
        name=f"mmseg/{name}",
        source=f"mmsegmentation, configs/{trunk.folder}/README.md ({config}); {FCN_PAPER}",
        data=setting.data,
        model=Model(backbone=trunk.backbone, head=trunk.head, aux_head=trunk.aux_head),
        augment=Augment(base_size=setting.base_size, crop_size=(height, width), crop_attempts=11),
        loss=Loss(avg_non_ignore=False),
        optimizer=setting.optimizer,
        schedule=Schedule(min_lr=1e-4),
        train=Train(
            steps=1000 * int(thousands),
            batch_size=setting.batch_size,
            pretrained="imagenet",
            precision="float32",
        ),
        inference=Inference(
            base_size=setting.base_size,
            mode="slide" if setting.stride else "whole",
            window_size=(height, width) if setting.stride else None,
            stride=setting.stride,
            resize_logits_twice=True,
        ),
        published=Published(
            miou=miou,
            miou_ms_flip=ms_flip,
            memory_gb=gb,
            config_url=f"configs/{trunk.folder}/{config}.py",
            weights_url=weights,
            log_url=log,
        ),
    )


class _Family(NamedTuple):
    """What the Semantic FPN recipes of one repository have in common."""

    source: str
    optimizer: Optimizer
    schedule: Schedule
    train: Train
    stretched: bool = True


_ADAMW = Optimizer(name="adamw", lr=2e-4, weight_decay=1e-4)
_TRAIN = Train(steps=40_000, batch_size=32, pretrained="imagenet", precision="float32")
_TWINS = _Family(
    "mmsegmentation, configs/twins/README.md",
    _ADAMW.model_copy(update={"lr": 1e-4}),
    Schedule(min_lr=1e-4),
    _TRAIN.model_copy(update={"steps": 80_000}),
    stretched=False,
)
_POOLFORMER = _Family(
    "mmsegmentation, configs/poolformer/README.md",
    _ADAMW,
    Schedule(min_lr=0.0),
    _TRAIN.model_copy(update={"precision": "float16", "freeze": "stem"}),
)
_PVTV2 = _Family("PVTv2-Seg, README.md", _ADAMW, Schedule(min_lr=0.0), _TRAIN)
_REPVIT = _Family(
    "RepViT, segmentation/README.md",
    _ADAMW,
    Schedule(min_lr=1e-6),
    _TRAIN.model_copy(update={"norm_eval": True}),
)
_XCIT = _Family(
    "XCiT, semantic_segmentation/README.md",
    Optimizer(name="adamw", lr=6e-5, weight_decay=0.01, no_decay=("norm",)),
    Schedule(power=1.0, warmup=1500 / 80_000, warmup_from=1e-6, min_lr=0.0),
    _TRAIN.model_copy(update={"steps": 80_000, "batch_size": 16}),
    stretched=False,
)


def _fpn_recipe(
    name: str, family: _Family, backbone: Timm, published: Published, head: SemanticFPN
) -> Recipe:
    return Recipe(
        name=name,
        source=f"{family.source}; {SEMANTIC_FPN_PAPER}",
        data=Data(name="ade20k"),
        model=Model(backbone=backbone, head=head),
        augment=Augment(base_size=(2048, 512), crop_size=(512, 512), crop_attempts=11),
        loss=Loss(avg_non_ignore=False),
        optimizer=family.optimizer,
        schedule=family.schedule,
        train=family.train,
        inference=Inference(
            base_size=(2048, 512),
            resize_to_multiple=32 if family.stretched else 1,
            resize_logits_twice=True,
        ),
        published=published,
    )


def _twins(
    size: str, name: str, miou: float, ms_flip: float, gb: float, fps: float, run: str
) -> Recipe:
    config = f"twins_pcpvt-{size}_fpn_fpnhead_8x4_512x512_80k_ade20k"
    files = f"{_OPENMMLAB}/twins/{config}/{config}"
    published = Published(
        miou=miou,
        miou_ms_flip=ms_flip,
        memory_gb=gb,
        fps=fps,
        config_url=f"configs/twins/twins_pcpvt-{size}_fpn_fpnhead_8xb4-80k_ade20k-512x512.py",
        weights_url=f"{files}_{run}.pth",
        log_url=f"{files}_{run.partition('-')[0]}.log.json",
    )
    backbone = Timm(name=f"twins_pcpvt_{name}.in1k", as_published=True, drop_path=0.2)
    return _fpn_recipe(f"mmseg/{config}", _TWINS, backbone, published, SemanticFPN())


def _poolformer(size: str, miou: float, gb: float, fps: float, run: str) -> Recipe:
    config = f"fpn_poolformer_{size}_8x4_512x512_40k_ade20k"
    files = f"{_OPENMMLAB}/poolformer/{config}/{config}"
    published = Published(
        miou=miou,
        memory_gb=gb,
        fps=fps,
        config_url=f"configs/poolformer/fpn_poolformer_{size}_8xb4-40k_ade20k-512x512.py",
        weights_url=f"{files}_{run}.pth",
        log_url=f"{files}_{run.partition('-')[0]}.log.json",
    )
    backbone, head = Timm(name=f"poolformer_{size}.sail_in1k"), SemanticFPN(input_norm=True)
    return _fpn_recipe(f"mmseg/{config}", _POOLFORMER, backbone, published, head)


def _pvtv2(size: str, miou: float) -> Recipe:
    config = f"fpn_pvtv2_{size}_ade20k_40k"
    published = Published(miou=miou, config_url=f"configs/sem_fpn/PVTv2/{config}.py")
    backbone = Timm(name=f"pvt_v2_{size}.in1k", drop_path=0.1)
    return _fpn_recipe(f"pvtv2/{config}", _PVTV2, backbone, published, SemanticFPN())


def _repvit(size: str, tag: str, miou: float) -> Recipe:
    config = f"fpn_repvit_{size}_ade20k_40k"
    published = Published(
        miou=miou,
        config_url=f"segmentation/configs/sem_fpn/{config}.py",
        weights_url="https://github.com/THU-MIG/RepViT/releases/download/v1.0/"
        f"repvit_{size}_ade20k.pth",
        log_url=f"segmentation/logs/repvit_{size}_ade20k.json",
    )
    backbone = Timm(name=f"repvit_{size}.{tag}", as_published=True)
    return _fpn_recipe(f"repvit/{config}", _REPVIT, backbone, published, SemanticFPN())


def _xcit(size: str, channels: int, drop_path: float, miou: float) -> Recipe:
    name = f"sem_fpn_xcit_{size}"
    published = Published(
        miou=miou,
        config_url=f"semantic_segmentation/configs/xcit/sem_fpn/{name}_80k_ade20k.py",
        weights_url=f"https://dl.fbaipublicfiles.com/xcit/ade/{name}.pth",
    )
    backbone = Timm(name=f"xcit_{size}_384.fb_dist_in1k", as_published=True, drop_path=drop_path)
    head = SemanticFPN(fpn_channels=channels)
    return _fpn_recipe(f"xcit/{name}_80k_ade20k", _XCIT, backbone, published, head)


RECIPES = (
    *map(_fcn_recipe, _FCN_TABLE.strip().splitlines()),
    _twins("s", "small", 43.26, 44.11, 6.6, 27.15, "20211201_204132-41acd132"),
    _twins("b", "base", 45.66, 46.48, 8.41, 19.67, "20211130_141019-d396db72"),
    _twins("l", "large", 45.94, 46.7, 10.78, 14.32, "20211201_105226-bc6d61dc"),
    _poolformer("s12", 37.07, 4.17, 23.48, "20220501_115154-b5aa2f49"),
    _poolformer("s24", 40.36, 5.47, 15.74, "20220503_222049-394a7cf7"),
    _poolformer("s36", 41.81, 6.77, 11.34, "20220501_151122-b47e607d"),
    _poolformer("m36", 42.35, 8.59, 8.97, "20220501_164230-3dc83921"),
    _poolformer("m48", 42.76, 10.48, 6.69, "20220504_003923-64168d3b"),
    _pvtv2("b0", 37.2),
    _pvtv2("b1", 42.5),
    _pvtv2("b2", 45.2),
    _pvtv2("b3", 47.3),
    _pvtv2("b4", 47.9),
    _pvtv2("b5", 48.7),
    _repvit("m1_1", "dist_300e_in1k", 40.6),
    _repvit("m1_5", "dist_300e_in1k", 43.6),
    _repvit("m2_3", "dist_450e_in1k", 46.1),
    _xcit("tiny_12_p16", 192, 0.0, 38.1),
    _xcit("tiny_12_p8", 192, 0.0, 39.9),
    _xcit("small_12_p16", 384, 0.05, 43.9),
    _xcit("small_12_p8", 384, 0.05, 44.2),
    _xcit("small_24_p16", 384, 0.1, 44.6),
    _xcit("small_24_p8", 384, 0.1, 47.1),
    _xcit("medium_24_p16", 512, 0.2, 45.9),
    _xcit("medium_24_p8", 512, 0.2, 46.9),
)
