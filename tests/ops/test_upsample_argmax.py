from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import interpolate

from perpixel.ops.bilinear import ResizeWeights, compose, resize_weights
from perpixel.ops.upsample_argmax import Upsampling, row_chunk, row_chunks, upsample_argmax

CPU = torch.device("cpu")
side = st.integers(1, 12)


def tables(small, large, align_corners: bool) -> tuple[ResizeWeights, ...]:
    return tuple(
        resize_weights(a, b, align_corners=align_corners) for a, b in zip(small, large, strict=True)
    )


def last(logits: Tensor) -> Tensor:
    return logits.permute(1, 2, 0)


def sure(wanted: Tensor) -> Tensor:
    """Where the best of [classes, H, W] leads by more than rounding."""
    if len(wanted) == 1:
        return torch.ones(wanted.shape[1:], dtype=torch.bool)
    best, second = wanted.topk(2, dim=0).values
    return best - second > 1e-5


def blobs(classes: int, size: tuple[int, int]) -> Tensor:
    """Logits with large areas of one class, as a trained model's; [classes, h, w]."""
    rough = torch.randn(1, classes, 3, 4)
    return interpolate(rough, size=size, mode="bicubic")[0] * 4


@settings(max_examples=150)
@given(
    small=st.tuples(side, side),
    large=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    classes=st.integers(1, 20),
    align_corners=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_class_maps_are_interpolate_then_argmax(small, large, classes, align_corners, seed):
    torch.manual_seed(seed)
    logits = blobs(classes, small) if seed % 2 else torch.randn(classes, *small)
    wanted = interpolate(logits[None], size=large, mode="bilinear", align_corners=align_corners)[0]
    found = upsample_argmax(Upsampling(last(logits), *tables(small, large, align_corners)))
    assert found.dtype == torch.uint8
    assert (found.long() == wanted.argmax(0))[sure(wanted)].all()


@settings(max_examples=100)
@given(
    small=st.tuples(side, side),
    middle=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    large=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    align_corners=st.booleans(),
)
def test_two_resizes_are_one(small, middle, large, align_corners):
    logits = torch.randn(6, *small)
    wanted = logits[None]
    for size in (middle, large):
        wanted = interpolate(wanted, size=size, mode="bilinear", align_corners=align_corners)
    rows, columns = (
        compose(inner, outer)
        for inner, outer in zip(
            tables(small, middle, align_corners), tables(middle, large, align_corners), strict=True
        )
    )
    given_ = Upsampling(last(logits), rows, columns)
    assert (upsample_argmax(given_).long() == wanted[0].argmax(0))[sure(wanted[0])].all()
    found = torch.cat(
        [
            row_chunk(*given_, top=top, bottom=bottom)
            for top, bottom in ((0, large[0] // 2), (large[0] // 2, large[0]))
        ]
    )
    torch.testing.assert_close(found, last(wanted[0]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_number_formats_are_compared_in_float32(dtype):
    logits = blobs(9, (10, 12)).to(dtype)
    wanted = interpolate(logits.float()[None], size=(80, 96), mode="bilinear")[0]
    found = upsample_argmax(Upsampling(last(logits), *tables((10, 12), (80, 96), False)))
    assert (found.long() == wanted.argmax(0))[sure(wanted)].all()


def test_many_candidates_in_a_cell_are_all_looked_at():
    logits = torch.randn(200, 4, 4) * 0.01  # every class may win somewhere
    wanted = interpolate(logits[None], size=(64, 64), mode="bilinear")[0]
    found = upsample_argmax(Upsampling(last(logits), *tables((4, 4), (64, 64), False)))
    best, second = wanted.topk(2, dim=0).values
    assert (found.long() == wanted.argmax(0))[best - second > 1e-7].all()


def test_equal_scores_go_to_the_lowest_class():
    logits = torch.zeros(5, 3, 3)
    logits[3:, 1] = 1
    found = upsample_argmax(Upsampling(last(logits), *tables((3, 3), (24, 24), False)))
    assert set(np.unique(found.numpy())) == {0, 3}


def test_bands_cover_a_map_once_in_order():
    found = list(row_chunks((1000, 700), num_classes=150, device=CPU))
    assert found[0][0] == 0
    assert found[-1][1] == 1000
    assert all(a[1] == b[0] for a, b in pairwise(found))
    assert len(found) > 10
    assert list(row_chunks((2, 10**9), num_classes=150, device=CPU)) == [(0, 1), (1, 2)]
