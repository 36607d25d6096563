import numpy as np
import pytest
import torch

from perpixel.losses import segmentation_loss
from perpixel.recipes.spec import IGNORE, Loss

VALID, ALL = Loss(mean="valid"), Loss(mean="all")


def plain_loss(logits: torch.Tensor, labels: torch.Tensor, mean: str) -> float:
    """Pixel by pixel, in float64, without torch's loss functions."""
    scores, total, count = logits.double().numpy(), 0.0, 0
    for picture, row, column in np.ndindex(*labels.shape):
        label = int(labels[picture, row, column])
        if label == IGNORE:
            continue
        values = scores[picture, :, row, column]
        total += np.log(np.exp(values - values.max()).sum()) + values.max() - values[label]
        count += 1
    return total / (count if mean == "valid" else labels.numel())


@pytest.mark.parametrize("spec", [VALID, ALL], ids=["valid", "all"])
def test_equals_the_formula_pixel_by_pixel(spec: Loss):
    logits = 3 * torch.randn(2, 4, 5, 7)
    labels = torch.randint(0, 4, (2, 5, 7), dtype=torch.uint8)
    labels[:, :2] = IGNORE
    expected = plain_loss(logits, labels, spec.mean)
    assert segmentation_loss(logits, labels, spec).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("align_corners", [False, True])
def test_logits_are_enlarged_bilinearly(align_corners: bool):
    logits = torch.randn(1, 3, 2, 2)
    labels = torch.randint(0, 3, (1, 5, 5), dtype=torch.uint8)
    full = torch.nn.functional.interpolate(
        logits, size=(5, 5), mode="bilinear", align_corners=align_corners
    )
    found = segmentation_loss(logits, labels, VALID, align_corners=align_corners)
    assert found.item() == pytest.approx(plain_loss(full, labels, "valid"), rel=1e-5)


@pytest.mark.parametrize("spec", [VALID, ALL], ids=["valid", "all"])
def test_a_batch_of_nothing_but_void_changes_nothing(spec: Loss):
    logits = torch.randn(2, 4, 3, 3, requires_grad=True)
    labels = torch.full((2, 6, 6), IGNORE, dtype=torch.uint8)
    loss = segmentation_loss(logits, labels, spec)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_low_precision_logits_are_summed_in_float32():
    logits = torch.randn(1, 4, 8, 8)
    labels = torch.randint(0, 4, (1, 8, 8), dtype=torch.uint8)
    low = segmentation_loss(logits.bfloat16(), labels, VALID)
    assert low.dtype == torch.float32
    assert low.item() == pytest.approx(
        segmentation_loss(logits.bfloat16().float(), labels, VALID).item(), rel=1e-6
    )
