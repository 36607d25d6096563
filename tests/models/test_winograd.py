"""Winograd's convolutions are convolutions."""

import subprocess
import sys
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.export import Dim
from torch.nn.functional import conv2d

from perpixel.models import winograd
from perpixel.models.build import build, to_device
from perpixel.models.winograd import Conv3x3
from perpixel.recipes import recipe


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
        found = winograd.winograd(features, weight, dilation=dilation)
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
    layer = Conv3x3(inputs, 128, dilation=dilation, bias=True)
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
    layer = Conv3x3(5, 7, bias=True).double()
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
    assert not winograd.pays(large[:, :64], weight[:, :64], dilation=1)
    assert not winograd.pays(large[:, :128], weight[:128, :128], dilation=1)
    assert not winograd.pays(large[..., :33], weight, dilation=8)  # mostly padding
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not winograd.pays(large, weight, dilation=1)


@pytest.mark.parametrize("autocast", [False, True])
def test_prediction_gives_2048_channels_zeros_beside_them_and_the_same_numbers(
    autocast: bool, monkeypatch
):
    layer = Conv3x3(2048, 16, bias=True)
    features = random(1, 2048, 6, 7, dtype=torch.bfloat16)
    if not autocast:
        layer = layer.bfloat16()
    channels = []
    convolve = layer._conv_forward
    monkeypatch.setattr(
        layer, "_conv_forward", lambda *all: (channels.append(all[0].shape[1]), convolve(*all))[1]
    )
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        trained = layer(features)
        with torch.inference_mode():
            predicted = layer(features)
    assert channels == [2048, 2080]
    torch.testing.assert_close(predicted, trained, rtol=2**-8, atol=2**-8)  # a bit of bfloat16


def test_channels_get_zeros_where_they_collide_alone():
    weight, features = random(16, 2048, 3, 3).bfloat16(), random(1, 2048, 6, 7).bfloat16()
    assert not winograd.pixels_collide(features, weight)  # gradients may be asked for
    with torch.no_grad():
        assert winograd.pixels_collide(features, weight)
        assert not winograd.pixels_collide(features.float(), weight)
        assert not winograd.pixels_collide(features.to("meta"), weight)
        assert not winograd.pixels_collide(features[0], weight)
        assert not winograd.pixels_collide(features[:, :1024], weight[:, :1024])
        assert not winograd.pixels_collide(features, weight[:, :1024])
    with pytest.raises(RuntimeError, match="1024 channels, but got 2048"), torch.no_grad():
        Conv3x3(1024, 16).bfloat16()(features)


@pytest.mark.parametrize(
    ("channels", "size", "dtype"),
    [((256, 256), (40, 48), torch.float32), ((2048, 16), (8, 9), torch.bfloat16)],
)
@torch.no_grad()
def test_an_exported_network_has_its_convolutions(
    channels: tuple[int, int], size: tuple[int, int], dtype: torch.dtype
):
    layer = Conv3x3(*channels).eval().to(dtype)
    features = random(1, channels[0], *size, dtype=dtype)
    any_size = {0: Dim("n"), 2: Dim("h", min=8), 3: Dim("w", min=8)}
    for strict in (True, False):
        given = (features.expand(2, -1, -1, -1),)
        exported = torch.export.export(layer, given, dynamic_shapes=(any_size,), strict=strict)
        graph = exported.graph
        called = {str(node.target) for node in graph.nodes if node.op == "call_function"}
        assert called == {"aten.conv2d.default"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        traced = torch.jit.trace(layer, features, check_trace=False)
    assert "aten::_convolution" in str(traced.graph)
    assert "aten::pad" not in str(traced.graph)


def test_logits_of_a_network_keep_within_1e_4_and_gradients_within_2e_3(monkeypatch):
    model = build(recipe("mmseg/fcn_r50-d8_512x512_20k_voc12aug").model, num_classes=5)
    model = to_device(model, "cpu").eval()
    images = random(1, 3, 256, 256, dtype=torch.float32)
    weight = model.backbone.layer2[0].conv1.weight
    taken = []
    own = winograd.pays

    def noting(*given, **named) -> bool:
        taken.append(own(*given, **named))
        return taken[-1]

    monkeypatch.setattr(winograd, "pays", noting)
    fast = model(images).logits
    fast_gradient = torch.autograd.grad(fast.square().sum(), weight)[0]
    assert sum(taken) >= 8
    monkeypatch.setattr(winograd, "pays", lambda *_, **__: False)
    direct = model(images).logits
    direct_gradient = torch.autograd.grad(direct.square().sum(), weight)[0]
    assert (fast - direct).abs().max() < 1e-4 * direct.abs().max()
    far = (fast_gradient - direct_gradient).abs().max()  # where a ReLU's input was about zero
    assert far < 2e-3 * direct_gradient.abs().max()


def test_what_does_not_fit_is_refused_as_torch_does():
    layer = Conv3x3(256, 256)
    with pytest.raises(RuntimeError, match="expected input"):
        layer(random(1, 128, 40, 48, dtype=torch.float32))
    assert layer(random(0, 256, 40, 48, dtype=torch.float32)).shape == (0, 256, 40, 48)
    assert layer(random(256, 40, 48, dtype=torch.float32)).shape == (256, 40, 48)


def test_a_result_may_be_changed_in_place():
    layer = Conv3x3(256, 256)
    features = random(1, 256, 40, 48, dtype=torch.float32)
    layer(features).relu_().sum().backward()
    assert layer.weight.grad.abs().max() > 0


def test_gradients_are_float32_whatever_is_cast_around_them():
    layer = Conv3x3(256, 256)
    total = layer(random(1, 256, 40, 48, dtype=torch.float32)).sum()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total.backward()
    assert layer.weight.grad.dtype == torch.float32


def test_it_is_on_the_cpu_whatever_the_default_device_is_at_first():
    script = (
        "import torch\n"
        "with torch.device('meta'):\n"
        "    from perpixel.models.winograd import Conv3x3\n"
        "Conv3x3(256, 256)(torch.ones(1, 256, 40, 48))\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
