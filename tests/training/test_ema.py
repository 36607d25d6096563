"""The moving average of a run's weights: its formula, what is kept of it, and resuming."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import perpixel
from perpixel.checkpoints.format import read_checkpoint, read_tensors
from perpixel.models.build import build
from perpixel.recipes.models import FCN, Model, ResNet
from perpixel.training.ema import make_ema, update_ema

SMALL = Model(backbone=ResNet(depth=18, base_channels=8), head=FCN(num_convs=1, channels=4))
TINY = perpixel.override(
    perpixel.recipe("camvid/fcn_r18-d8"),
    [
        "model.backbone.base_channels=8",
        "train.steps=6",
        "train.batch_size=2",
        "augment.crop_size=32x32",
        'train.final_phase={"fraction": 0.2, "crop_size": [48, 64]}',
        "train.ema_decay=0.9",
        "train.save_every=2",
        "train.precision=float32",
        "optimizer.name=adamw",
        "optimizer.lr=0.001",
        "model.head.channels=8",
        "model.aux_head.channels=8",
    ],
)


def test_without_an_average_the_network_is_kept():
    model = build(SMALL, num_classes=2)
    assert make_ema(model, 0.0) is model


def test_the_average_is_its_formula_and_counts_batches():
    model = build(SMALL, num_classes=2)
    kept = make_ema(model, 0.3)
    wanted = {name: tensor.double() for name, tensor in model.state_dict().items()}
    for step, share in enumerate((0.1, 2 / 11, 0.25, 0.3, 0.3)):  # (1 + step) / (10 + step), or 0.3
        for tensor in model.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape) if tensor.is_floating_point() else step)
        update_ema(kept, model, step=step, ema=0.3)
        for name, tensor in model.state_dict().items():
            new = tensor.double()
            if tensor.is_floating_point():
                new = share * wanted[name] + (1 - share) * new
            wanted[name] = new
    for name, tensor in kept.state_dict().items():
        assert torch.allclose(tensor.double(), wanted[name], atol=1e-5), name
    assert not any(parameter.requires_grad for parameter in kept.parameters())


@pytest.fixture(scope="module")
def straight(mini: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    perpixel.train(TINY, data=mini, out=folder, device="cpu")
    return folder


def test_the_model_is_the_average_and_its_score_the_runs(mini: Path, straight: Path):
    model = read_checkpoint(straight / "checkpoints" / "model.safetensors").weights
    _, state = read_tensors(straight / "checkpoints" / "last.safetensors")
    for name, tensor in model.items():
        assert torch.equal(tensor, state[f"ema.{name}"])
    assert not torch.equal(model["head.classifier.weight"], state["model.head.classifier.weight"])
    assert "optimizer.step.head.classifier.weight" in state
    stored = json.loads((straight / "evaluate.json").read_text())
    assert perpixel.evaluate(straight, data=mini).miou == stored["miou"]


def test_resumed_it_is_the_same_run(mini: Path, straight: Path, tmp_path: Path):
    (tmp_path / "checkpoints").mkdir()
    earlier = straight / "checkpoints" / "last-1.safetensors"
    shutil.copy(earlier, tmp_path / "checkpoints" / "last.safetensors")
    perpixel.train(TINY, data=mini, out=tmp_path, resume="must", device="cpu")
    ours, theirs = (
        read_tensors(run / "checkpoints" / "last.safetensors")[1] for run in (tmp_path, straight)
    )
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize(("before", "after"), [("adamw", "sgd"), ("sgd", "adamw")])
def test_another_optimizer_starts_anew(mini: Path, tmp_path: Path, before: str, after: str):
    shorter = perpixel.override(TINY, [f"optimizer.name={before}", "train.steps=2"])
    perpixel.train(shorter, data=mini, out=tmp_path, device="cpu")
    other = perpixel.override(TINY, [f"optimizer.name={after}", "train.steps=4"])
    perpixel.train(
        other, data=mini, out=tmp_path, resume="must", allow_config_change=True, device="cpu"
    )
    log = (tmp_path / "log.txt").read_text()
    assert "the optimizer starts anew" in log
    assert "2 steps of 2, on cpu" in log  # of which 0.2 is no step
    assert "4 steps of 2 (the last 1 on crops of 48x64), on cpu" in log
    _, state = read_tensors(tmp_path / "checkpoints" / "last.safetensors")
    kinds = {name.split(".")[1] for name in state if name.startswith("optimizer.")}
    assert kinds == ({"momentum_buffer"} if after == "sgd" else {"step", "exp_avg", "exp_avg_sq"})
