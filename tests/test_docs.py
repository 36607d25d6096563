"""README's commands and Python run, shortened to a few steps, in a folder laid out as it says."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import miniatures
import numpy as np
import pytest
import torch

import perpixel
from perpixel.conversion import to_state_dict
from perpixel.conversion.names import to_theirs
from perpixel.conversion.sssegmentation import SSSEGMENTATION
from perpixel.images import read_image, write_image

ROOT = Path(__file__).parents[1]
PAGES = sorted(path.name for path in (ROOT / "docs").glob("*.md"))
SHORT = "--set train.steps=2 --set train.images_per_step=2 --set train.crop=32x32 --device cpu"


def blocks(language: str, *, page: str = "README.md") -> list[str]:
    path = ROOT / page if page == "README.md" else ROOT / "docs" / page
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), re.S)


@pytest.fixture(scope="module")
def place(mini: Path, tmp_path_factory) -> Path:
    """A folder with README's data sets, all miniature."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(mini, folder / "CamVid")
    shutil.copy(folder / "CamVid/val/00.png", folder / "CamVid/val/0016E5_07959.png")
    miniatures.pascal_voc(folder / "datasets")
    shutil.copytree(mini / "val", folder / "test-pictures")
    shutil.copytree(mini / "train", folder / "photos/images")
    shutil.copytree(mini / "trainannot", folder / "photos/masks")
    _write_foreign_files(folder)
    _write_special_pictures(folder)
    return folder


def _write_special_pictures(folder: Path) -> None:
    """What docs/evaluation.md predicts."""
    shutil.copytree(folder / "CamVid/val", folder / "street")
    image = read_image(folder / "CamVid/val/00.png")
    write_image(folder / "photo.jpg", image)
    write_image(folder / "ortho.tif", np.tile(image, (2, 2, 1)))
    size = image.shape[1], image.shape[0]
    video = cv2.VideoWriter(str(folder / "drive.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 5, size)
    for _ in range(3):
        video.write(image)
    video.release()


def _write_foreign_files(folder: Path) -> None:
    """Small stand-ins, in the toolkits' layouts, for the checkpoints that README converts."""
    network = perpixel.build(perpixel.recipe("camvid/fcn_r18-d8"), classes=19)
    mmseg = to_state_dict(network, toolkit="mmseg")
    torch.save(
        {"meta": {}, "state_dict": mmseg},
        folder / "fcn_r50-d8_512x1024_40k_cityscapes.pth",
    )
    plain = perpixel.override(
        perpixel.recipe("camvid/fcn_r18-d8"),
        ["model.backbone.stem=deep", "model.head.concat_input=false"],
    )
    ours = perpixel.build(plain, classes=19).state_dict()
    names = to_theirs(SSSEGMENTATION.rows, ours)
    state = {names[name]: tensor for name, tensor in ours.items()}
    torch.save({"model": state, "epoch": 220}, folder / "fcn_resnet101_os16.pth")
    backbone = network.backbone.state_dict() | {"fc.weight": torch.zeros(10, 512)}
    torch.save(backbone, folder / "resnet18-f37072fd.pth")


def run(place: Path, *command: str) -> None:
    done = subprocess.run(command, cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"


def run_commands(place: Path, page: str) -> int:
    lines = [line for block in blocks("sh", page=page) for line in block.splitlines()]
    for line in lines:
        words = shlex.split(line)
        if words[1] == "train":
            words += shlex.split(SHORT)
        if words[0] == "torchrun":
            run(place, sys.executable, "-m", "torch.distributed.run", *words[1:])
        else:
            assert words[0] == "perpixel"
            run(place, sys.executable, "-m", *words)
    return len(lines)


@pytest.fixture(scope="module")
def after_readme(place: Path) -> Path:
    """The folder as README's commands leave it; the pages of docs/ go on from there."""
    assert run_commands(place, "README.md") >= 10
    return place


def test_readmes_commands_run(after_readme: Path):
    assert (after_readme / "runs/photos/checkpoints/model.safetensors").exists()
    comp6 = after_readme / "upload/results/VOC2012/Segmentation/comp6_test_cls"
    assert len(list(comp6.glob("*.png"))) == 3
    assert len(list((after_readme / "photo-masks").glob("*_overlay.png"))) == 12


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_and_python_of_docs_run(after_readme: Path, page: str):
    run_commands(after_readme, page)
    for code in blocks("python", page=page):
        run(after_readme, sys.executable, "-c", code)


def test_the_python_runs(place: Path):
    first, mine = blocks("python")
    short = first.replace('"train.steps=1000"', '"train.steps=2", "train.crop=32x32"')
    assert short != first
    run(place, sys.executable, "-c", short)
    (place / "mine.py").write_text(mine)
    run(
        place, sys.executable, "-m", "perpixel", "train", "mine.py:name",
        "--out", "runs/mine", "--dry-run",
    )  # fmt: skip


def test_the_described_toml_is_valid(tmp_path: Path, mini: Path):
    from perpixel.data.folder import open_folder

    (text,) = blocks("toml")
    (tmp_path / "dataset.toml").write_text(text)
    for split in ("train", "val"):
        shutil.copytree(mini / "train", tmp_path / split / "images")
        shutil.copytree(mini / "trainannot", tmp_path / split / "masks")
    found = open_folder(tmp_path, "val")
    assert (len(found), found.classes.names) == (12, ("road", "car"))
