"""Winograd's convolutions are convolutions."""

import subprocess
import sys
from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.export import Dim
from torch.nn.functional import conv2d

from perpixel.acceleration import winograd
from perpixel.acceleration.winograd import WinogradConv2d, use_winograd
from perpixel.models.build import build
from perpixel.recipes import recipe


def layer_of(inputs: int, outputs: int, *, dilation: int = 1, bias: bool = False) -> WinogradConv2d:
    conv = nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, bias=bias)
    return WinogradConv2d(conv)


def random(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=dtype)


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 3),
    channels=st.integers(1, 9),
    outputs=st.integers(1, 5),
    height=st.integers(1, 19),
    width=st.integers(1, 19),
    dilation=st.integers(1, 4),
    tiles=st.sampled_from([1, 7, 512]),
    inputs=st.sampled_from([1, 4, 256]),
)
def test_values_and_gradients_are_those_of_a_convolution(
    n, channels, outputs, height, width, dilation, tiles, inputs
):
    features = random(n, channels, height, width).requires_grad_()
    weight = random(outputs, channels, 3, 3).requires_grad_()
    gradient = random(n, outputs, height, width)
    expected = conv2d(features, weight, padding=dilation, dilation=dilation)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "_TILES", tiles)
        patch.setattr(winograd, "_INPUTS", inputs)
        patch.setattr(winograd, "_OUTPUTS", inputs)
        found = winograd.winograd(features, weight, dilation)
        mine = torch.autograd.grad(found, (features, weight), gradient)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
    theirs = torch.autograd.grad(expected, (features, weight), gradient)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("inputs", "dilation"), [(256, 1), (256, 2), (256, 4), (2048, 1)])
def test_float32_is_within_2e_5_of_the_greatest_value(
    inputs: int, dilation: int, channels_last: bool
):
    layer = layer_of(inputs, 128, dilation=dilation, bias=True)
    features = random(1, inputs, 40, 48, dtype=torch.float32)
    if channels_last:
        features = features.contiguous(memory_format=torch.channels_last)
    assert winograd.pays(features, layer.weight, dilation=dilation)
    with torch.inference_mode():
        found = layer(features)
    expected = layer.double()(features.double())
    assert (found - expected).abs().max() < 2e-5 * expected.abs().max()


def test_the_layer_with_a_bias_has_a_convolutions_gradients(monkeypatch):
    monkeypatch.setattr(winograd, "pays", lambda *_, **__: True)
    layer = layer_of(5, 7, bias=True).double()
    features = random(2, 5, 9, 14).requires_grad_()
    assert layer.bias is not None
    wanted = features, layer.weight, layer.bias
    found = layer(features)
    expected = conv2d(features, layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    gradient = random(*found.shape)
    mine = torch.autograd.grad(found, wanted, gradient)
    theirs = torch.autograd.grad(expected, wanted, gradient)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_it_is_for_large_float32_maps_on_a_cpu_alone():
    large = random(1, 256, 40, 48, dtype=torch.float32)
    weight = random(256, 256, 3, 3, dtype=torch.float32)
    assert winograd.pays(large, weight, dilation=1)
    assert not winograd.pays(large.bfloat16(), weight, dilation=1)
    assert not winograd.pays(large.to("meta"), weight, dilation=1)
    assert not winograd.pays(large[..., :16, :16], weight, dilation=1)
    assert not winograd.pays(large[..., :16, :16].expand(8, -1, -1, -1), weight, dilation=1)
    assert not winograd.pays(large[..., :33], weight, dilation=8)  # mostly padding


@pytest.mark.parametrize(
    ("conv", "suits"),
    [
        (nn.Conv2d(128, 256, 3, padding=1), True),
        (nn.Conv2d(256, 256, 3, padding=4, dilation=4, bias=False), True),
        (nn.Conv2d(64, 256, 3, padding=1), False),
        (nn.Conv2d(128, 128, 3, padding=1), False),
        (nn.Conv2d(256, 256, 3, padding=1, stride=2), False),
        (nn.Conv2d(256, 256, 3, padding=1, groups=2), False),
        (nn.Conv2d(256, 256, 3, padding=1, padding_mode="reflect"), False),
        (nn.Conv2d(256, 256, 3), False),
        (nn.Conv2d(256, 256, 1), False),
        (nn.Conv2d(256, 256, 5, padding=2), False),
    ],
    ids=repr,
)
def test_a_convolution_that_suits_is_replaced_with_its_keys_and_numbers(conv, suits: bool):
    model = nn.Sequential(conv)
    keys, images = list(model.state_dict()), random(1, conv.in_channels, 40, 48).float()
    with torch.no_grad():
        expected = model(images)
        use_winograd(model)
        found = model(images)
    assert isinstance(model[0], WinogradConv2d) == suits
    assert list(model.state_dict()) == keys
    assert model[0].weight is conv.weight
    assert (found - expected).abs().max() < 2e-5 * expected.abs().max()


@torch.no_grad()
def test_an_exported_layer_is_a_plain_convolution():
    layer = layer_of(256, 256).eval()
    features = random(1, 256, 40, 48, dtype=torch.float32)
    any_size = {0: Dim("n"), 2: Dim("h", min=8), 3: Dim("w", min=8)}
    for strict in (True, False):
        given = (features.expand(2, -1, -1, -1),)
        exported = torch.export.export(layer, given, dynamic_shapes=(any_size,), strict=strict)
        nodes = exported.graph.nodes
        called = {str(node.target) for node in nodes if node.op == "call_function"}
        assert called == {"aten.conv2d.default"}


def test_logits_of_a_model_keep_within_1e_4_and_gradients_within_2e_3():
    direct = build(recipe("mmseg/fcn_r50-d8_512x512_20k_voc12aug").model, num_classes=5).eval()
    fast = deepcopy(direct)
    use_winograd(fast)
    assert sum(isinstance(module, WinogradConv2d) for module in fast.modules()) >= 8
    images = random(1, 3, 256, 256, dtype=torch.float32)
    logits, gradients = [], []
    for model in (direct, fast):
        logits.append(model(images).logits)
        weight = model.backbone.layer2[0].conv1.weight
        gradients.append(torch.autograd.grad(logits[-1].square().sum(), weight)[0])
    assert not torch.equal(*logits)
    assert (logits[1] - logits[0]).abs().max() < 1e-4 * logits[0].abs().max()
    far = (gradients[1] - gradients[0]).abs().max()  # where a ReLU's input was about zero
    assert far < 2e-3 * gradients[0].abs().max()


def test_what_does_not_fit_is_refused_as_torch_does():
    layer = layer_of(256, 256)
    with pytest.raises(RuntimeError, match="expected input"):
        layer(random(1, 128, 40, 48, dtype=torch.float32))
    assert layer(random(0, 256, 40, 48, dtype=torch.float32)).shape == (0, 256, 40, 48)
    assert layer(random(256, 40, 48, dtype=torch.float32)).shape == (256, 40, 48)


def test_a_result_may_be_changed_in_place():
    layer = layer_of(256, 256)
    features = random(1, 256, 40, 48, dtype=torch.float32)
    layer(features).relu_().sum().backward()
    assert layer.weight.grad.abs().max() > 0


def test_gradients_are_float32_whatever_is_cast_around_them():
    layer = layer_of(256, 256)
    total = layer(random(1, 256, 40, 48, dtype=torch.float32)).sum()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total.backward()
    assert layer.weight.grad.dtype == torch.float32


def test_it_is_on_the_cpu_whatever_the_default_device_is_at_first():
    script = (
        "import torch\n"
        "with torch.device('meta'):\n"
        "    from perpixel.acceleration.winograd import WinogradConv2d\n"
        "conv = torch.nn.Conv2d(256, 256, 3, padding=1)\n"
        "WinogradConv2d(conv)(torch.ones(1, 256, 40, 48))\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
