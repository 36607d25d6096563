"""Frozen parts of the backbone stay what they were, bit for bit, and the rest learns."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from test_learning import BASE, FLOOR, train, variant
from test_ranks import torchrun
from test_run import TINY, losses, same, weights
from torch.nn.parallel import DistributedDataParallel

import perpixel
from perpixel.errors import Interrupted, UsageError
from perpixel.models.build import build
from perpixel.models.segmenter import SegmentationOutput
from perpixel.recipes.schema import Recipe
from perpixel.training.optimizer import set_learning_rate
from perpixel.training.step import make_train_state, train_step

PARTS = {
    "stem": ("conv1", "bn1", "stem"),
    "stage2": ("conv1", "bn1", "stem", "layer1", "layer2"),
    "stage3": ("conv1", "bn1", "stem", "layer1", "layer2", "layer3"),
    "backbone": ("",),
}
CHANGES = {
    "plain": ["train.precision=float32"],
    "deep stem": ["train.precision=float32", "model.backbone.stem=deep"],
    "recomputed": ["train.precision=float32", "train.activation_checkpointing=stages"],
    "averaged": ["train.precision=float32", "train.ema_decay=0.9"],
    "half": ["train.precision=float16", "train.grad_accum_steps=2"],
}


def changed_by_steps(recipe: Recipe, *, dtype: torch.dtype = torch.float32) -> dict[str, bool]:
    """Whether three steps change each tensor of the model, and of its average, if any."""
    torch.manual_seed(0)
    model = build(recipe.model, num_classes=7)
    state = make_train_state(model, recipe, device=torch.device("cpu"), dtype=dtype)
    models = {"model": state.model, "ema": state.ema_model}
    before = {
        kind: {name: tensor.clone() for name, tensor in each.state_dict().items()}
        for kind, each in models.items()
    }
    images = torch.randint(0, 256, (4, 64, 96, 3), dtype=torch.uint8)
    labels = torch.randint(0, 7, (4, 64, 96), dtype=torch.uint8)
    set_learning_rate(state.optimizer, recipe.optimizer.lr)
    for step in range(3):
        train_step(state, images, labels, recipe, step=step)
    return {
        name: any(
            not torch.equal(each.state_dict()[name], before[kind][name])
            for kind, each in models.items()
        )
        for name in before["model"]
    }


def is_frozen(name: str, part: str) -> bool:
    return name.startswith(tuple(f"backbone.{prefix}" for prefix in PARTS[part]))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", CHANGES)
def test_all_but_the_frozen_tensors_change(part: str, kind: str):
    recipe = variant(*CHANGES[kind], f"train.freeze={part}", "optimizer.lr=0.1")
    dtype = torch.float16 if kind == "half" else torch.float32
    for name, changed in changed_by_steps(recipe, dtype=dtype).items():
        assert changed != is_frozen(name, part), name


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_rate_of_zero_keeps_weights_but_not_statistics(optimizer: str):
    recipe = variant(
        "train.precision=float32", f"optimizer.name={optimizer}", "optimizer.backbone_lr_mult=0"
    )
    for name, changed in changed_by_steps(recipe).items():
        statistics = "running_" in name or "num_batches" in name
        assert changed == (statistics or not name.startswith("backbone.")), name


def test_no_activations_of_frozen_parts_are_kept():
    kept = {}
    for part in ("off", "stage2", "backbone"):
        recipe = variant("train.precision=float32", f"train.freeze={part}")
        model = build(recipe.model, num_classes=7)
        state = make_train_state(model, recipe, device=torch.device("cpu"), dtype=torch.float32)
        weights = {tensor.data_ptr() for tensor in state.model.state_dict().values()}
        saved: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda _: None):
            features = state.model.backbone(torch.zeros(2, 3, 64, 96))
        sizes = {tensor.data_ptr(): tensor.numel() for tensor in saved}
        kept[part] = sum(size for where, size in sizes.items() if where not in weights)
        del features
    assert kept["backbone"] == 0
    assert 0 < kept["stage2"] < kept["off"] / 3


MODES = {
    "plain": [],
    "averaged": ["train.ema_decay=0.9"],
    "norms recomputed": ["train.activation_checkpointing=norms"],
    "stages recomputed": ["train.activation_checkpointing=stages"],
    "compiled": ["train.compile=default"],
    "ranks": [],
}
VIT = ["model.head.type=fcn", "model.head.num_convs=0", "model.backbone.type=timm",
       "model.backbone.name=vit_tiny_patch16_224", "model.backbone.drop_path=0.5"]  # fmt: skip


@pytest.fixture
def ddp(tmp_path: Path) -> Iterator[type[DistributedDataParallel]]:
    """DistributedDataParallel in a process group of this process alone."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield DistributedDataParallel
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("mode", "backbone"),
    [
        *((mode, "resnet") for mode in MODES),
        *((mode, "vit") for mode in ("plain", "averaged", "ranks")),
    ],
)
def test_a_frozen_backbone_keeps_nothing_for_the_backward_pass(mode: str, backbone: str, ddp):
    """What the graph holds are tensors of the head alone: its weights, inputs and activations."""
    recipe = variant(
        "train.precision=float32", "train.freeze=backbone", *MODES[mode],
        *(VIT if backbone == "vit" else []),
    )  # fmt: skip
    model = build(recipe.model, num_classes=7)
    state = make_train_state(model, recipe, device=torch.device("cpu"), dtype=torch.float32)
    images = torch.randn(2, 3, 64, 96)

    def kept(
        call: Callable[..., SegmentationOutput], inputs: torch.Tensor | list[torch.Tensor]
    ) -> int:
        saved: dict[int, int] = {}

        def count(tensor: torch.Tensor) -> torch.Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            output = call(inputs)
        assert output.logits.requires_grad
        return sum(saved.values())

    features = state.model.backbone(images)
    assert not any(feature.requires_grad for feature in features)
    assert not any(module.training for module in state.model.backbone.modules())
    call = ddp(state.model, broadcast_buffers=False) if mode == "ranks" else state.model
    of_head = kept(state.model.forward, features)
    assert kept(call, images) <= of_head * 1.05
    state.model.backbone.requires_grad_(True).train()
    assert kept(state.model.forward, images) > of_head * 1.2, "the measure would not notice"


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A whole run, whose weights the others freeze."""
    folder = tmp_path_factory.mktemp("source")
    train(variant("train.precision=float32"), folder)
    return folder


def test_a_new_head_learns_on_a_frozen_backbone(source: Path, tmp_path):
    recipe = variant(
        "train.precision=float32", "train.freeze=backbone", "model.head.channels=24",
        "model.head.fpn_channels=24",
    )  # fmt: skip
    assert train(recipe, tmp_path, init=source) > FLOOR
    assert "in float32, train.freeze=backbone" in (tmp_path / "log.txt").read_text()
    before, after = weights(source), weights(tmp_path)
    frozen = [name for name in after if name.startswith("backbone.")]
    assert len(frozen) > 100
    changed = [name for name in frozen if not torch.equal(before[name], after[name])]
    # --init takes no counters of batch norm: these start at 0, and stay there.
    assert all(name.endswith("num_batches_tracked") and not after[name] for name in changed)


def test_a_frozen_run_is_resumed_bit_for_bit_and_can_be_unfrozen(mini, tmp_path, monkeypatch):
    from perpixel.training import run_logger

    perpixel.train(TINY, data=mini, out=tmp_path / "source", device="cpu")
    named = {"data": mini, "device": "cpu", "init": tmp_path / "source"}
    recipe = perpixel.override(TINY, ["train.freeze=stage2", "train.ema_decay=0.9"])
    perpixel.train(recipe, out=tmp_path / "straight", **named)

    def stop_after_three(self, step: int) -> None:
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(run_logger.RunLogger, "set_step", stop_after_three)
        with pytest.raises(Interrupted):
            perpixel.train(recipe, out=tmp_path / "stopped", **named)
    perpixel.train(recipe, out=tmp_path / "stopped", resume="must", **named)
    assert losses(tmp_path / "stopped") == losses(tmp_path / "straight")
    assert same(weights(tmp_path / "stopped"), weights(tmp_path / "straight"))

    whole = perpixel.override(recipe, ["train.freeze=off", "train.steps=8"])
    out = tmp_path / "stopped"
    perpixel.train(whole, data=mini, out=out, resume="must", allow_config_change=True, device="cpu")
    assert "the optimizer starts anew" in (out / "log.txt").read_text()
    before, after = weights(tmp_path / "straight"), weights(out)
    assert not torch.equal(before["backbone.conv1.weight"], after["backbone.conv1.weight"])


def test_two_ranks_freeze_too(source: Path, tmp_path):
    run = shutil.copytree(source, tmp_path / "run")
    torchrun(
        "-m", "perpixel", "train", "--resume", "--allow-config-change", "--out", run, "--device",
        "cpu", "--set", "train.freeze=stage2", "--set", "train.steps=66",
    )  # fmt: skip
    before, after = weights(source), weights(run)
    for name in before:
        assert torch.equal(before[name], after[name]) == is_frozen(name, "stage2"), name


@pytest.mark.parametrize("setting", ["train.freeze=stem", "optimizer.backbone_lr_mult=0"])
def test_random_weights_are_not_frozen(tmp_path, setting: str):
    with pytest.raises(UsageError, match=rf"{setting} would keep random weights .*--init"):
        train(variant(setting), tmp_path / "run", init="none")
    assert not (tmp_path / "run").exists()


def test_a_part_is_a_resnets():
    timm = ["model.backbone.type=timm"]
    with pytest.raises(UsageError, match=r"type timm: set train\.freeze=backbone"):
        perpixel.override(BASE, [*timm, "train.freeze=stage1"])
    assert perpixel.override(BASE, [*timm, "train.freeze=backbone"]).train.freeze == "backbone"
