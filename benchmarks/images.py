"""Files like VOC's and Cityscapes', made of CamVid's images, to time decoding with.

VOC's are JPEG files of 500x375 with palette masks, Cityscapes' PNG files of 2048x1024, resized up
and with a camera's noise, so that they take about as many bytes as the originals (2.3 MB).
"""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from perpixel.data.dataset import PairDataset
from perpixel.data.datasets.cityscapes import LABEL_IDS
from perpixel.data.datasets.pascal_voc import CLASSES as VOC
from perpixel.data.registry import open_pairs
from perpixel.errors import PerpixelError
from perpixel.io.images import Array, palette_table, write_image
from perpixel.recipes.schema import IGNORE_INDEX

_CITYSCAPES = (10, 2, 5, 0, 1, 8, 7, 4, 13, 11, 18)
"""The Cityscapes class that each of CamVid's 11 is most like."""


def camvid_at(root: Path) -> PairDataset:
    """CamVid's training images; without them the benchmark ends with a line that says so."""
    try:
        return open_pairs("camvid", root, "train")
    except PerpixelError as error:
        raise SystemExit(f"--camvid: {error}") from None


def voc_like(camvid: Path, root: Path, *, count: int) -> Path:
    """The root of so many images in VOC's layout, written unless they are there."""
    voc = root / "VOC2012"
    listing = voc / "ImageSets/Segmentation/train.txt"
    if not listing.exists():
        for name, image, label in _enlarged(camvid, (375, 500), count):
            write_image(voc / f"JPEGImages/{name}.jpg", image)
            mask = Image.fromarray(label)
            mask.putpalette(palette_table(VOC.palette).tobytes())
            (voc / "SegmentationClass").mkdir(exist_ok=True)
            mask.save(voc / f"SegmentationClass/{name}.png")
        listing.parent.mkdir(parents=True)
        listing.write_text("".join(f"{index:04}\n" for index in range(count)))
    return root


def cityscapes_like(camvid: Path, root: Path, *, count: int) -> Path:
    """The same in Cityscapes' layout, with labelIds for perpixel, labelTrainIds for others."""
    images, masks = root / "leftImg8bit/train/town", root / "gtFine/train/town"
    if not masks.exists():
        own = np.full(256, IGNORE_INDEX, np.uint8)
        own[: len(_CITYSCAPES)] = _CITYSCAPES
        raw = np.zeros(256, np.uint8)
        raw[: len(LABEL_IDS)] = LABEL_IDS
        for name, image, label in _enlarged(camvid, (1024, 2048), count):
            noise = np.random.default_rng(int(name)).normal(0, 0.7, image.shape)
            noisy = np.clip(image + noise, 0, 255).astype(np.uint8)
            write_image(images / f"{name}_leftImg8bit.png", noisy)
            write_image(masks / f"{name}_gtFine_labelTrainIds.png", own[label])
            write_image(masks / f"{name}_gtFine_labelIds.png", raw[own[label]])
    return root


def _enlarged(
    camvid: Path, size: tuple[int, int], count: int
) -> Iterator[tuple[str, Array, Array]]:
    """Images from all over CamVid, cut to the shape of `size` and brought to it."""
    opened = camvid_at(camvid)
    for number in range(count):
        index = number * len(opened) // count
        image, label = opened.image(index), opened.label(index)
        rows = min(label.shape[0], label.shape[1] * size[0] // size[1])
        wide = size[1], size[0]
        yield (
            f"{number:04}",
            np.asarray(cv2.resize(image[:rows], wide, interpolation=cv2.INTER_CUBIC), np.uint8),
            np.asarray(cv2.resize(label[:rows], wide, interpolation=cv2.INTER_NEAREST), np.uint8),
        )
