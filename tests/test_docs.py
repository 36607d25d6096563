"""The commands and Python of README and docs/ run, shortened, in a folder laid out as they say."""

import ast
import importlib.util
import io
import os
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import cv2
import miniatures
import numpy as np
import pytest
import torch

import perpixel
from perpixel.cli import main
from perpixel.conversion import to_state_dict
from perpixel.conversion.names import to_theirs
from perpixel.conversion.sssegmentation import SSSEGMENTATION
from perpixel.io.images import read_image, write_image
from perpixel.models import resnet

ROOT = Path(__file__).parents[1]
PAGES = sorted(path.name for path in (ROOT / "docs").glob("*.md"))
SHORT = "--set train.steps=2 --set train.batch_size=2 --set augment.crop_size=32x32 --device cpu"
NARROW = "model.backbone.base_channels=8"
TORCHRUN = ["torchrun", "--nproc-per-node", "2", "-m"]


def blocks(language: str, *, page: str = "README.md") -> list[str]:
    path = ROOT / page if page == "README.md" else ROOT / "docs" / page
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), re.S)


@pytest.fixture(scope="module")
def shallow() -> Iterator[None]:
    """Models of one block a stage: what a page says holds for them as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.BLOCKS, 18, (1, 1, 1, 1))
        yield


@pytest.fixture(scope="module")
def place(shallow, mini: Path, tmp_path_factory) -> Path:
    """A folder with README's data sets, all miniature."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(mini, folder / "CamVid")
    shutil.copy(folder / "CamVid/val/00.png", folder / "CamVid/val/0016E5_07959.png")
    miniatures.pascal_voc(folder / "datasets")
    shutil.copytree(mini / "val", folder / "test-images")
    shutil.copytree(mini / "train", folder / "photos/images")
    shutil.copytree(mini / "trainannot", folder / "photos/masks")
    _write_foreign_files(folder)
    _write_special_images(folder)
    return folder


def _write_special_images(folder: Path) -> None:
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
    model = perpixel.build(
        perpixel.override(perpixel.recipe("camvid/fcn_r18-d8"), [NARROW]), num_classes=19
    )
    mmseg = to_state_dict(model, toolkit="mmseg")
    torch.save(
        {"meta": {}, "state_dict": mmseg},
        folder / "fcn_r50-d8_512x1024_40k_cityscapes.pth",
    )
    plain = perpixel.override(
        perpixel.recipe("camvid/fcn_r18-d8"),
        [
            NARROW,
            "model.backbone.stem=deep",
            "model.head.concat_input=false",
        ],
    )
    ours = perpixel.build(plain, num_classes=19).state_dict()
    names = to_theirs(SSSEGMENTATION.rows, ours)
    state = {names[name]: tensor for name, tensor in ours.items()}
    torch.save({"model": state, "epoch": 220}, folder / "fcn_resnet101_os16.pth")
    backbone = model.backbone.state_dict() | {"fc.weight": torch.zeros(10, 64)}
    torch.save(backbone, folder / "resnet18-f37072fd.pth")


def run_python(place: Path, code: str) -> None:
    """In this process, too, as the script mine.py."""
    (place / "mine.py").write_text(code)
    with chdir(place), mock.patch.object(sys, "argv", ["mine.py"]):
        runpy.run_path("mine.py", run_name="__main__")


def run_line(place: Path, line: str, *, fails: bool = False) -> str:
    """What a line prints; with `fails` it is one that ends with 1. Its commands run in this
    process, which has imported torch already; as one rank of one, where two are documented, which
    tests/evaluation/test_ranks_share.py starts."""
    words = shlex.split(line)
    if words[: len(TORCHRUN)] == TORCHRUN:
        del words[: len(TORCHRUN)]
    if words[1] == "train":
        words += [*shlex.split(SHORT), "--set", "model.head.channels=32", "--set", NARROW]
        words += ["--set", "model.head.fpn_channels=32"] if "semantic_fpn" in line else []
    assert words[0] == "perpixel"
    code, printed, said = 0, io.StringIO(), io.StringIO()
    with (
        chdir(place),
        redirect_stdout(printed),
        redirect_stderr(said),
        mock.patch.dict(os.environ, COLUMNS="100"),
        mock.patch.object(sys, "argv", words),
    ):
        try:
            main.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    assert code == fails, f"{line}\n{printed.getvalue()}\n{said.getvalue()}"
    return printed.getvalue()


def lines_of_readme() -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines()]


@pytest.fixture(scope="module")
def after_readme(place: Path) -> Path:
    """The folder as README's commands leave it; the pages of docs/ go on from there."""
    assert len(lines_of_readme()) >= 10
    for line in lines_of_readme():
        run_line(place, line)
    return place


def test_readmes_commands_run(after_readme: Path):
    assert (after_readme / "runs/photos/checkpoints/model.safetensors").exists()
    comp6 = after_readme / "upload/results/VOC2012/Segmentation/comp6_test_cls"
    assert len(list(comp6.glob("*.png"))) == 3
    assert len(list((after_readme / "photo-masks").glob("*_overlay.png"))) == 12


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_and_python_of_docs_run(after_readme: Path, page: str):
    """In their order: lines of sh that are not README's, Python as the file mine.py, and in console
    blocks what begins with a $, fails, and prints what follows it there."""
    done = lines_of_readme()
    text = (ROOT / "docs" / page).read_text()
    for language, block in re.findall(r"```(sh|python|console)\n(.*?)```", text, re.S):
        if language == "sh":
            for line in block.replace(" \\\n", "").splitlines():
                if line not in done:
                    run_line(after_readme, line)
        elif language == "python":
            run_python(after_readme, block)
        elif block.startswith("$ "):
            line, _, shown = block.removeprefix("$ ").partition("\n")
            printed = run_line(after_readme, line, fails=True)
            assert [one.rstrip() for one in printed.splitlines()] == shown.splitlines()


def test_every_file_of_a_run_is_explained(after_readme: Path):
    table = (ROOT / "docs/quick-start.md").read_text().partition("## What is in the run")[2]
    explained = set(re.findall(r"^\| `(\S+)` \|", table.partition("\n## ")[0], re.M))
    folder = after_readme / "runs/photos"
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert left | {".lock"} == explained


def test_the_errors_that_are_explained_are_said():
    table = (ROOT / "docs/own-data.md").read_text().partition("## Errors")[2]
    explained = re.findall(r"^\| `([^`]+)` \|", table, re.M)
    trees = [ast.parse(path.read_text()) for path in (ROOT / "perpixel").rglob("*.py")]
    nodes = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant))
    said = "\n".join(node.value for node in nodes if isinstance(node.value, str))
    assert len(explained) > 5
    assert [text for text in explained if text not in said] == []


def test_the_index_names_every_page_and_notebook():
    linked = re.findall(r"\]\(([^)]+)\)", (ROOT / "docs/index.md").read_text())
    notebooks = [f"notebooks/{path.name}" for path in (ROOT / "docs/notebooks").glob("*.ipynb")]
    assert {*PAGES, *notebooks} - {"index.md"} <= set(linked)


def test_pages_link_to_what_is_there():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_the_reference_is_that_of_the_sources():
    spec = importlib.util.spec_from_file_location("make_api", ROOT / "docs/make_api.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (ROOT / "docs/api.md").read_text()
    assert page == module.page(), "run python docs/make_api.py"
    assert [name for name in perpixel.__all__ if f"### `{name}`" not in page] == []


def test_the_python_runs(place: Path):
    (first,) = blocks("python")
    short = first.replace('"train.steps=1000"', '"train.steps=2", "augment.crop_size=32x32"')
    assert short != first
    run_python(place, short)


def test_the_described_toml_is_valid(tmp_path: Path, mini: Path):
    from perpixel.data.datasets.folder import open_folder

    (text,) = blocks("toml", page="own-data.md")
    (tmp_path / "dataset.toml").write_text(text)
    for split in ("train", "val"):
        shutil.copytree(mini / "train", tmp_path / split / "images")
        shutil.copytree(mini / "trainannot", tmp_path / split / "masks")
    found = open_folder(tmp_path, "val")
    assert (len(found), found.classes.names) == (12, ("road", "car"))
