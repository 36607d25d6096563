import pytest
import torch
from torch import nn
from variants import VARIANTS

from perpixel.acceleration.fuse_conv_bn import fuse_conv_bn
from perpixel.models.build import build
from perpixel.models.layers import FrozenBatchNorm2d
from perpixel.models.segmenter import Segmenter
from perpixel.recipes.models import FCN, Timm


def lived_in(model: Segmenter) -> Segmenter:
    """Norms with statistics and scales that are not those of a fresh model."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
            with torch.no_grad():
                module.running_mean.normal_(0, 0.5)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(-0.5, 1)
                module.bias.normal_(0, 0.5)
    return model


@pytest.mark.parametrize("name", VARIANTS)
def test_a_folded_network_computes_the_same(name: str):
    model = lived_in(build(VARIANTS[name], num_classes=5)).double()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    copy = fuse_conv_bn(model)
    images = torch.randn(2, 3, 65, 70, dtype=torch.float64)
    with torch.inference_mode():
        wanted = model.eval()(images, return_aux=True)
        found = copy(images, return_aux=True)
        single = copy.float()(images.float()).logits
    for ours, theirs in zip(found, wanted, strict=True):
        if theirs is not None:
            assert (ours - theirs).abs().max() < 1e-12 * theirs.abs().max()
    assert (single - wanted.logits).abs().max() < 1e-5 * wanted.logits.abs().max()
    assert not any(isinstance(m, nn.BatchNorm2d | FrozenBatchNorm2d) for m in copy.modules())
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_folding_again_changes_nothing():
    model = lived_in(build(VARIANTS["fcn-r18-linear"], num_classes=3))
    once = fuse_conv_bn(model)
    twice = fuse_conv_bn(once)
    images = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(once(images).logits, twice(images).logits)


def test_a_backbone_whose_norms_are_not_ours_is_left_alone():
    from perpixel.models.timm_backbone import TimmBackbone

    backbone = TimmBackbone.__new__(TimmBackbone)
    nn.Module.__init__(backbone)
    backbone.body = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    spec = VARIANTS["fcn-r18-linear"].model_copy(update={"head": FCN(num_convs=1)})
    model = build(spec, num_classes=3)
    model.spec = spec.model_copy(update={"backbone": Timm()})
    model.backbone = backbone
    copy = fuse_conv_bn(model)
    assert isinstance(copy.backbone.body[1], nn.BatchNorm2d)
    assert isinstance(copy.head.convs[0][1], nn.Identity)
