"""Whole runs on a miniature data set: what they leave behind, and that they can be stopped."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock

import perpixel
from perpixel.checkpoints.format import read_checkpoint
from perpixel.errors import PerpixelError, UsageError
from perpixel.recipes import overrides
from perpixel.training.optimizer import learning_rate

TINY = perpixel.override(
    perpixel.recipe("camvid/fcn_r18-d8"),
    [
        "model.backbone.base_channels=8",
        "train.steps=6",
        "train.batch_size=2",
        "augment.crop_size=32x32",
        "train.final_phase=null",
        "train.ema_decay=0",  # tests/training/test_ema.py has it
        "train.log_every=1",
        "train.save_every=2",
        "evaluate.every=null",
        "model.head.channels=8",
        "model.aux_head.channels=8",
        "train.precision=float32",
    ],
)


def losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(read_checkpoint(run / "checkpoints" / "model.safetensors").weights)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def straight(mini: Path, tmp_path_factory) -> Path:
    """The uninterrupted run."""
    folder = tmp_path_factory.mktemp("straight")
    perpixel.train(TINY, data=mini, out=folder, device="cpu")
    return folder


def test_a_run_leaves_everything_behind(straight: Path):
    names = {str(path.relative_to(straight)) for path in straight.rglob("[!.]*") if path.is_file()}
    assert names == {
        "recipe.json", "run.json", "metrics.jsonl", "log.txt", "environment.json",
        "evaluate.json", "confusion.csv", "images.csv",
        "checkpoints/last.safetensors", "checkpoints/last-1.safetensors",
        "checkpoints/best.safetensors", "checkpoints/model.safetensors",
    }  # fmt: skip
    rows = [json.loads(line) for line in (straight / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4, 5, 6]
    assert [row["lr"] for row in rows if "loss" in row] == [
        learning_rate(step, steps=6, lr=0.05, schedule=TINY.schedule) for step in range(6)
    ]
    stored = read_checkpoint(straight / "checkpoints" / "model.safetensors")
    assert stored.recipe == TINY
    assert stored.step == 6


def test_evaluating_a_run_gives_its_own_score_again(mini: Path, straight: Path):
    again = perpixel.evaluate(straight, data=mini)
    stored = json.loads((straight / "evaluate.json").read_text())
    assert again.miou == stored["miou"]
    assert again.iou == stored["iou"]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_no_loss(mini: Path, straight: Path, tmp_path, workers: int):
    perpixel.train(TINY, data=mini, out=tmp_path, device="cpu", workers=workers)
    assert losses(tmp_path) == losses(straight)
    assert same(weights(tmp_path), weights(straight))


def test_killed_in_the_middle_it_resumes_exactly(straight: Path, mini: Path, tmp_path):
    script = (
        "import os, sys, perpixel\n"
        "from perpixel.recipes import overrides\n"
        "from perpixel.training import train\n"
        "recipe = overrides.load(open(sys.argv[1]).read(), origin='test')\n"
        "write = train.save_checkpoint\n"
        "def write_and_die(folder, *rest, progress, **named):\n"
        "    if progress.step == 4:\n"
        "        (folder / '.next.safetensors.part').write_bytes(b'half')\n"
        "        os.kill(os.getpid(), 9)\n"
        "    write(folder, *rest, progress=progress, **named)\n"
        "train.save_checkpoint = write_and_die\n"
        "perpixel.train(recipe, data=sys.argv[3], out=sys.argv[2], device='cpu')\n"
    )
    recipe = straight / "recipe.json"
    killed = subprocess.run([sys.executable, "-c", script, recipe, tmp_path, mini], check=False)
    assert killed.returncode == -9
    perpixel.train(TINY, data=mini, out=tmp_path, resume="must", device="cpu")
    assert losses(tmp_path) == losses(straight)
    assert same(weights(tmp_path), weights(straight))
    assert not list(tmp_path.rglob("*.part"))


def test_a_signal_to_the_whole_group_saves_the_run(straight: Path, mini: Path, tmp_path):
    """As a job scheduler sends it: to the workers too."""
    long = perpixel.override(TINY, ["train.steps=100000", "train.save_every=100000"])
    (tmp_path / "recipe.py").write_text(
        "from perpixel.recipes import overrides\n"
        f"r = overrides.load({overrides.dump(long)!r}, origin='test')\n"
    )
    command = [
        sys.executable, "-m", "perpixel", "train", f"{tmp_path}/recipe.py:r", "--data", mini,
        "--out", tmp_path / "run", "--device", "cpu", "--workers", "2",
    ]  # fmt: skip
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step 3 "):
            break
    os.killpg(process.pid, signal.SIGTERM)
    said = process.stderr.read()
    assert process.wait() == 75
    assert "the run is saved" in said
    assert "Traceback" not in said
    assert (tmp_path / "run" / "checkpoints" / "last.safetensors").exists()


def test_two_runs_cannot_share_a_folder(straight: Path, mini: Path, tmp_path):
    with (
        FileLock(tmp_path / ".lock"),
        pytest.raises(PerpixelError, match="another process is training there"),
    ):
        perpixel.train(TINY, data=mini, out=tmp_path, device="cpu")


def test_resuming_on_other_data_is_refused(straight: Path, mini: Path, tmp_path):
    shutil.copytree(mini, tmp_path / "data")
    listing = tmp_path / "data" / "train.txt"
    listing.write_text("\n".join(listing.read_text().splitlines()[:-1]))
    with pytest.raises(PerpixelError, match="images: 12 -> 11"):
        perpixel.train(TINY, data=tmp_path / "data", out=straight, resume="must", device="cpu")


def test_no_checkpoint_ever_holds_nan(mini: Path, tmp_path, monkeypatch):
    from perpixel.training import train

    def wild(optimizer: torch.optim.Optimizer, lr: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = float("inf")

    often = perpixel.override(TINY, ["train.save_every=1"])
    monkeypatch.setattr(train, "set_learning_rate", wild)
    with pytest.raises(PerpixelError, match="not finite after step 1: lower"):
        perpixel.train(often, data=mini, out=tmp_path, device="cpu")
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    "setting",
    [
        "loss.aux_weight=0", "loss.avg_non_ignore=false", "model.align_corners=true",
        "optimizer.backbone_lr_mult=0.1", "optimizer.momentum=0", "optimizer.weight_decay=0.1",
        "augment.flip_prob=0", "input.channel_order=bgr", "schedule.policy=poly", "train.seed=1",
    ],
)  # fmt: skip
def test_every_setting_reaches_the_run(setting: str, mini: Path, straight: Path, tmp_path):
    perpixel.train(perpixel.override(TINY, [setting]), data=mini, out=tmp_path, device="cpu")
    assert losses(tmp_path) != losses(straight)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_at_the_next_step(mini: Path, straight: Path, tmp_path, monkeypatch, number):
    from perpixel.training import run_logger

    def stop_after_three(self, step: int) -> None:
        if step == 3:
            os.kill(os.getpid(), number)

    usual = signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler
    signal.signal(number, usual)  # a shell's background jobs ignore SIGINT
    with monkeypatch.context() as patch:
        patch.setattr(run_logger.RunLogger, "set_step", stop_after_three)
        with pytest.raises(PerpixelError, match="stopped after step 3 of 6"):
            perpixel.train(TINY, data=mini, out=tmp_path, device="cpu")
    assert signal.getsignal(number) == usual
    perpixel.train(TINY, data=mini, out=tmp_path, resume="must", device="cpu")
    assert losses(tmp_path) == losses(straight)
    assert same(weights(tmp_path), weights(straight))


def test_a_run_is_not_overwritten(mini: Path, straight: Path):
    with pytest.raises(PerpixelError, match="holds a run already"):
        perpixel.train(TINY, data=mini, out=straight)


def test_resuming_with_another_recipe_is_refused(mini: Path, straight: Path):
    other = perpixel.override(TINY, ["optimizer.lr=0.5"])
    with pytest.raises(PerpixelError, match=r"optimizer.lr: 0.05 -> 0.5"):
        perpixel.train(other, data=mini, out=straight, resume="must", device="cpu")
    assert read_checkpoint(straight / "checkpoints" / "model.safetensors").recipe == TINY


def test_resuming_nothing_is_an_error(mini: Path, tmp_path):
    with pytest.raises(PerpixelError, match="nothing to resume"):
        perpixel.train(TINY, data=mini, out=tmp_path / "new", resume="must", device="cpu")
    assert not (tmp_path / "new").exists()


def test_a_damaged_checkpoint_is_named(mini: Path, straight: Path, tmp_path):
    last = tmp_path / "checkpoints" / "last.safetensors"
    last.parent.mkdir()
    whole = (straight / "checkpoints" / "last.safetensors").read_bytes()
    last.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PerpixelError, match=r"last\.safetensors: not a safetensors file"):
        perpixel.train(TINY, data=mini, out=tmp_path, resume="must", device="cpu")


def test_a_loss_that_is_no_number_stops_the_run(mini: Path, tmp_path):
    wild = perpixel.override(TINY, ["optimizer.lr=1e30", "schedule.min_lr=0"])
    with pytest.raises(PerpixelError, match=r"at step 5 \(and in 3 before\): lower optimizer.lr"):
        perpixel.train(wild, data=mini, out=tmp_path, device="cpu")


def test_a_run_can_start_from_another_or_from_a_backbone(straight: Path, mini: Path, tmp_path):
    started = perpixel.override(TINY, ["train.steps=1", "optimizer.lr=1e-30", "schedule.min_lr=0"])
    perpixel.train(started, data=mini, out=tmp_path / "all", init=straight, device="cpu")
    assert (
        "initial weights for the backbone and the head and the auxiliary"
        in (tmp_path / "all" / "log.txt").read_text()
    )
    trained, source = weights(tmp_path / "all"), weights(straight)
    learned = [name for name in source if "running_" not in name and "num_batches" not in name]
    assert all(torch.equal(trained[name], source[name]) for name in learned)

    wider = perpixel.override(started, ["model.head.channels=12", "model.aux_head=none"])
    perpixel.train(wider, data=mini, out=tmp_path / "part", init=straight, device="cpu")
    log = (tmp_path / "part" / "log.txt").read_text()
    assert "initial weights for the backbone; the head from random numbers" in log

    deeper = perpixel.override(started, ["model.backbone.depth=34"])
    with pytest.raises(PerpixelError, match=r"in 80 places.*\n  missing layer1\.2") as stop:
        perpixel.train(deeper, data=mini, out=tmp_path / "deep", init=straight, device="cpu")
    assert len(str(stop.value).splitlines()) == 7


def test_the_imagenet_file_a_recipe_names_is_downloaded(mini: Path, tmp_path, monkeypatch):
    model = perpixel.build(TINY, num_classes=3)
    state = {
        name.removeprefix("backbone."): tensor
        for name, tensor in model.state_dict().items()
        if name.startswith("backbone.") and "num_batches" not in name
    }
    file = tmp_path / "mirror" / "resnet18-00000000.pth"
    file.parent.mkdir()
    torch.save(state | {"fc.weight": torch.zeros(9, 64), "fc.bias": torch.zeros(9)}, file)
    monkeypatch.setenv("PERPIXEL_MIRROR", str(file.parent))
    monkeypatch.setenv("PERPIXEL_CACHE", str(tmp_path / "cache"))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    named = perpixel.override(
        TINY,
        [
            "train.steps=1",
            f'train.pretrained={{"url": "http://far.invalid/{file.name}", '
            f'"sha256": "{digest[:8]}"}}',
        ],
    )
    perpixel.train(named, data=mini, out=tmp_path / "run", device="cpu")
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "initial weights for the backbone; the head and the auxiliary from random" in log
    perpixel.train(named, data=mini, out=tmp_path / "fresh", init="none", device="cpu")
    assert "random initial weights" in (tmp_path / "fresh" / "log.txt").read_text()
    file.write_bytes(b"<html>")
    monkeypatch.setenv("PERPIXEL_CACHE", str(tmp_path / "empty"))
    with pytest.raises(PerpixelError, match="corrupt on the way"):
        perpixel.train(named, data=mini, out=tmp_path / "bad", device="cpu")
    assert not (tmp_path / "bad").exists()


def test_class_weights_of_another_number_stop_before_a_folder_is_made(mini: Path, tmp_path):
    recipe = perpixel.override(TINY, ["loss.class_weights=[1,2]"])
    with pytest.raises(UsageError, match=r"class_weights has 2 numbers for 11 classes"):
        perpixel.train(recipe, data=mini, out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_module_is_no_predictor(straight: Path, mini: Path):
    with pytest.raises(UsageError, match=r"not a Segmenter: .*Predictor\(model, recipe"):
        perpixel.evaluate(perpixel.load_model(straight), data=mini)
