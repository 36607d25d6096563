import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from perpixel.ops.bilinear import compose, matrix, resize_weights

sizes = st.integers(1, 40)


@given(small=sizes, large=st.integers(1, 200), align_corners=st.booleans())
def test_a_table_is_what_interpolate_does(small: int, large: int, align_corners: bool):
    values = torch.rand(1, 1, small, 1, dtype=torch.float64)
    wanted = interpolate(values, size=(large, 1), mode="bilinear", align_corners=align_corners)
    table = resize_weights(small, large, align_corners=align_corners)
    assert torch.allclose(matrix(table) @ values[0, 0], wanted[0, 0], rtol=0, atol=1e-9)
    assert (table.weights >= 0).all()
    assert (table.first >= 0).all()
    assert (table.first + table.weights.shape[1] <= small).all()


@given(small=sizes, middle=sizes, large=sizes, align_corners=st.booleans())
def test_two_resizes_are_one_table(small: int, middle: int, large: int, align_corners: bool):
    inner = resize_weights(small, middle, align_corners=align_corners)
    outer = resize_weights(middle, large, align_corners=align_corners)
    both = compose(inner, outer)
    assert torch.allclose(matrix(both), matrix(outer) @ matrix(inner), rtol=0, atol=1e-12)
    assert (both.first + both.weights.shape[1] <= small).all()


@pytest.mark.parametrize("align_corners", [False, True])
def test_weights_of_a_row_sum_to_one(align_corners: bool):
    table = compose(
        resize_weights(64, 512, align_corners=align_corners),
        resize_weights(512, 375, align_corners=align_corners),
    )
    assert torch.allclose(table.weights.sum(dim=1), torch.ones(375, dtype=torch.float64))
