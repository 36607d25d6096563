"""The original FCN in Caffe (Long et al., 2015; Shelhamer et al., 2017), as released in 2016.

Whole images, one a step, blue, green and red less the mean of the data set; the loss is a sum over
pixels, the rate constant, momentum 0.99. FCN-16s starts from FCN-32s and FCN-8s from FCN-16s
(`--init RUN`); FCN-32s, FCN-8s at once and FCN-AlexNet from Caffe's VGG-16 or CaffeNet, whose
files have no published hash: the error of a training without `--init` says where they are.

Not reproduced: images were drawn with replacement, and here epoch after epoch. VOC 2012's masks
stand for VOC 2011's. In FCN-AlexNet only the score layer's bias had twice the rate and no decay.
SIFT Flow's models had a second, geometric head, which is left out (their
scores in that release are off, as its README says). Of NYUDv2's models only the one of color images
is here. FCN-AlexNet's loss is divided by the labeled pixels of all 20 images, there by each image's
own. Which snapshot was scored is not documented.
"""

from typing import NamedTuple

from perpixel.recipes.models import VGG16, CaffeNet, FCNSkip, Model
from perpixel.recipes.schema import (
    Augment,
    Data,
    Evaluate,
    Input,
    Loss,
    Optimizer,
    Published,
    Recipe,
    Schedule,
    Train,
)

_SOURCE = "https://github.com/shelhamer/fcn.berkeleyvision.org"
_FILES = "http://dl.caffe.berkeleyvision.org"

_FCN32S = Model(backbone=VGG16(), head=FCNSkip(stride=32))
_FCN16S = Model(backbone=VGG16(), head=FCNSkip(stride=16))
_FCN8S = Model(backbone=VGG16(), head=FCNSkip(stride=8))
_ATONCE = Model(backbone=VGG16(), head=FCNSkip(stride=8, skip_scales=(0.01, 0.0001)))
_ALEXNET = Model(backbone=CaffeNet(), head=FCNSkip(stride=32))


class _Setting(NamedTuple):
    """The settings shared by the rows of one data set; the mean is of blue, green and red."""

    data: Data
    mean: tuple[float, float, float]
    evaluate_every: int


_VOC = _Setting(
    Data(name="pascal_voc", train_split="sbd_train", eval_split="seg11valid"),
    (104.00698793, 116.66876762, 122.67891434),
    4000,
)
_CONTEXT = _Setting(Data(name="pascal_context_fcn"), (104.007, 116.669, 122.679), 8000)
_SIFTFLOW = _Setting(
    Data(name="siftflow", train_split="trainval", eval_split="test"),
    (114.578, 115.294, 108.353),
    2000,
)
_NYUD = _Setting(
    Data(name="nyudv2", train_split="trainval", eval_split="test"), (116.19, 97.203, 92.318), 2000
)


class _Row(NamedTuple):
    name: str
    setting: _Setting
    model: Model
    lr: float
    steps: int
    file: str
    miou: float | None = None
    sha1: str | None = None


_ROWS = (
    _Row("voc-fcn32s", _VOC, _FCN32S, 1e-10, 100_000, "fcn32s-heavy-pascal", 63.6),
    _Row("voc-fcn16s", _VOC, _FCN16S, 1e-12, 100_000, "fcn16s-heavy-pascal", 65.0),
    _Row("voc-fcn8s", _VOC, _FCN8S, 1e-14, 100_000, "fcn8s-heavy-pascal", 65.5,
         "c449ea74dd7d83751d1357d6a8c323fcf4038962"),
    _Row("voc-fcn8s-atonce", _VOC, _ATONCE, 1e-10, 300_000, "fcn8s-atonce-pascal", 65.4),
    _Row("voc-fcn-alexnet", _VOC, _ALEXNET, 1e-4, 100_000, "fcn-alexnet-pascal", 48.0),
    _Row("pascalcontext-fcn32s", _CONTEXT, _FCN32S, 1e-10, 400_000, "pascalcontext-fcn32s-heavy"),
    _Row("pascalcontext-fcn16s", _CONTEXT, _FCN16S, 1e-12, 400_000, "pascalcontext-fcn16s-heavy"),
    _Row("pascalcontext-fcn8s", _CONTEXT, _FCN8S, 1e-14, 400_000, "pascalcontext-fcn8s-heavy"),
    _Row("siftflow-fcn32s", _SIFTFLOW, _FCN32S, 1e-10, 100_000, "siftflow-fcn32s-heavy"),
    _Row("siftflow-fcn16s", _SIFTFLOW, _FCN16S, 1e-12, 100_000, "siftflow-fcn16s-heavy"),
    _Row("siftflow-fcn8s", _SIFTFLOW, _FCN8S, 1e-12, 100_000, "siftflow-fcn8s-heavy"),
    _Row("nyud-fcn32s-color", _NYUD, _FCN32S, 1e-10, 100_000, "nyud-fcn32s-color-heavy"),
)  # fmt: skip


def _recipe(row: _Row) -> Recipe:
    alexnet = row.model is _ALEXNET
    return Recipe(
        name=f"caffe-fcn/{row.name}",
        source=f"{_SOURCE}, {row.name}; FCN (Long et al., 2015)",
        data=row.setting.data,
        model=row.model,
        input=Input(mean=row.setting.mean, std=(1.0, 1.0, 1.0), channel_order="bgr"),
        augment=Augment(
            scale_range=(1.0, 1.0),
            crop_size=None,
            cat_max_ratio=1.0,
            flip_prob=0.0,
            photometric=None,
        ),
        loss=Loss(reduction="mean" if alexnet else "sum"),
        optimizer=Optimizer(
            lr=row.lr,
            momentum=0.9 if alexnet else 0.99,
            weight_decay=5e-4,
            decay_norm_and_bias=False,
            bias_lr_mult=2.0,
        ),
        schedule=Schedule(power=0.0, min_lr=0.0),
        train=Train(
            steps=row.steps,
            batch_size=20 if alexnet else 1,
            grad_accum_steps=20 if alexnet else 1,
            pretrained=None if row.model in (_FCN16S, _FCN8S) else "imagenet",
            precision="float32",
        ),
        evaluate=Evaluate(every=row.setting.evaluate_every),
        published=Published(
            miou=row.miou,
            config_url=f"{_SOURCE}/tree/master/{row.name}",
            weights_url=f"{_FILES}/{row.file}.caffemodel",
            weights_sha1=row.sha1,
        ),
    )


RECIPES = tuple(_recipe(row) for row in _ROWS)
