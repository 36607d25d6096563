"""Shared by the recipes of published results: ImageNet files, data set sizes, epochs to steps."""

import math
import re

from perpixel.errors import UsageError
from perpixel.recipes.models import VGG16, Backbone, CaffeNet, ResNet, backbone_name
from perpixel.recipes.schema import Download

_OPEN_MMLAB = "https://download.openmmlab.com/pretrain/third_party"
_PYTORCH = "https://download.pytorch.org/models"
_IMAGENET = {
    ("deep", 18): f"{_OPEN_MMLAB}/resnet18_v1c-b5776b93.pth",
    ("deep", 50): f"{_OPEN_MMLAB}/resnet50_v1c-2cccc1ad.pth",
    ("deep", 101): f"{_OPEN_MMLAB}/resnet101_v1c-e67eebb6.pth",
    ("7x7", 18): f"{_PYTORCH}/resnet18-f37072fd.pth",
    ("7x7", 34): f"{_PYTORCH}/resnet34-b627a593.pth",
    ("7x7", 50): f"{_PYTORCH}/resnet50-0676ba61.pth",
    ("7x7", 101): f"{_PYTORCH}/resnet101-63fe2227.pth",
}

_CAFFE = {
    "VGG-16": "https://www.robots.ox.ac.uk/~vgg/software/very_deep/caffe/"
    "VGG_ILSVRC_16_layers.caffemodel",
    "CaffeNet": "http://dl.caffe.berkeleyvision.org/bvlc_reference_caffenet.caffemodel",
}

IMAGES = {"pascal_voc": 10_582, "ade20k": 20_210, "cityscapes": 2_975}
"""Numbers of training images; of Pascal VOC those of "trainaug"."""

FCN_PAPER = "FCN (Long et al., 2015)"
SEMANTIC_FPN_PAPER = "Semantic FPN (Kirillov et al., 2019)"


def steps(*, epochs: int, images: int, batch_size: int, ranks: int = 1, drop_last: bool) -> int:
    """Returns the number of optimization steps in `epochs`.

    Every rank gets as many images, rounded up (PyTorch's DistributedSampler), in batches of
    batch_size / ranks; `drop_last` leaves out an epoch's last smaller batch.
    """
    images_per_rank, batch = math.ceil(images / ranks), batch_size // ranks
    return epochs * (images_per_rank // batch if drop_last else math.ceil(images_per_rank / batch))


def imagenet(backbone: Backbone) -> Download:
    """Returns the ImageNet weights of open-mmlab (deep stem) or torchvision (7x7 stem).

    Raises UsageError where there are none.
    """
    if isinstance(backbone, VGG16 | CaffeNet):
        name = "CaffeNet" if isinstance(backbone, CaffeNet) else "VGG-16"
        raise UsageError(
            f"Caffe's {name} has no published sha256, so that it is not downloaded: get "
            f"{_CAFFE[name]}"
        )
    if not isinstance(backbone, ResNet) or (backbone.stem, backbone.depth) not in _IMAGENET:
        raise UsageError(
            f"{backbone_name(backbone)}: no ImageNet weights are known for this backbone; name a "
            f"file of its weights with --init FILE"
        )
    return download(_IMAGENET[backbone.stem, backbone.depth])


def download(url: str) -> Download:
    """Makes a Download of a file whose name ends in digits of its sha256, as PyTorch's do."""
    sha256 = hash_in_name(url)
    assert sha256 is not None
    return Download(url=url, sha256=sha256)


def hash_in_name(url: str) -> str | None:
    """Returns the digits of the sha256 in a name such as resnet18-f37072fd.pth, None without."""
    match = re.search(r"-([0-9a-f]{8})\.pth$", url)
    return None if match is None else match[1]
