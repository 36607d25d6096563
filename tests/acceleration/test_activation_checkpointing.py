from copy import deepcopy
from typing import Literal

import pytest
import torch
from variants import VARIANTS

from perpixel.acceleration.activation_checkpointing import (
    CheckpointedStage,
    apply_activation_checkpointing,
)
from perpixel.acceleration.winograd import use_winograd
from perpixel.errors import UsageError
from perpixel.models.build import build
from perpixel.models.segmenter import Segmenter
from perpixel.models.timm_backbone import TimmBackbone
from perpixel.recipes.models import FCN, Model, ResNet

Mode = Literal["norms", "stages"]
MODES: tuple[Mode, ...] = ("norms", "stages")


def checkpointed(model: Segmenter, mode: Mode) -> Segmenter:
    copy = deepcopy(model)
    apply_activation_checkpointing(copy, mode)
    return copy


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", VARIANTS)
def test_a_model_that_recomputes_learns_the_same(name: str, mode: Mode):
    """Gradients, and norms' statistics, which the second computation must not touch."""
    usual = build(VARIANTS[name], num_classes=4).double().train()
    model = checkpointed(usual, mode)
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for either in (usual, model):
        _loss(either, images).backward()
    _require_equal(model, usual)


@pytest.mark.parametrize("mode", MODES)
def test_in_mixed_precision_it_learns_the_same(mode: Mode):
    usual = build(VARIANTS["fcn-r50-d32-1x1"], num_classes=4).train()
    model = checkpointed(usual, mode)
    for either in (usual, model):
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            loss = _loss(either, torch.linspace(-1, 1, 2 * 3 * 64 * 64).view(2, 3, 64, 64))
        loss.backward()
    _require_equal(model, usual)


@pytest.mark.parametrize("mode", MODES)
def test_with_winograd_it_learns_the_same(mode: Mode):
    spec = Model(backbone=ResNet(depth=18, output_stride=8), head=FCN(num_convs=0))
    usual = build(spec, num_classes=4).train()
    use_winograd(usual)
    model = checkpointed(usual, mode)
    images = torch.linspace(-1, 1, 3 * 256 * 320).view(1, 3, 256, 320)
    for either in (usual, model):
        _loss(either, images).backward()
    _require_equal(model, usual)


def _loss(model: Segmenter, images: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(1)  # dropout in the heads
    output = model(images, return_aux=True)
    return sum(logits.square().mean() for logits in output if logits is not None)


def _require_equal(model: Segmenter, usual: Segmenter) -> None:
    found = dict(model.named_parameters())
    for key, parameter in usual.named_parameters():
        if parameter.grad is None:
            assert found[key].grad is None, key
        else:
            assert torch.equal(found[key].grad, parameter.grad), key
    for key, tensor in usual.state_dict().items():
        assert torch.equal(model.state_dict()[key], tensor), key


def test_fewer_features_are_kept():
    """By one stage: half of its feature maps are convolutions' outputs."""
    plain = build(VARIANTS["fcn-r50-d32-1x1"], num_classes=4).train()
    kept = {"off": _kept_bytes(plain)}
    kept |= {mode: _kept_bytes(checkpointed(plain, mode)) for mode in MODES}
    assert kept["norms"] < 0.6 * kept["off"]
    assert kept["stages"] < 0.2 * kept["off"]


def _kept_bytes(model: Segmenter) -> int:
    """Bytes that are allocated in a forward pass of layer3 and not freed after it."""
    given = torch.randn(2, 64, 16, 16)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profiler:
        features = model.backbone.layer3(given)
    assert features.requires_grad
    return sum(event.self_cpu_memory_usage for event in profiler.key_averages())


def test_nothing_is_recomputed_in_evaluation():
    model = checkpointed(build(VARIANTS["fcn-r18-linear"], num_classes=4), "stages").eval()
    output = model(torch.randn(1, 3, 32, 32, requires_grad=True)).logits
    assert "Checkpoint" not in type(output.grad_fn).__name__


def test_key_names_stay():
    usual = build(VARIANTS["fpn-r18"], num_classes=4)
    model = checkpointed(usual, "norms")
    assert isinstance(model.backbone.layer1, CheckpointedStage)
    assert list(model.state_dict()) == list(usual.state_dict())
    assert list(dict(model.named_parameters())) == list(dict(usual.named_parameters()))


def test_another_backbone_has_no_stages():
    model = build(VARIANTS["fcn-r18-linear"], num_classes=2)
    model.backbone = TimmBackbone.__new__(TimmBackbone)
    torch.nn.Module.__init__(model.backbone)
    with pytest.raises(UsageError, match=r"activation_checkpointing=stages needs a ResNet"):
        apply_activation_checkpointing(model, "stages")


def test_recomputed_stages_compile():
    twin = build(VARIANTS["fcn-r18-linear"], num_classes=2).train()
    model = deepcopy(twin)
    apply_activation_checkpointing(model, "stages", compiled=True)
    model.compile(backend="aot_eager")
    images = torch.randn(2, 3, 32, 32)
    for either in (model, twin):
        _loss(either, images).backward()
    weight, expected = (either.backbone.layer2[0].conv1.weight.grad for either in (model, twin))
    assert torch.allclose(weight, expected, atol=1e-5)
    norm, other = model.backbone.layer2[0].bn1, twin.backbone.layer2[0].bn1
    assert norm.num_batches_tracked == 1
    assert torch.allclose(norm.running_mean, other.running_mean)
