"""torchrun with two ranks on this machine's CPU, through the commands that users start."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import perpixel
from perpixel.checkpoints.format import Checkpoint, write_checkpoint
from perpixel.cli.main import main
from perpixel.data.registry import classes
from perpixel.io.images import read_mask

ANY_PORT = ("--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0")


def torchrun(*command: object, how: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """As docs/evaluation.md starts it: at torchrun's usual port, which one test alone may take."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *how]
    return subprocess.run(
        [*launch, "-m", "perpixel", *map(str, command)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture
def model(tmp_path) -> Path:
    known = classes("camvid")
    recipe = perpixel.override(perpixel.recipe("camvid/fcn_r18-d8"), ["model.head.channels=8"])
    weights = perpixel.build(recipe, num_classes=len(known)).state_dict()
    path = tmp_path / "model.safetensors"
    write_checkpoint(path, Checkpoint(recipe, known.names, known.palette, weights))
    return path


def without_time(folder: Path) -> dict:
    found = json.loads((folder / "evaluate.json").read_text())
    del found["seconds"]
    return found


def test_two_ranks_score_what_one_process_scores(mini, model, tmp_path, monkeypatch):
    command = ["eval", model, "--data", mini, "--boundary", "--device", "cpu"]
    both = torchrun(*command, "--out", tmp_path / "two")
    assert both.returncode == 0, both.stderr
    assert both.stdout.count("mIoU") == 1  # one rank speaks
    words = ["perpixel", *map(str, command), "--out", str(tmp_path / "one")]
    monkeypatch.setattr(sys, "argv", words)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the ranks have
    try:
        with pytest.raises(SystemExit) as left:
            main()
    finally:
        torch.set_num_threads(threads)
    assert not left.value.code
    assert without_time(tmp_path / "two") == without_time(tmp_path / "one")
    for name in ("confusion.csv", "images.csv"):
        assert (tmp_path / "two" / name).read_text() == (tmp_path / "one" / name).read_text()


def test_two_ranks_share_the_images_to_predict(mini, model, tmp_path):
    images = sorted((mini / "val").iterdir())
    (tmp_path / "broken.png").write_bytes(b"x")
    found = torchrun(
        "predict", model, mini / "val", tmp_path / "broken.png", "--out", tmp_path / "o",
        how=ANY_PORT,
    )  # fmt: skip
    assert found.returncode == 1
    assert f"{len(images)} of {len(images) + 1} images written" in found.stdout
    assert "broken.png" in found.stderr
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == [p.name for p in images]
    alone = perpixel.load(model)
    for image in images:
        found = read_mask(tmp_path / "o" / image.name)
        assert (found == alone.predict(image).mask).mean() > 0.99
