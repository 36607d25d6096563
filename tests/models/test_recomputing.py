from copy import deepcopy

import pytest
import torch
from test_networks import VARIANTS

from perpixel.models import recomputing
from perpixel.models.build import build
from perpixel.models.recomputing import activations_recomputed
from perpixel.models.segmenter import Segmenter
from perpixel.recipes.network import Model

pytestmark = pytest.mark.usefixtures("narrow")


@pytest.mark.parametrize(("again", "stages"), [(True, ()), (False, (1, 3, 4)), (True, (1, 3, 4))])
@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_recomputed_learns_the_same(name: str, again: bool, stages: tuple[int, ...]):
    """Gradients, and norms' statistics, which the second computation must not touch."""
    spec: Model = VARIANTS[name]
    usual = build(spec, classes=4).double().train()
    network = deepcopy(usual)
    network.backbone.recomputed = stages
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for each, context in ((usual, False), (network, again)):
        with activations_recomputed(context):
            loss = _loss(each, images)
        loss.backward()
    _require_equal(network, usual)


def test_a_second_backward_pass_adds_the_same_gradients():
    network = build(VARIANTS["fpn-r50-caffe"], classes=4).double().train()
    usual = deepcopy(network)
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with activations_recomputed():
        loss = _loss(network, images)
    for each in (loss, _loss(usual, images)):
        each.backward(retain_graph=True)
        each.backward()
    _require_equal(network, usual)


def _loss(network: Segmenter, images: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(1)  # dropout in the heads
    output = network(images, auxiliary=True)
    return sum(logits.square().mean() for logits in output if logits is not None)


def _require_equal(network: Segmenter, usual: Segmenter) -> None:
    found = dict(network.named_parameters())
    for key, parameter in usual.named_parameters():
        if parameter.grad is None:
            assert found[key].grad is None, key
        else:
            assert torch.equal(found[key].grad, parameter.grad), key
    for key, tensor in usual.state_dict().items():
        assert torch.equal(network.state_dict()[key], tensor), key


def test_activations_are_not_kept(monkeypatch):
    """Of a stage its input, the norms' 3 x 6 + 1 inputs and blocks 1, 3 and 5's outputs stay."""
    stage = build(VARIANTS["fcn-r50-d32-1x1"], classes=4).backbone.layer3.train()

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
    network = build(VARIANTS["fcn-r18-linear"], classes=4).train()
    kept = []
    for stages in ((), (1, 2, 3, 4)):
        network.backbone.recomputed = stages
        saved = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal saved
            saved += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            network(torch.randn(2, 3, 64, 64))
        kept.append(saved)
    weights = sum(p.numel() for p in network.parameters())
    assert kept[1] < kept[0] / 2, weights


def test_nothing_is_computed_twice_in_evaluation():
    network = build(VARIANTS["fcn-r18-linear"], classes=4).eval()
    network.backbone.recomputed = (1, 2, 3, 4)
    output = network(torch.randn(1, 3, 32, 32, requires_grad=True)).main
    assert "Checkpoint" not in type(output.grad_fn).__name__
