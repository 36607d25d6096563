from copy import deepcopy

import pytest
import torch
from test_networks import VARIANTS

from perpixel.models.build import build
from perpixel.recipes.network import Model

pytestmark = pytest.mark.usefixtures("narrow")


@pytest.mark.parametrize("name", ["fcn-r18-d8-deep", "fpn-r50-neck-norm", "fpn-r50-caffe"])
def test_recomputed_stages_learn_the_same(name: str):
    """Gradients, and norms' statistics, which the second computation must not touch."""
    spec: Model = VARIANTS[name]
    usual = build(spec, classes=4).double().train()
    network = deepcopy(usual)
    network.backbone.recomputed = (1, 3, 4)
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for each in (usual, network):
        torch.manual_seed(1)  # dropout in the heads
        each(images).main.square().mean().backward()
    wanted, found = dict(usual.named_parameters()), dict(network.named_parameters())
    assert wanted.keys() == found.keys()
    for key, parameter in wanted.items():
        if parameter.grad is not None:
            assert torch.equal(found[key].grad, parameter.grad), key
    for key, tensor in usual.state_dict().items():
        assert torch.equal(network.state_dict()[key], tensor), key


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
