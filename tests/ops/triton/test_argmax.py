import pytest
import torch
from torch.nn.functional import interpolate

from perpixel.ops.bilinear import compose, resize_weights
from perpixel.ops.triton.upsample_argmax import upsample_argmax


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("classes", "small", "large"),
    [(1, (1, 1), (2, 3)), (5, (3, 4), (7, 9)), (3, (2, 2), (2, 150)), (3, (4, 3), (4, 3))],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_kernel_is_interpolate_then_argmax(classes, small, large, align_corners, dtype, device):
    logits = torch.randn(1, classes, *small, device=device).to(dtype)
    wanted = interpolate(logits.float(), size=large, mode="bilinear", align_corners=align_corners)
    best = wanted.topk(min(2, classes), dim=1).values
    sure = (best[:, 0] - best[:, -1] > 1e-5)[0] if classes > 1 else torch.ones(large).bool()
    rows, columns = (
        resize_weights(a, b, align_corners=align_corners) for a, b in zip(small, large, strict=True)
    )
    if dtype != torch.float32:
        logits = logits.contiguous(memory_format=torch.channels_last)
    found = upsample_argmax(logits[0].permute(1, 2, 0), rows, columns)
    assert found.dtype == torch.uint8
    assert (found.long() == wanted.argmax(1)[0])[sure].all()
    assert sure.float().mean() > 0.97


def test_two_resizes_are_one_kernel(device):
    logits = torch.randn(1, 4, 3, 4, device=device)
    middle = interpolate(logits, size=(12, 16), mode="bilinear")
    wanted = interpolate(middle, size=(10, 13), mode="bilinear").argmax(1)[0]
    rows, columns = (
        compose(
            resize_weights(a, b, align_corners=False), resize_weights(b, c, align_corners=False)
        )
        for a, b, c in ((3, 12, 10), (4, 16, 13))
    )
    found = upsample_argmax(logits[0].permute(1, 2, 0), rows, columns)
    assert (found.long() == wanted).all()


def test_equal_scores_go_to_the_lowest_class(device):
    rows = columns = resize_weights(2, 6, align_corners=False)
    assert (upsample_argmax(torch.zeros(2, 2, 4, device=device), rows, columns) == 0).all()
