from copy import deepcopy

import pytest
import torch
from variants import VARIANTS

from perpixel.models import recomputing
from perpixel.models.build import build
from perpixel.models.recomputing import activations_recomputed
from perpixel.models.segmenter import Segmenter
from perpixel.recipes.models import Model

pytestmark = pytest.mark.usefixtures("narrow")


@pytest.mark.parametrize(("again", "stages"), [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_recomputed_learns_the_same(name: str, again: bool, stages: bool):
    """Gradients, and norms' statistics, which the second computation must not touch."""
    spec: Model = VARIANTS[name]
    usual = build(spec, num_classes=4).double().train()
    model = deepcopy(usual)
    model.backbone.recompute_stages = stages
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for each, context in ((usual, False), (model, again)):
        with activations_recomputed(context):
            loss = _loss(each, images)
        loss.backward()
    _require_equal(model, usual)


def test_a_second_backward_pass_adds_the_same_gradients():
    model = build(VARIANTS["fpn-r50-caffe"], num_classes=4).double().train()
    usual = deepcopy(model)
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with activations_recomputed():
        loss = _loss(model, images)
    for each in (loss, _loss(usual, images)):
        each.backward(retain_graph=True)
        each.backward()
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


def test_activations_are_not_kept(monkeypatch):
    """Of a stage its input, the norms' 3 x 6 + 1 inputs and blocks 1, 3 and 5's outputs stay."""
    stage = build(VARIANTS["fcn-r50-d32-1x1"], num_classes=4).backbone.layer3.train()

    def kept(pack) -> int:
        held: dict[int, torch.Tensor] = {}

        def see(tensor: torch.Tensor) -> object:
            found = pack(tensor)
            if isinstance(found, torch.Tensor) and tensor.ndim == 4 and not tensor.is_leaf:
                held[found.data_ptr()] = found
            return found

        monkeypatch.setattr(recomputing, "_kept", see)
        with activations_recomputed():
            stage(stage[0].downsample[0].weight.new_ones(2, 64, 8, 8, requires_grad=True) * 2)
        return len(held)

    pack = recomputing._kept
    assert kept(pack) == 1 + 19 + 3
    assert kept(lambda tensor: tensor) == 1 + 19 + 3 * 6


def test_features_of_recomputed_stages_are_not_kept():
    model = build(VARIANTS["fcn-r18-linear"], num_classes=4).train()
    kept = []
    for stages in (False, True):
        model.backbone.recompute_stages = stages
        saved = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal saved
            saved += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            model(torch.randn(2, 3, 64, 64))
        kept.append(saved)
    weights = sum(p.numel() for p in model.parameters())
    assert kept[1] < kept[0] / 2, weights


def test_nothing_is_computed_twice_in_evaluation():
    model = build(VARIANTS["fcn-r18-linear"], num_classes=4).eval()
    model.backbone.recompute_stages = True
    output = model(torch.randn(1, 3, 32, 32, requires_grad=True)).logits
    assert "Checkpoint" not in type(output.grad_fn).__name__
