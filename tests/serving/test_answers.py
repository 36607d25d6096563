"""Run lengths, and the format that an Accept header selects."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from perpixel.serving.answers import choose_format, run_lengths


@given(arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_run_lengths_decode_to_the_region(inside):
    encoded = run_lengths(inside)
    assert encoded.size == inside.shape
    values = np.arange(len(encoded.counts)) % 2 == 1
    decoded = np.repeat(values, encoded.counts).reshape(inside.shape, order="F")
    assert (decoded == inside).all()
    assert all(count > 0 for count in encoded.counts[1:])


def test_run_lengths_go_down_columns_and_begin_outside():
    inside = np.array([[True, False], [True, False], [False, True]])
    assert run_lengths(inside).counts == [0, 2, 3, 1]


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("*/*", "png"),
        ("image/*", "png"),
        ("application/json", "json"),
        ("application/*", "json"),
        ("application/vnd.perpixel.rle+json", "rle"),
        ("text/html,application/xhtml+xml,image/avif,*/*;q=0.8", "png"),
        ("image/png;q=0.2, application/json;q=0.9", "json"),
        ("image/png;q=0, */*", "json"),
        ("APPLICATION/JSON ; q=1.0", "json"),
        ("image/png;q=nan, application/json;q=0.5", "png"),
        ("text/html", None),
        ("*/*;q=0", None),
        ("", None),
    ],
)
def test_accept_headers_choose(accept, form):
    assert choose_format(accept) == form
