import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from perpixel.ops.fused_cross_entropy import backward_in_chunks, forward_in_chunks
from perpixel.ops.triton.cross_entropy import backward, forward
from perpixel.recipes.schema import IGNORE_INDEX


def batch(classes: int, small: tuple, large: tuple, *, device, images: int = 2):
    logits = 3 * torch.randn(images, classes, *small, dtype=torch.float64, device=device)
    labels = torch.randint(0, classes, (images, *large), dtype=torch.uint8, device=device)
    labels[torch.rand(labels.shape, device=device) < 0.2] = IGNORE_INDEX
    return logits, labels, torch.randn(labels.shape, dtype=torch.float64, device=device)


def both(logits: Tensor, labels: Tensor, pull: Tensor, **how):
    """(losses, log sums, gradient) of the kernels and of the bands."""
    kernels, bands = forward(logits, labels, **how), forward_in_chunks(logits, labels, **how)
    given = (pull.to(bands[0].dtype), logits, labels, bands[1])
    return (*kernels, backward(*given, **how)), (*bands, backward_in_chunks(*given, **how))


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("classes", "small", "large"),
    [
        (1, (1, 1), (2, 3)),
        (5, (3, 4), (7, 9)),
        (19, (1, 16), (2, 130)),  # classes in two blocks, pixels in two programs
        (2, (2, 35), (3, 70)),  # cells in two programs
        (3, (4, 3), (4, 3)),  # nothing to upsample
        (3, (7, 5), (3, 2)),  # smaller than the logits
    ],
)
def test_the_kernels_are_the_bands_in_float64(classes, small, large, align_corners, device):
    given = batch(classes, small, large, device=device)
    found, wanted = both(*given, align_corners=align_corners)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.dtype == torch.float64
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(
    images=st.integers(1, 2),
    classes=st.integers(1, 18),
    sizes=st.tuples(*[st.integers(1, 6)] * 2, *[st.integers(1, 9)] * 2),
    align_corners=st.booleans(),
    smoothing=st.sampled_from([0.0, 0.1]),
    seed=st.integers(0, 99),
)
def test_the_kernels_are_the_bands_at_any_size(
    images, classes, sizes, align_corners, smoothing, seed
):
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    given = batch(classes, sizes[:2], sizes[2:], device=device, images=images)
    found, wanted = both(*given, align_corners=align_corners, smoothing=smoothing)
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_logits_are_worked_on_in_float32(dtype, device):
    logits, labels, pull = batch(6, (2, 3), (6, 9), device=device)
    low = logits.to(dtype).contiguous(memory_format=torch.channels_last)
    found, _ = both(low, labels, pull, align_corners=False)
    exact = forward_in_chunks(low.double(), labels, align_corners=False)
    gradient = backward_in_chunks(pull, low.double(), labels, exact[1], align_corners=False)
    wanted = (*exact, gradient)
    assert [tensor.dtype for tensor in found] == [torch.float32, torch.float32, dtype]
    assert torch.allclose(found[0].double(), wanted[0], rtol=1e-5, atol=1e-5)
    error = (found[2].double() - wanted[2]).abs().max() / wanted[2].abs().max()
    assert error < max(2e-6, torch.finfo(dtype).eps)  # bfloat16: the rounding of the result


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_label_of_no_class_has_an_infinite_loss(device, smoothing):
    logits, labels, _ = batch(3, (2, 2), (4, 4), device=device)
    labels[0, 0, 0] = 3
    losses, _ = forward(logits, labels, align_corners=False, smoothing=smoothing)
    assert losses[0, 0, 0] == float("inf")
    assert losses.isfinite().sum() == losses.numel() - 1


def test_extreme_logits_stay_finite(device):
    logits, labels, pull = batch(3, (2, 2), (4, 4), device=device)
    with warnings.catch_warnings():  # of numpy, in lanes that are masked out
        warnings.simplefilter("ignore", RuntimeWarning)
        (losses, _, gradient), _ = both(1e4 * logits.float(), labels, pull, align_corners=False)
    assert losses.isfinite().all()
    assert gradient.isfinite().all()
