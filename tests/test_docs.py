"""The commands and Python of README and docs/ run, shortened, in a folder laid out as they say."""

import ast
import importlib.util
import io
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
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
from perpixel.checkpoints import zoo
from perpixel.checkpoints.format import InitialWeights
from perpixel.cli import main
from perpixel.conversion import to_state_dict
from perpixel.conversion.names import to_toolkit_names
from perpixel.conversion.sssegmentation import SSSEGMENTATION
from perpixel.io.images import read_image, write_image
from perpixel.models import resnet
from perpixel.recipes.schema import Recipe

ROOT = Path(__file__).parents[1]
PAGES = sorted(path.name for path in (ROOT / "docs").glob("*.md"))
FIRST = ("README.md", "quick-start.md", "training.md")
"""Read, and run, before the others, which use their runs."""
LEFT = {"datasets.md": {"upload/results/VOC2012/Segmentation/comp6_test_cls/*.png": 3}}
"""What pages leave behind: how many files fit a pattern."""
SHORT = "--set train.steps=2 --set train.batch_size=2 --set augment.crop_size=32x32 --device cpu"
NARROW = "model.backbone.base_channels=8"
TORCHRUN = ["torchrun", "--nproc-per-node", "2", "-m"]


def text_of(page: str) -> str:
    return (ROOT / page if page == "README.md" else ROOT / "docs" / page).read_text()


def blocks(language: str, *, page: str = "README.md") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text_of(page), re.S)


@pytest.fixture(scope="module")
def shallow() -> Iterator[None]:
    """Models of one block a stage, and random numbers for the weights that a recipe downloads:
    what a page says holds for them as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.BLOCKS, 18, (1, 1, 1, 1))
        patch.setattr(zoo, "_imagenet_weights", _random_weights)
        yield


def _random_weights(recipe: Recipe) -> InitialWeights:
    state = perpixel.build(recipe, num_classes=2).state_dict()
    backbone = {name: state[name] for name in state if name.startswith("backbone.")}
    return InitialWeights(backbone, "random numbers")


@pytest.fixture(scope="module")
def place(shallow, mini: Path, tmp_path_factory) -> Path:
    """A folder with the pages' data sets, all miniature, and the weights that README uses."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(mini, folder / "CamVid")
    shutil.copy(folder / "CamVid/val/00.png", folder / "CamVid/val/0016E5_07959.png")
    miniatures.pascal_voc(folder / "datasets")
    shutil.copytree(mini / "val", folder / "test-images")
    shutil.copytree(mini / "train", folder / "photos/images")
    shutil.copytree(mini / "trainannot", folder / "photos/masks")
    (folder / "docs").symlink_to(ROOT / "docs")
    _write_foreign_files(folder)
    _write_special_images(folder)
    return folder


def _write_special_images(folder: Path) -> None:
    """What README and docs/evaluation.md predict."""
    shutil.copytree(folder / "CamVid/val", folder / "street")
    image = read_image(folder / "CamVid/val/00.png")
    write_image(folder / "photo.jpg", image)
    write_image(folder / "street.jpg", image)
    write_image(folder / "ortho.tif", np.tile(image, (2, 2, 1)))
    size = image.shape[1], image.shape[0]
    video = cv2.VideoWriter(str(folder / "drive.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 5, size)
    for _ in range(3):
        video.write(image)
    video.release()


def _write_foreign_files(folder: Path) -> None:
    """Small stand-ins, in the toolkits' layouts, for what docs/coming-from.md converts."""
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
    names = to_toolkit_names(SSSEGMENTATION.name_map, ours)
    state = {names[name]: tensor for name, tensor in ours.items()}
    torch.save({"model": state, "epoch": 220}, folder / "fcn_resnet101_os16.pth")
    backbone = model.backbone.state_dict() | {"fc.weight": torch.zeros(10, 64)}
    torch.save(backbone, folder / "resnet18-f37072fd.pth")


def run_python(place: Path, code: str) -> None:
    """In this process, too, as the script mine.py; a training in it takes few steps."""
    short = code.replace('"train.steps=1000"', '"train.steps=2", "augment.crop_size=32x32"')
    assert short != code or "perpixel.train(" not in code
    (place / "mine.py").write_text(short)
    with chdir(place), mock.patch.object(sys, "argv", ["mine.py"]):
        runpy.run_path("mine.py", run_name="__main__")


def run_line(place: Path, line: str, *, fails: bool = False) -> str:
    """What a line prints; with `fails` it is one that ends with 1. Its commands run in this
    process, which has imported torch already; as one rank of one, where two are documented, which
    tests/evaluation/test_ranks_share.py starts. The weights of the repository are as wide as they
    are: a process of its own takes them."""
    words = shlex.split(line)
    if words[:3] == ["perpixel", "predict", "camvid/fast"]:
        command = [sys.executable, "-m", *words, "--device", "cpu"]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
        assert done.returncode == fails, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout
    if words[: len(TORCHRUN)] == TORCHRUN:
        del words[: len(TORCHRUN)]
    if words[1] == "train":
        by_need = "folder/fast" in words
        words += [*shlex.split(SHORT), "--set", "model.head.channels=32"]
        words += ["--set", "model.backbone.name=test_efficientnet" if by_need else NARROW]
        words += (
            ["--set", "model.head.fpn_channels=32"] if by_need or "semantic_fpn" in line else []
        )
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


def lines_of(page: str) -> list[str]:
    text = "".join(blocks("sh", page=page))
    return text.replace(" \\\n", "").splitlines()


def run_page(place: Path, page: str, done: set[str]) -> None:
    """Runs a page's blocks in their order: lines of sh that are not `done` yet, Python as the file
    mine.py, and in console blocks what begins with a $, fails, and prints what follows it there."""
    found = re.findall(r"```(sh|python|console)\n(.*?)```", text_of(page), re.S)
    for language, block in found:
        if language == "sh":
            for line in block.replace(" \\\n", "").splitlines():
                if line not in done:
                    run_line(place, line)
                    done.add(line)
        elif language == "python":
            run_python(place, block)
        elif block.startswith("$ "):
            line, _, shown = block.removeprefix("$ ").partition("\n")
            printed = run_line(place, line, fails=True)
            assert [one.rstrip() for one in printed.splitlines()] == shown.splitlines()
    for pattern, count in LEFT.get(page, {}).items():
        assert len(list(place.glob(pattern))) == count, pattern


@pytest.fixture(scope="module")
def after_first(place: Path) -> tuple[Path, frozenset[str]]:
    """The folder as the first pages leave it, and the lines that were run; the others go on from
    there."""
    done: set[str] = set()
    for page in FIRST:
        run_page(place, page, done)
    return place, frozenset(done)


def test_readmes_commands_and_python_run(after_first):
    place, done = after_first
    assert set(lines_of("README.md")) <= done
    assert len(lines_of("README.md")) >= 5
    assert len(blocks("python")) == 1
    assert read_image(place / "predictions/street_overlay.png").shape[1] == 640
    assert (place / "runs/photos/checkpoints/model.safetensors").exists()
    assert len(list((place / "photo-masks").glob("*_overlay.png"))) == 12
    assert (place / "mask.png").exists()


def test_the_pages_show_many_commands():
    assert len({line for page in ["README.md", *PAGES] for line in lines_of(page)}) >= 56


@pytest.mark.parametrize("page", [page for page in PAGES if page not in FIRST])
def test_the_commands_and_python_of_docs_run(after_first, page: str):
    place, done = after_first
    run_page(place, page, set(done))


def test_every_file_of_a_run_is_explained(after_first):
    table = (ROOT / "docs/quick-start.md").read_text().partition("## What is in the run")[2]
    explained = set(re.findall(r"^\| `(\S+)` \|", table.partition("\n## ")[0], re.M))
    folder = after_first[0] / "runs/photos"
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
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    assert {"README.md", "CONTRIBUTING.md", "index.md"} <= {page.name for page in pages}
    for page in pages:
        for link, heading in re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", page.read_text()):
            target = page.parent / link if link else page
            assert target.exists(), f"{page.name} links to {link}"
            if heading:
                assert heading in headings(target), f"{page.name} links to {link}#{heading}"


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub and mkdocs make them."""
    found = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in found}


def test_the_site_has_every_page():
    listed = set(re.findall(r"([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M))
    docs = ROOT / "docs"
    assert {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")} <= listed


def test_the_reference_is_that_of_the_sources():
    spec = importlib.util.spec_from_file_location("make_api", ROOT / "docs/make_api.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = {path.name: path.read_text() for path in (ROOT / "docs/api").iterdir()}
    assert written == module.pages(), "run python docs/make_api.py"
    text = "".join(written.values())
    assert [name for name in perpixel.__all__ if f"### `{name}`" not in text] == []
    index = written.pop("index.md")
    assert [name for name in written if f"]({name})" not in index] == []


def test_versions_agree():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    changes = re.findall(r"^## (\d\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert changes[0] == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_described_toml_is_valid(tmp_path: Path, mini: Path):
    from perpixel.data.datasets.folder import open_folder

    (text,) = blocks("toml", page="own-data.md")
    (tmp_path / "dataset.toml").write_text(text)
    for city in ("berlin", "paris", "rome"):
        shutil.copytree(mini / "train", tmp_path / city / "images")
        shutil.copytree(mini / "trainannot", tmp_path / city / "masks")
    assert [len(open_folder(tmp_path, split)) for split in ("train", "val")] == [24, 12]
    assert open_folder(tmp_path, "val").classes.names == ("road", "car")
