"""The fused loss against interpolate and cross_entropy, which it never calls."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate

from perpixel.ops import fused_cross_entropy
from perpixel.ops.fused_cross_entropy import pixel_cross_entropy
from perpixel.recipes.schema import IGNORE_INDEX


def batch(classes: int, small: tuple, large: tuple, *, images: int = 2):
    logits = 3 * torch.randn(images, classes, *small, dtype=torch.float64)
    labels = torch.randint(0, classes, (images, *large), dtype=torch.uint8)
    labels[torch.rand(labels.shape) < 0.2] = IGNORE_INDEX
    return logits, labels


def materialised(
    logits: Tensor, labels: Tensor, *, align_corners: bool, smoothing: float = 0.0
) -> Tensor:
    size = labels.shape[1:]
    full = interpolate(logits, size=size, mode="bilinear", align_corners=align_corners)
    return cross_entropy(
        full, labels.long(), ignore_index=IGNORE_INDEX, reduction="none", label_smoothing=smoothing
    )


def with_gradient(way, logits: Tensor, labels: Tensor, *, pull: Tensor, **how):
    leaf = logits.detach().clone().requires_grad_()
    losses = way(leaf, labels, **how)
    losses.backward(pull.to(losses.dtype))
    return losses.detach(), leaf.grad


def assert_same(logits: Tensor, labels: Tensor, *, tolerance: float, **how):
    pull = torch.randn(labels.shape, dtype=torch.float64)
    ways = (pixel_cross_entropy, materialised)
    found, wanted = (with_gradient(way, logits, labels, pull=pull, **how) for way in ways)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance)


@settings(max_examples=80, deadline=None)
@given(
    images=st.integers(1, 3),
    classes=st.integers(1, 30),
    sizes=st.tuples(*[st.integers(1, 12)] * 2, *[st.integers(1, 40)] * 2),
    align_corners=st.booleans(),
    smoothing=st.sampled_from([0.0, 0.1, 0.9]),
    seed=st.integers(0, 99),
)
def test_is_interpolate_and_cross_entropy(images, classes, sizes, align_corners, smoothing, seed):
    torch.manual_seed(seed)
    logits, labels = batch(classes, sizes[:2], sizes[2:], images=images)
    how = {"align_corners": align_corners, "smoothing": smoothing}
    assert_same(logits, labels, tolerance=1e-9, **how)


@pytest.mark.parametrize("values", [1, 1000, 1 << 30], ids=["a row", "a few", "one band"])
@pytest.mark.parametrize("align_corners", [False, True])
def test_the_bands_height_changes_nothing(monkeypatch, values: int, align_corners: bool):
    monkeypatch.setitem(fused_cross_entropy._VALUES, "cpu", values)
    logits, labels = batch(7, (9, 6), (70, 45))
    assert_same(logits, labels, align_corners=align_corners, tolerance=1e-9)


@pytest.mark.parametrize("align_corners", [False, True])
def test_the_gradient_is_the_losses_slope(align_corners: bool):
    logits, labels = batch(4, (2, 3), (5, 4), images=1)
    assert torch.autograd.gradcheck(
        lambda x: pixel_cross_entropy(x, labels, align_corners=align_corners),
        logits.requires_grad_(),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_logits_are_worked_on_in_float32(dtype: torch.dtype):
    logits, labels = batch(20, (8, 9), (64, 70))
    low = logits.to(dtype).contiguous(memory_format=torch.channels_last)
    pull = torch.rand(labels.shape, dtype=torch.float64)
    found = with_gradient(pixel_cross_entropy, low, labels, align_corners=False, pull=pull)
    wanted = with_gradient(materialised, low.double(), labels, align_corners=False, pull=pull)
    assert [tensor.dtype for tensor in found] == [torch.float32, dtype]
    assert torch.allclose(found[0].double(), wanted[0], rtol=1e-5, atol=1e-5)
    error = (found[1].double() - wanted[1]).abs().max() / wanted[1].abs().max()
    assert error < max(2e-6, torch.finfo(dtype).eps)  # bfloat16: the rounding of the result


def test_autocast_around_it_changes_nothing():
    logits, labels = (given.float() if given.is_floating_point() else given
                      for given in batch(5, (4, 4), (16, 16)))  # fmt: skip
    pull = torch.rand(labels.shape)
    plain = with_gradient(pixel_cross_entropy, logits, labels, align_corners=False, pull=pull)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = with_gradient(pixel_cross_entropy, logits, labels, align_corners=False, pull=pull)
    for ours, theirs in zip(inside, plain, strict=True):
        assert torch.equal(ours, theirs)


def test_two_passes_are_bit_for_bit_the_same():
    logits, labels = batch(11, (13, 9), (100, 71))
    pull = torch.rand(labels.shape)
    first, second = (
        with_gradient(pixel_cross_entropy, logits.float(), labels, align_corners=False, pull=pull)
        for _ in range(2)
    )
    for ours, theirs in zip(first, second, strict=True):
        assert torch.equal(ours, theirs)


def test_a_label_of_no_class_is_refused():
    logits, labels = batch(3, (2, 2), (4, 4))
    labels[0, 0, 0] = 3
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        pixel_cross_entropy(logits, labels, align_corners=False)


def test_extreme_logits_have_finite_gradients():
    logits, labels = batch(3, (2, 2), (8, 8))
    pull = torch.ones(labels.shape)
    both = with_gradient(
        pixel_cross_entropy, 1e4 * logits.float(), labels, align_corners=False, pull=pull
    )
    assert all(tensor.isfinite().all() for tensor in both)
