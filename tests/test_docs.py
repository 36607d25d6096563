"""README's commands and Python run, shortened to a few steps, in a folder laid out as it says."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
SHORT = "--set train.steps=2 --set train.images_per_step=2 --set train.crop=32x32 --device cpu"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


@pytest.fixture(scope="module")
def place(mini: Path, tmp_path_factory) -> Path:
    """A folder with README's CamVid and photos, both miniature."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(mini, folder / "CamVid")
    shutil.copy(folder / "CamVid/val/00.png", folder / "CamVid/val/0016E5_07959.png")
    shutil.copytree(mini / "train", folder / "photos/images")
    shutil.copytree(mini / "trainannot", folder / "photos/masks")
    return folder


def run(place: Path, *command: str) -> None:
    done = subprocess.run(command, cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"


def test_every_command_runs(place: Path):
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(lines) >= 10
    for line in lines:
        words = shlex.split(line)
        assert words[0] == "perpixel"
        if words[1] == "train":
            words += shlex.split(SHORT)
        run(place, sys.executable, "-m", *words)
    assert (place / "runs/photos/checkpoints/model.safetensors").exists()
    assert len(list((place / "photo-masks").glob("*_overlay.png"))) == 12


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
