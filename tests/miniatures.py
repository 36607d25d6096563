"""Miniature data sets, four to six images each, laid out exactly as their owners ship them."""

import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image
from scipy.io import savemat

from perpixel.data.datasets.pascal_voc import CLASSES as VOC
from perpixel.io.images import palette_table, write_image

SIZE = (48, 64)


def image(path: Path, seed: int) -> None:
    write_image(path, np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8))


def values(ids: Iterable[int], seed: int) -> np.ndarray:
    """A mask in which every one of `ids` is to be found, in an order of its own for each seed."""
    ids = list(ids)
    order = np.random.default_rng(seed).permutation(np.resize(ids, max(len(ids), 16)))
    return np.resize(np.repeat(order, 4), SIZE)


def gray(path: Path, mask: np.ndarray, dtype: type = np.uint8) -> None:
    write_image(path, mask.astype(dtype))


def voc_mask(path: Path, seed: int) -> None:
    """A palette PNG with the void outline, as VOC's are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = Image.fromarray(values([*range(21), 255], seed).astype(np.uint8))
    file.putpalette(palette_table(VOC.palette).tobytes())
    file.save(path)


def listing(path: Path, names: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


VOC_TRAIN = ("2007_000032", "2007_000039", "2007_000063")
VOC_VAL = ("2007_000033", "2007_000042")
SBD_TRAIN = ("2008_000002", "2007_000032", "2007_000042")
SBD_VAL = ("2008_000003", "2007_000033")


def pascal_voc(root: Path) -> None:
    voc = root / "VOCdevkit/VOC2012"
    lists = {"train": VOC_TRAIN, "val": VOC_VAL, "test": ("2008_000006",)}
    lists["trainval"] = tuple(sorted(VOC_TRAIN + VOC_VAL))
    for split, names in lists.items():
        listing(voc / f"ImageSets/Segmentation/{split}.txt", names)
    for seed, name in enumerate(sorted({*lists["trainval"], *SBD_TRAIN, *SBD_VAL, "2008_000006"})):
        image(voc / f"JPEGImages/{name}.jpg", seed)
        if name in lists["trainval"]:
            voc_mask(voc / f"SegmentationClass/{name}.png", seed)
    sbd(root / "benchmark_RELEASE/dataset")


def sbd(folder: Path) -> None:
    listing(folder / "train.txt", SBD_TRAIN)
    listing(folder / "val.txt", SBD_VAL)
    (folder / "cls").mkdir()
    for seed, name in enumerate({*SBD_TRAIN, *SBD_VAL}):
        mask = values(range(21), seed).astype(np.uint8)
        boundaries = np.empty((20, 1), object)
        boundaries[:] = [[np.zeros((2, 2), np.uint8)]] * 20
        content = {
            "Boundaries": boundaries,
            "Segmentation": mask,
            "CategoriesPresent": np.arange(1, 21, dtype=np.uint8),
        }
        savemat(folder / f"cls/{name}.mat", {"GTcls": content}, do_compression=True)


def ade20k(root: Path) -> None:
    for split, count in (("training", 4), ("validation", 2)):
        for index in range(count):
            name = f"ADE_{split.removesuffix('ing').removesuffix('idation')}_{index + 1:08}"
            image(root / f"ADEChallengeData2016/images/{split}/{name}.jpg", index)
            mask = values(range(151), index)
            gray(root / f"ADEChallengeData2016/annotations/{split}/{name}.png", mask)
    (root / "ADEChallengeData2016/sceneCategories.txt").write_text("ADE_train_00000001 airport\n")


def cityscapes(root: Path) -> None:
    for split, city, count in (("train", "aachen", 4), ("val", "lindau", 2), ("test", "bonn", 1)):
        for index in range(count):
            name = f"{city}_{index:06}_000019"
            image(root / f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png", index)
            mask = values(range(34), index)
            for kind in ("labelIds", "instanceIds"):
                dtype = np.uint8 if kind == "labelIds" else np.uint16
                gray(root / f"gtFine/{split}/{city}/{name}_gtFine_{kind}.png", mask, dtype)
            (root / f"gtFine/{split}/{city}/{name}_gtFine_polygons.json").write_text("{}")


CONTEXT = {"train": ("2008_000002", "2008_000003", "2008_000007"), "val": ("2008_000009",)}


def pascal_context(root: Path) -> None:
    """VOC 2010 and the owners' release: .mat files with the 459 ids, as 16 bits."""
    voc = root / "VOCdevkit/VOC2010"
    (root / "trainval").mkdir(parents=True)
    for split, names in CONTEXT.items():
        listing(voc / f"ImageSets/Main/{split}.txt", names)
        for seed, name in enumerate(names):
            image(voc / f"JPEGImages/{name}.jpg", seed)
            mask = values(range(1, 460), seed).astype(np.uint16)
            savemat(root / f"trainval/{name}.mat", {"LabelMap": mask}, do_compression=True)


def prepared_context(root: Path) -> None:
    """VOC 2010 with mmsegmentation's masks and lists."""
    voc = root / "VOCdevkit/VOC2010"
    for split, names in CONTEXT.items():
        listing(voc / f"ImageSets/SegmentationContext/{split}.txt", names)
        for seed, name in enumerate(names):
            image(voc / f"JPEGImages/{name}.jpg", seed)
            gray(voc / f"SegmentationClassContext/{name}.png", values(range(60), seed))


CAMVID_NAMES = {
    "train": ("0001TP_006690", "0006R0_f00930", "0016E5_00901", "0016E5_08640"),
    "val": ("0016E5_07959",),
    "test": ("0001TP_008550", "Seq05VD_f00000"),
}


def camvid_release(root: Path) -> None:
    """The owners' two folders: images, and masks in the colors of 32 classes."""
    from perpixel.data.datasets.camvid import _RELEASE_MAPPING

    colors = np.array(sorted(_RELEASE_MAPPING.colors), np.uint8)
    for seed, name in enumerate(name for names in CAMVID_NAMES.values() for name in names):
        image(root / f"701_StillsRaw_full/{name}.png", seed)
        mask = colors[values(range(len(colors)), seed)]
        write_image(root / f"LabeledApproved_full/{name}_L.png", mask)


def siftflow(root: Path) -> None:
    """Tighe and Lazebnik's archive: three images to train, one without labels, the 200 of test."""
    from perpixel.data.datasets.siftflow import _SCENES, _TEST

    labels = root / "SemanticLabels" / _SCENES
    labels.mkdir(parents=True)
    names = ("tallbuilding_a812069", "forest_for121", "street_bost64", "highway_bost181")
    for seed, name in enumerate((*names, *_TEST.read_text().split())):
        image(root / "Images" / _SCENES / f"{name}.jpg", seed)
        mask = values([0] if name == names[3] else range(34), seed).astype(np.uint8)
        savemat(labels / f"{name}.mat", {"S": mask, "names": np.array(["awning"], object)})


def nyudv2(root: Path) -> None:
    """nyud.tar.gz, with three images and masks under 1,449 numbers."""
    folder = root / "nyud"
    for kind in ("data/images", "segmentation"):
        (folder / kind).mkdir(parents=True)
    for seed in range(3):
        image(root / f"{seed}.png", seed)
        savemat(root / f"{seed}.mat", {"segmentation": values(range(41), seed).astype(np.uint16)})
    for index in range(1449):
        number = 5001 + index
        (folder / f"data/images/img_{number}.png").hardlink_to(root / f"{index % 3}.png")
        (folder / f"segmentation/img_{number}.mat").hardlink_to(root / f"{index % 3}.mat")


MINIATURES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "pascal_voc": ("pascal_voc", pascal_voc),
    "ade20k": ("ade20k", ade20k),
    "cityscapes": ("cityscapes", cityscapes),
    "pascal_context": ("pascal_context", pascal_context),
    "pascal_context prepared": ("pascal_context", prepared_context),
    "pascal_context_59": ("pascal_context_59", pascal_context),
    "pascal_context_fcn": ("pascal_context_fcn", pascal_context),
    "camvid release": ("camvid", camvid_release),
    "siftflow": ("siftflow", siftflow),
    "nyudv2": ("nyudv2", nyudv2),
}
"""A data set's name and what writes its miniature, by a title."""


def write_bands(path: Path, pixels: np.ndarray, *, planes: bool = False, **options: Any) -> None:
    """A TIFF of `pixels`, [height, width, bands], which nothing marks as colors."""
    stored, config = (np.moveaxis(pixels, 2, 0), "separate") if planes else (pixels, "contig")
    options = {"photometric": "minisblack", "planarconfig": config, "metadata": None, **options}
    tifffile.imwrite(path, stored, **options)


def packed(root: Path, folder: str, archive: Path, *, inside: str = "") -> None:
    """ROOT/folder as a .tar, .tgz, .tar.gz or .zip file, under the name `inside`."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    inside = inside or folder
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as file:
            for path in sorted((root / folder).rglob("*")):
                file.write(path, f"{inside}/{path.relative_to(root / folder)}")
    else:
        with tarfile.open(archive, "w" if archive.suffix == ".tar" else "w:gz") as file:
            file.add(root / folder, inside)
