"""What may go wrong in a run: files, numbers, disks; and what is left then."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_run import TINY, losses, same, weights

import perpixel
from perpixel.checkpoints import zoo
from perpixel.checkpoints.format import (
    InitialWeights,
    read_checkpoint,
    read_tensors,
    write_tensors,
)
from perpixel.cli.main import main
from perpixel.errors import Interrupted, PerpixelError, UsageError
from perpixel.evaluation.evaluate import evaluate
from perpixel.io.images import write_image
from perpixel.models.build import build
from perpixel.recipes import overrides
from perpixel.recipes.models import FCN, Model, ResNet
from perpixel.training import step, train
from perpixel.training.checkpoint import list_checkpoints, save_checkpoint
from perpixel.training.pretrained import load_pretrained
from perpixel.training.step import loss_from_logits

OFTEN = perpixel.override(TINY, ["train.save_every=1", "train.keep_last=3"])


@pytest.fixture(scope="module")
def straight(mini: Path, tmp_path_factory) -> Path:
    """The uninterrupted run."""
    folder = tmp_path_factory.mktemp("straight")
    perpixel.train(OFTEN, data=mini, out=folder, device="cpu")
    return folder


@pytest.fixture
def half(mini: Path, tmp_path, monkeypatch) -> Path:
    """A run that was stopped after four of its six steps."""
    with monkeypatch.context() as patch:
        patch.setattr(train, "learning_rate", _stop_in_step(3))
        with pytest.raises(PerpixelError, match="stopped after step 4"):
            perpixel.train(OFTEN, data=mini, out=tmp_path / "run", device="cpu")
    return tmp_path / "run"


def _stop_in_step(number: int):
    from perpixel.training.optimizer import learning_rate

    def rate(step: int, **named):
        if step == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return learning_rate(step, **named)

    return rate


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").glob("last*"))


def test_the_last_states_are_kept(straight: Path):
    found = [path.name for path in list_checkpoints(straight / "checkpoints")]
    assert found == ["last.safetensors", "last-1.safetensors", "last-2.safetensors"]
    steps = [
        json.loads(read_tensors(path)[0]["perpixel-run"])["step"]
        for path in list_checkpoints(straight / "checkpoints")
    ]
    assert steps == [6, 5, 4]


@pytest.mark.parametrize("damage", ["cut", "flipped bit", "emptied", "half-written next"])
def test_a_damaged_state_makes_way_for_an_older_one(
    half: Path, mini: Path, straight: Path, damage: str
):
    last = half / "checkpoints" / "last.safetensors"
    content = bytearray(last.read_bytes())
    if damage == "cut":
        last.write_bytes(content[: len(content) // 2])
    elif damage == "flipped bit":
        content[len(content) // 2] ^= 1
        last.write_bytes(content)
    elif damage == "emptied":
        last.write_bytes(b"")
    else:
        last = last.replace(last.with_name("next.safetensors"))
        last.write_bytes(content[:-1])
    perpixel.train(OFTEN, data=mini, out=half, resume="must", device="cpu")
    log = (half / "log.txt").read_text()
    assert f"{last}: " in log
    assert "going on from an older state\n" in log
    assert "resumed after step 3" in log
    assert losses(half) == losses(straight)
    assert same(weights(half), weights(straight))
    assert last.with_suffix(".corrupt").exists()


def test_a_state_that_was_only_to_be_renamed_is_the_newest(half: Path, mini: Path, straight: Path):
    last = half / "checkpoints" / "last.safetensors"
    last.replace(last.with_name("next.safetensors"))
    perpixel.train(OFTEN, data=mini, out=half, resume="must", device="cpu")
    assert "resumed after step 4" in (half / "log.txt").read_text()
    assert same(weights(half), weights(straight))


def test_without_any_whole_state_all_are_named(half: Path, mini: Path):
    for path in list_checkpoints(half / "checkpoints"):
        path.write_bytes(b"x")
    with pytest.raises(PerpixelError) as caught:
        perpixel.train(OFTEN, data=mini, out=half, resume="must", device="cpu")
    for name in ("last.safetensors: ", "last-1.safetensors: ", "last-2.safetensors: "):
        assert name in str(caught.value)


def test_changes_are_allowed_when_told(half: Path, mini: Path):
    longer = perpixel.override(OFTEN, ["train.steps=8", "train.keep_last=1"])
    with pytest.raises(
        PerpixelError, match=r"train\.keep_last: 3 -> 1; recipe\.train\.steps: 6 -> 8"
    ):
        perpixel.train(longer, data=mini, out=half, resume="must", device="cpu")
    perpixel.train(
        longer, data=mini, out=half, resume="must", allow_config_change=True, device="cpu"
    )
    assert len(losses(half)) == 8
    assert "changed: recipe.train.steps: 6 -> 8" in (half / "log.txt").read_text()
    assert names(half) == ["last.safetensors"]


def test_fewer_steps_than_are_done_are_refused_and_as_many_are_scored(half: Path, mini: Path):
    before = {path: path.read_bytes() for path in half.rglob("*") if path.is_file()}
    three, four = (perpixel.override(OFTEN, [f"train.steps={steps}"]) for steps in (3, 4))
    with pytest.raises(
        UsageError, match=r"at step 4, past train\.steps=3: set train\.steps to 4 or"
    ):
        perpixel.train(
            three, data=mini, out=half, resume="must", allow_config_change=True, device="cpu"
        )
    assert {path: path.read_bytes() for path in before} == before
    run = perpixel.train(
        four, data=mini, out=half, resume="must", allow_config_change=True, device="cpu"
    )
    assert run.scores.images == 3


@pytest.mark.parametrize("best", [True, False])
def test_a_run_that_goes_on_after_its_end_has_no_final_weights(
    mini: Path, tmp_path, monkeypatch, best: bool
):
    """Until it ends again; the best so far stand for it, with their scores if there are any."""
    short, long = (perpixel.override(OFTEN, [f"train.steps={steps}"]) for steps in (2, 6))
    scores = ["evaluate.json", "confusion.csv", "images.csv"]
    ends = [*scores, "checkpoints/model.safetensors"]
    perpixel.train(short, data=mini, out=tmp_path, device="cpu")
    if not best:
        (tmp_path / "checkpoints/best.safetensors").unlink()
    named = {"data": mini, "out": tmp_path, "resume": "must", "allow_config_change": True}
    with monkeypatch.context() as patch:
        patch.setattr(train, "learning_rate", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):  # before it has come any further
            perpixel.train(long, **named, device="cpu")
        assert all((tmp_path / name).exists() for name in ends)
        patch.setattr(train, "learning_rate", _stop_in_step(3))
        with pytest.raises(Interrupted):
            perpixel.train(long, **named, device="cpu")
    assert not (tmp_path / "checkpoints/model.safetensors").exists()
    assert [name for name in scores if (tmp_path / name).exists()] == (scores if best else [])
    standing = zoo.find(tmp_path)
    assert (standing.origin, standing.step) == (tmp_path / "checkpoints/best.safetensors", 2)
    assert read_checkpoint(tmp_path / "checkpoints/model-earlier.safetensors").step == 2
    perpixel.train(long, **named, device="cpu")
    assert zoo.find(tmp_path / "checkpoints/model.safetensors").step == 6
    assert all((tmp_path / name).exists() for name in ends)


def test_resume_if_begun_starts_or_goes_on(half: Path, mini: Path, straight: Path, tmp_path):
    for out in (half, tmp_path / "new"):
        perpixel.train(OFTEN, data=mini, out=out, resume="auto", device="cpu")
        assert same(weights(out), weights(straight))


def test_resuming_at_step_100_000_reads_no_more_images(half: Path, mini: Path, monkeypatch):
    """As many as its one step has, and those of the evaluation."""
    last = half / "checkpoints" / "last.safetensors"
    header, tensors = read_tensors(last)
    far = perpixel.override(OFTEN, ["train.steps=100001"])
    said = json.loads(header["perpixel-run"])
    said["step"], said["fingerprint"]["recipe"]["train"]["steps"] = 100_000, 100_001
    write_tensors(last, tensors, {"perpixel-run": json.dumps(said)})
    from perpixel.data import loader

    read, plain = [], loader.read_dataset_image

    def counted(dataset, index: int, **named):
        read.append(index)
        return plain(dataset, index, **named)

    monkeypatch.setattr(loader, "read_dataset_image", counted)
    perpixel.train(far, data=mini, out=half, resume="must", device="cpu")
    assert len(read) == 2


def test_a_file_too_large_for_the_disk_leaves_the_states(
    half: Path, mini: Path, monkeypatch, capsys
):
    """A limit on file sizes stands for a full disk: the writing fails half-way."""
    before = {path: path.read_bytes() for path in list_checkpoints(half / "checkpoints")}
    assert min(map(len, before.values())) > 2**20
    (half / "recipe.py").write_text(
        "from perpixel.recipes import overrides\n"
        f"r = overrides.load({overrides.dump(OFTEN)!r}, origin='test')\n"
    )
    words = ["train", f"{half}/recipe.py:r", "--data", mini, "--out", half, "--resume"]
    monkeypatch.setattr(sys, "argv", ["perpixel", *map(str, words), "--device", "cpu"])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        with pytest.raises(SystemExit) as left:
            main()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert left.value.code == 1
    said = capsys.readouterr().err
    assert "next.safetensors: cannot be written (File too large)" in said
    assert "Traceback" not in said
    assert {path: path.read_bytes() for path in list_checkpoints(half / "checkpoints")} == before


class Spoilt:
    """Loss or gradient of some steps are not finite; its `loss` takes loss_from_logits' place."""

    def __init__(self, steps: set[int], *, gradient: bool) -> None:
        self.steps, self.gradient, self.calls = steps, gradient, 0

    def loss(self, output, labels, recipe):
        self.calls += 1
        if self.calls not in self.steps:
            return loss_from_logits(output, labels, recipe)
        if self.gradient:
            zero = (output.logits - output.logits).abs().sum()
            return zero.sqrt()  # whose gradient is 0 / 0
        return loss_from_logits(output, labels, recipe) * float("nan")


@pytest.mark.parametrize("gradient", [False, True], ids=["loss", "gradient"])
def test_a_nonfinite_step_is_skipped_and_its_images_are_named(
    mini: Path, tmp_path, monkeypatch, gradient: bool
):
    recipe = perpixel.override(TINY, ["train.save_every=1"])
    with monkeypatch.context() as patch:
        patch.setattr(step, "loss_from_logits", Spoilt({3}, gradient=gradient).loss)
        perpixel.train(recipe, data=mini, out=tmp_path, device="cpu")
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 4, 5, 6]
    assert [row["step"] for row in rows if "nonfinite_steps" in row] == [3]
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path).values())
    (line,) = (line for line in (tmp_path / "log.txt").open() if "step 3 skipped" in line)
    assert f"the loss is {'0.0' if gradient else 'nan'} and the gradient norm nan" in line
    assert line.count("train/") == 2


def test_a_skipped_step_leaves_no_trace(mini: Path, tmp_path, monkeypatch):
    """Neither in the weights nor in batch norm's statistics."""
    short = perpixel.override(TINY, ["train.steps=3", "train.save_every=1"])
    with monkeypatch.context() as patch:
        patch.setattr(step, "loss_from_logits", Spoilt({3}, gradient=False).loss)
        perpixel.train(short, data=mini, out=tmp_path, device="cpu")
    before = read_tensors(tmp_path / "checkpoints" / "last-1.safetensors")[1]
    after = read_tensors(tmp_path / "checkpoints" / "last.safetensors")[1]
    assert same(before, after)


def test_skipped_steps_in_a_row_are_counted_over_a_resume(mini: Path, tmp_path, monkeypatch):
    recipe = perpixel.override(TINY, ["train.save_every=1", "train.max_nonfinite_steps=2"])
    with monkeypatch.context() as patch:
        patch.setattr(step, "loss_from_logits", Spoilt({2, 3}, gradient=False).loss)
        patch.setattr(train, "learning_rate", _stop_in_step(2))
        with pytest.raises(PerpixelError, match="stopped after step 3"):
            perpixel.train(recipe, data=mini, out=tmp_path, device="cpu")
    monkeypatch.setattr(step, "loss_from_logits", Spoilt({1}, gradient=False).loss)
    with pytest.raises(PerpixelError, match=r"at step 4 \(and in 2 before\)"):
        perpixel.train(recipe, data=mini, out=tmp_path, resume="must", device="cpu")


@pytest.mark.parametrize(("share", "bearable"), [(0.2, True), (0.01, False)])
def test_damaged_images_are_borne_up_to_a_share(mini: Path, tmp_path, share: float, bearable: bool):
    data = tmp_path / "data"
    subprocess.run(["cp", "-r", mini, data], check=True)
    (data / "train" / "03.png").write_bytes(b"not an image")
    recipe = perpixel.override(TINY, [f"train.max_corrupt_fraction={share}"])
    if bearable:
        perpixel.train(recipe, data=data, out=tmp_path / "run", device="cpu")
        assert len(losses(tmp_path / "run")) == 6
    else:
        with pytest.raises(
            PerpixelError,
            match=r"decoded by step 4: 1, more than train\.max_corrupt_fraction=0.01 of 12",
        ):
            perpixel.train(recipe, data=data, out=tmp_path / "run", device="cpu")
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "train/03.png: not an image that can be decoded" in log


def test_a_second_signal_ends_the_run_at_once(mini: Path, tmp_path, monkeypatch):
    def impatient(step: int, **named):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("still running")

    monkeypatch.setattr(train, "learning_rate", impatient)
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            perpixel.train(TINY, data=mini, out=tmp_path, device="cpu")
    finally:
        signal.signal(signal.SIGINT, usual)


@pytest.mark.parametrize("deterministic", [True, False])
def test_deterministic_kernels_are_asked_for(mini: Path, tmp_path, monkeypatch, deterministic):
    seen, usual = [], torch.backends.cudnn.benchmark

    def look(step: int, **named):
        seen.append((torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark))
        return 0.01

    monkeypatch.setattr(train, "learning_rate", look)
    short = perpixel.override(TINY, ["train.steps=1"])
    perpixel.train(short, data=mini, out=tmp_path, device="cpu", deterministic=deterministic)
    assert seen == [(deterministic, not deterministic)]
    assert not torch.are_deterministic_algorithms_enabled()  # the run's own
    assert torch.backends.cudnn.benchmark == usual


@pytest.mark.parametrize("at", [3, 6])
def test_an_evaluation_that_was_broken_off_is_made_up_for(
    straight: Path, mini: Path, tmp_path, monkeypatch, at: int
):
    recipe = perpixel.override(OFTEN, ["evaluate.every=3"])
    perpixel.train(recipe, data=mini, out=tmp_path / "whole", device="cpu")
    calls = []

    def breaks_off(*given: object, **named: object):
        calls.append(given)
        if len(calls) == at / 3:
            raise PerpixelError("the power is gone")
        return evaluate(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(train, "evaluate", breaks_off)
        with pytest.raises(PerpixelError, match="power"):
            perpixel.train(recipe, data=mini, out=tmp_path / "broken", device="cpu")
    for _ in range(2):  # the second time nothing is left to do
        perpixel.train(recipe, data=mini, out=tmp_path / "broken", device="cpu", resume="must")
        whole, fixed = (
            [json.loads(line).get("miou") for line in (run / "metrics.jsonl").open()]
            for run in (tmp_path / "whole", tmp_path / "broken")
        )
        assert fixed == whole
        assert (tmp_path / "broken/checkpoints/best.safetensors").exists()


def test_an_evaluation_is_written_down_once_however_often_the_run_is_killed_after_it(
    mini: Path, tmp_path, monkeypatch
):
    recipe = perpixel.override(OFTEN, ["evaluate.every=3"])

    def killed(*given: object, overwrite: bool, **named: object) -> None:
        if overwrite:  # as the evaluated state
            raise KeyboardInterrupt
        save_checkpoint(*given, overwrite=overwrite, **named)

    for resume in ("never", "must", "must"):
        with monkeypatch.context() as patch:
            patch.setattr(train, "save_checkpoint", killed)
            with pytest.raises(KeyboardInterrupt):
                perpixel.train(recipe, data=mini, out=tmp_path, device="cpu", resume=resume)
    perpixel.train(recipe, data=mini, out=tmp_path, device="cpu", resume="must")
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert [row["step"] for row in rows if "miou" in row] == [3, 6]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4, 5, 6]


def test_a_split_without_labels_is_refused_and_a_step_without_is_told(
    straight: Path, mini: Path, tmp_path
):
    data = tmp_path / "data"
    shutil.copytree(mini, data)
    masks = sorted(data.glob("trainannot/*.png"))
    labeled = masks[0].read_bytes()
    for mask in masks:
        write_image(mask, np.full((48, 64), 11, np.uint8))  # CamVid's void
    with pytest.raises(PerpixelError, match="masks of train show no class at all of 11 classes"):
        perpixel.train(TINY, data=data, out=tmp_path / "run", device="cpu")
    masks[0].write_bytes(labeled)
    perpixel.train(TINY, data=data, out=tmp_path / "run", device="cpu")
    logged, as_usual = ((run / "log.txt").read_text() for run in (tmp_path / "run", straight))
    assert "nothing to learn: is any pixel labeled?\n" in logged
    assert "nothing" not in as_usual


def test_a_users_copy_of_a_state_is_left_alone(half: Path, mini: Path):
    last = half / "checkpoints" / "last.safetensors"
    (half / "checkpoints" / "last-good.safetensors").write_bytes(last.read_bytes())
    perpixel.train(OFTEN, data=mini, out=half, device="cpu", resume="must")
    assert "last-good.safetensors" in names(half)


@pytest.mark.parametrize("counted", [True, False])
def test_a_frozen_norm_starts_from_any_backbone(counted: bool):
    frozen = Model(
        backbone=ResNet(depth=18, base_channels=8, frozen_bn=True),
        head=FCN(num_convs=1, channels=8),
    )
    given = build(
        frozen.model_copy(update={"backbone": ResNet(depth=18, base_channels=8)}), num_classes=2
    ).state_dict()
    if not counted:  # as files of 2018 and before
        given = {key: value for key, value in given.items() if "num_batches" not in key}
    for spec in (frozen, frozen.model_copy(update={"backbone": ResNet(depth=18, base_channels=8)})):
        model = build(spec, num_classes=2)
        initial = InitialWeights(given, "random", class_names=("a", "b"))
        lines = load_pretrained(model, initial, class_names=("a", "b"))
        assert len(lines) == 1  # nothing is left out
        assert torch.equal(
            model.state_dict()["backbone.conv1.weight"], given["backbone.conv1.weight"]
        )


@pytest.mark.parametrize("stopped", [False, True])
def test_a_run_goes_on_when_the_reader_of_its_messages_is_gone(mini: Path, tmp_path, stopped: bool):
    """As tee is, which Ctrl-C ends first."""
    steps = 100_000 if stopped else 30
    recipe = perpixel.override(TINY, [f"train.steps={steps}", "train.save_every=100000"])
    (tmp_path / "recipe.py").write_text(
        "from perpixel.recipes import overrides\n"
        f"r = overrides.load({overrides.dump(recipe)!r}, origin='test')\n"
    )
    command = [
        sys.executable, "-m", "perpixel", "train", f"{tmp_path}/recipe.py:r", "--data", mini,
        "--out", tmp_path / "run", "--device", "cpu",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step 3 "):
            break
    process.stderr.close()
    if stopped:
        process.send_signal(signal.SIGTERM)
    assert process.wait() == (75 if stopped else 0)
    assert list_checkpoints(tmp_path / "run" / "checkpoints")
    assert stopped or "done: mIoU" in (tmp_path / "run" / "log.txt").read_text()
