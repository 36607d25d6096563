"""Dilated depthwise convolutions learn in bfloat16, too."""

import pytest
import torch
from torch import nn

import perpixel
from perpixel.acceleration.dilated_depthwise import use_float32
from perpixel.runtime.dtype import autocast
from perpixel.training.step import make_train_state, train_step

CPU = torch.device("cpu")


@pytest.mark.parametrize("width", [24, 48])
@pytest.mark.parametrize("dilation", [2, 4])
def test_gradient_of_the_weights(width: int, dilation: int):
    torch.manual_seed(0)
    conv = nn.Conv2d(32, 32, 3, padding=dilation, dilation=dilation, groups=32)
    conv = conv.to(memory_format=torch.channels_last)
    images = torch.randn(2, 32, 24, width).to(memory_format=torch.channels_last)
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        conv.zero_grad()
        if dtype == torch.bfloat16:
            use_float32(conv)
        with autocast(CPU, dtype):
            output = conv(images.to(dtype))
        assert output.dtype == dtype
        output.float().pow(2).sum().backward()
        gradients.append(conv.weight.grad.clone())
    exact, ours = gradients
    assert (ours - exact).abs().max() < 0.02 * exact.abs().max()


@pytest.mark.parametrize("name", ["mobilenetv2_100", "tf_efficientnet_lite0"])
def test_a_dilated_mobile_network_gets_the_same_gradient_in_both_precisions(name: str):
    """Before, the second step's loss was not finite, or the norm many times too large."""
    recipe = perpixel.override(
        perpixel.recipe("camvid/fcn_mobilenetv2-d8"),
        [
            f"model.backbone.name={name}",
            "model.backbone.as_published=false",
            "model.head.channels=16",
            "model.aux_head=none",
        ],
    )
    torch.manual_seed(0)
    images = torch.randint(0, 256, (2, 96, 384, 3), dtype=torch.uint8)
    labels = torch.randint(0, 3, (2, 96, 384), dtype=torch.uint8)
    norms = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(1)
        model = perpixel.build(recipe, num_classes=3)
        state = make_train_state(model, recipe, device=CPU, dtype=dtype)
        norms.append(train_step(state, images, labels, recipe, step=0).gradient_norm)
    assert norms[1] == pytest.approx(norms[0], rel=0.1)
