import os
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from perpixel.cli import main
from perpixel.data.datasets.synthetic import SyntheticStreets
from perpixel.io.images import write_image
from perpixel.recipes.schema import IGNORE_INDEX
from perpixel.runtime.heap import keep_freed

settings.register_profile("perpixel", deadline=None)  # no test fails for being slow
settings.load_profile("perpixel")
keep_freed()  # as the command line does

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is first imported
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before triton is, as by timm

ROOT = Path(__file__).parents[1]
CAMVID = ROOT.parent / "shared" / "data" / "camvid"


@pytest.fixture(scope="session", autouse=True)
def _empty_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory of all tests: what a user's commands left in the checkout, as `runs`,
    is not there. Processes that tests start import this checkout all the same."""
    folder = tmp_path_factory.mktemp("working-directory")
    with pytest.MonkeyPatch.context() as patch, chdir(folder):
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        yield folder


@pytest.fixture(autouse=True)
def _stays_empty(_empty_folder: Path) -> Iterator[None]:
    """A test writes into temporary folders of its own."""
    yield
    left = [path.name for path in _empty_folder.iterdir()]
    assert left == [], "left in the working directory"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs `perpixel` with these words; returns its exit code, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["perpixel", *map(str, words)])
        code = 0
        try:
            main.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def camvid() -> Path:
    """The real CamVid images, where this machine has them."""
    if not CAMVID.is_dir():
        pytest.skip("CamVid is not on this machine (looked in ../shared/data/camvid)")
    return CAMVID


@pytest.fixture(scope="session")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A miniature data set in CamVid's layout: 12 + 3 scenes of 48x64 as PNG files."""
    root = tmp_path_factory.mktemp("mini")
    for split, count in (("train", 12), ("val", 3)):
        scenes = SyntheticStreets(split, count=count, size=(48, 64))
        lines = []
        for index in range(count):
            label = scenes.label(index)
            label[label == IGNORE_INDEX] = 11
            image, mask = f"{split}/{index:02}.png", f"{split}annot/{index:02}.png"
            write_image(root / image, scenes.image(index))
            write_image(root / mask, label)
            lines.append(f"/SegNet/CamVid/{image} /SegNet/CamVid/{mask}")
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return root
