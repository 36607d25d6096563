"""Whole runs on a miniature data set: what they leave behind, and that they can be stopped."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from filelock import FileLock

import perpixel
from perpixel.checkpoints.format import read_checkpoint, read_tensors, write_tensors
from perpixel.data.loader import batches
from perpixel.data.registry import open_dataset
from perpixel.errors import PerpixelError, UsageError
from perpixel.io.images import overlay, read_image
from perpixel.recipes import overrides
from perpixel.recipes.models import CustomHead
from perpixel.recipes.schema import IGNORE_INDEX
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


def best_file(run: Path) -> Path:
    """What a run stands for as a model."""
    return run / "checkpoints" / "best.safetensors"


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def straight(mini: Path, tmp_path_factory) -> Path:
    """The uninterrupted run."""
    folder = tmp_path_factory.mktemp("straight")
    perpixel.train(TINY, data=mini, out=folder, device="cpu")
    return folder


def test_the_first_batch_is_drawn_as_the_model_gets_it(straight: Path, mini: Path):
    """At whole multiples of its size; padding and pixels without a label have no class's color."""
    dataset = open_dataset("camvid", mini, "train")
    batch = next(batches(dataset, TINY, first_step=0, workers=0))
    sheet = read_image(straight / "results" / "train_batch.png")
    for index, (image, label) in enumerate(
        zip(batch.images.numpy(), batch.labels.numpy(), strict=True)
    ):
        left = 12 + index * (320 + 12)
        tile = sheet[12 : 12 + 320, left : left + 320][5::10, 5::10]
        unlabeled = label == IGNORE_INDEX
        assert (tile[unlabeled] == image[unlabeled]).all()
        assert (tile == overlay(image, label, dataset.classes.palette)).all()


@pytest.mark.parametrize("error", [OSError("no space left"), UnicodeError("odd"), MemoryError()])
def test_a_figure_that_cannot_be_drawn_costs_no_run(mini: Path, tmp_path, monkeypatch, error):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("perpixel.io.figures.sheet", fail)
    run = perpixel.train(perpixel.override(TINY, ["train.steps=1"]), data=mini, out=tmp_path)
    assert (tmp_path / "checkpoints" / "model.safetensors").exists()
    assert "done: mIoU" in (tmp_path / "log.txt").read_text()
    assert (tmp_path / "log.txt").read_text().count(f"lacks a figure: {type(error).__name__}") == 2
    assert run.scores.images == 3


def test_a_run_leaves_everything_behind(straight: Path):
    names = {str(path.relative_to(straight)) for path in straight.rglob("[!.]*") if path.is_file()}
    assert names == {
        "recipe.json", "metrics.jsonl", "log.txt", "environment.json",
        "evaluate.json", "confusion.csv", "images.csv", "results/train_batch.png",
        "results/curves.png", "results/confusion.png", "results/predictions.png",
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
    count = sum("num_batches" not in name for name in weights(straight))
    log = (tmp_path / "all" / "log.txt").read_text()
    digest = hashlib.sha256(best_file(straight).read_bytes()).hexdigest()
    assert f"initial weights from {straight.name} (sha256 {digest}): {count} of {count} t" in log
    assert "freshly initialized" not in log
    trained = weights(tmp_path / "all")
    source = read_checkpoint(best_file(straight)).weights
    learned = [name for name in source if "running_" not in name and "num_batches" not in name]
    assert all(torch.equal(trained[name], source[name]) for name in learned)

    wider = perpixel.override(started, ["model.head.channels=12", "model.aux_head=none"])
    perpixel.train(wider, data=mini, out=tmp_path / "part", init=straight, device="cpu")
    log = (tmp_path / "part" / "log.txt").read_text()
    assert "16 tensors: head.convs.0.0.weight [12, 64, 3, 3] (there [8, 64, 3, 3])" in log
    assert "not used, 7 tensors: auxiliary.classifier.bias, " in log
    assert f"head.channels: 12 -> 8; --model-from {straight} takes theirs" in log

    deeper = perpixel.override(started, ["model.backbone.depth=34"])
    with pytest.raises(PerpixelError, match=r"in \d+ places.*\n  missing layer1\.2") as stop:
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
    assert f"initial weights from {file.name} (sha256 {digest}): " in log
    assert re.search(r"freshly initialized, \d+ tensors: head\.convs.* \(absent there\), head", log)
    assert "left out of it, 2 tensors: fc.weight, fc.bias" in log
    perpixel.train(named, data=mini, out=tmp_path / "fresh", init="none", device="cpu")
    assert "random initial weights" in (tmp_path / "fresh" / "log.txt").read_text()
    file.write_bytes(b"<html>")
    monkeypatch.setenv("PERPIXEL_CACHE", str(tmp_path / "empty"))
    with pytest.raises(PerpixelError, match="corrupt on the way"):
        perpixel.train(named, data=mini, out=tmp_path / "bad", device="cpu")
    assert not (tmp_path / "bad").exists()


class Named:
    """Three images of two classes, in other words."""

    def __init__(self, *names: str) -> None:
        self.class_names = names

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int):
        image = np.random.default_rng(index).integers(0, 256, (32, 32, 3), np.uint8)
        return image, (image[..., 0] > 128).astype(np.uint8)


def started_from(init: Path, out: Path, *names: str, recipe=TINY) -> tuple[str, dict]:
    """The log and the weights of a run of a tiny step from `init`, with data of other classes."""
    still = ["train.steps=1", "optimizer.lr=1e-30", "schedule.min_lr=0"]
    still.append(f"train.seed={len(out.name)}")  # other random numbers for each
    perpixel.train(
        perpixel.override(recipe, still), train_dataset=Named(*names), eval_dataset=Named(*names),
        out=out, init=init, device="cpu",
    )  # fmt: skip
    return (out / "log.txt").read_text(), weights(out)


@pytest.mark.parametrize("names", [("cat", "dog"), ("dog", "cat"), ("cat", "dog", "cow")])
def test_of_other_classes_all_but_the_classifier_is_taken(tmp_path, names):
    _, source = started_from("none", tmp_path / "first", "dog", "cat")
    log, taken = started_from(tmp_path / "first", tmp_path / "second", *names)
    learned = [name for name in source if "running_" not in name and "num_batches" not in name]
    differ = {
        name
        for name in learned
        if taken[name].shape != source[name].shape
        or not torch.allclose(taken[name], source[name], rtol=0, atol=1e-20)
    }
    if names == ("dog", "cat"):
        assert not differ
        assert "starts anew" not in log
        return
    both = [
        f"{head}.classifier.{part}" for head in ("head", "auxiliary") for part in ("weight", "bias")
    ]
    assert {"head.classifier.weight", "auxiliary.classifier.weight"} <= differ <= set(both)
    assert f"the classes differ: there dog, cat; here {', '.join(names)}\n" in log
    reason = "of other classes" if len(names) == 2 else "there [2, 8, 1, 1]"
    assert f"head.classifier.weight [{len(names)}, 8, 1, 1] ({reason})" in log


def test_a_custom_heads_classifier_has_any_name(tmp_path):
    class Last(torch.nn.Module):
        def __init__(self, channels: int, num_classes: int) -> None:
            super().__init__()
            self.first = torch.nn.Conv2d(channels, 8, 1)
            self.final = torch.nn.Conv2d(8, num_classes, 1)

        def forward(self, features):
            return self.final(self.first(features[-1]))

    class LastHead(CustomHead):
        type: Literal["last"] = "last"

        def build(self, in_channels, num_classes, *, align_corners):
            return Last(in_channels[-1], num_classes)

    model = TINY.model.model_copy(update={"head": LastHead(), "aux_head": None})
    recipe = TINY.model_copy(update={"model": model})
    _, source = started_from("none", tmp_path / "first", "dog", "cat", recipe=recipe)
    _, taken = started_from(tmp_path / "first", tmp_path / "second", "cat", "dog", recipe=recipe)
    assert torch.equal(taken["head.first.weight"], source["head.first.weight"])
    assert not torch.equal(taken["head.final.weight"], source["head.final.weight"])


def test_where_weights_came_from_is_kept(mini: Path, straight: Path, tmp_path):
    """In the checkpoint and the card, after a resumption too."""
    assert read_checkpoint(straight / "checkpoints/model.safetensors").initial_weights == "random"
    perpixel.save_pretrained(straight, tmp_path / "random")
    assert "Initial weights: random." in (tmp_path / "random/README.md").read_text()
    run = tmp_path / "tuned"
    short = perpixel.override(TINY, ["train.steps=2"])
    perpixel.train(short, data=mini, out=run, init=straight, device="cpu")
    longer = perpixel.override(TINY, ["train.steps=3"])
    perpixel.train(
        longer, data=mini, out=run, resume="must", allow_config_change=True, device="cpu"
    )
    digest = hashlib.sha256(best_file(straight).read_bytes()).hexdigest()
    for name in ("model", "best"):
        source = read_checkpoint(run / f"checkpoints/{name}.safetensors").initial_weights
        assert source == f"{straight.name} (sha256 {digest})"
    perpixel.save_pretrained(run, tmp_path / "card")
    card = (tmp_path / "card/README.md").read_text()
    assert f"Initial weights: {straight.name} (sha256 {digest})." in card
    assert "random" not in card
    again = tmp_path / "card"
    assert read_checkpoint(again / "model.safetensors").initial_weights == source


def test_a_checkpoint_without_that_record_loads(straight: Path, tmp_path):
    metadata, tensors = read_tensors(straight / "checkpoints/model.safetensors")
    header = json.loads(metadata["perpixel"])
    del header["initial_weights"]
    old = tmp_path / "old.safetensors"
    header["recipe"]["source"] += ", weights from random initialization"  # as it was then
    write_tensors(old, tensors, {"perpixel": json.dumps(header)})
    assert read_checkpoint(old).initial_weights is None
    perpixel.save_pretrained(old, tmp_path / "out")
    summary, _, _ = (tmp_path / "out/README.md").read_text().partition("## Recipe")
    assert "nitial weights" not in summary
    assert "random" not in summary


def test_class_weights_of_another_number_stop_before_a_folder_is_made(mini: Path, tmp_path):
    recipe = perpixel.override(TINY, ["loss.class_weights=[1,2]"])
    with pytest.raises(UsageError, match=r"class_weights has 2 numbers for 11 classes"):
        perpixel.train(recipe, data=mini, out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_module_is_no_predictor(straight: Path, mini: Path):
    with pytest.raises(UsageError, match=r"not a Segmenter: .*Predictor\(model, recipe"):
        perpixel.evaluate(perpixel.load_model(straight), data=mini)
