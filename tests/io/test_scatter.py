"""Scatter plots: labels that overlap nothing, axes that hold all values."""

import itertools
import random

import numpy as np
import pytest

from perpixel.io import scatter
from perpixel.io.scatter import Panel, axis, draw, overlap, place_labels

BOX = (0.0, 0.0, 700.0, 420.0)
SIZE = (120.0, 21.0)


def clustered(count: int, spread: float) -> list[tuple[float, float]]:
    rng = random.Random(count)
    return [(350 + rng.uniform(-1, 1) * spread, 210 + rng.uniform(-1, 1) * spread / 2)
            for _ in range(count)]  # fmt: skip


@pytest.mark.parametrize("spread", [0, 5, 60, 340])
@pytest.mark.parametrize("count", [1, 4, 12, 20])
def test_labels_overlap_nothing_and_stay_in_the_box(count, spread):
    points = clustered(count, spread)
    labels = place_labels(points, [SIZE] * count, box=BOX)
    assert labels is not None
    assert not any(overlap(one, other) for one, other in itertools.combinations(labels, 2))
    for left, top, right, bottom in labels:
        assert (right - left, bottom - top) == pytest.approx(SIZE)
        assert left >= 0
        assert top >= 0
        assert right <= 700
        assert bottom <= 420
        for x, y in points:
            assert not (left - 5 < x < right + 5 and top - 5 < y < bottom + 5)


def test_a_label_stands_beside_its_point_where_it_can():
    (label, other) = place_labels([(100, 100), (690, 300)], [SIZE] * 2, box=BOX) or []
    assert label[0] == pytest.approx(112)
    assert (label[1] + label[3]) / 2 == pytest.approx(100)
    assert other[2] == pytest.approx(678), "at the right end it is on the left"


def test_labels_without_room_make_the_figure_grow():
    assert place_labels(clustered(60, 10), [SIZE] * 60, box=(0, 0, 300, 200)) is None
    few, many = (
        draw([Panel("x", [(f"a_long_name_{n}", n + 100, 50) for n in range(count)])], title="y")
        for count in (3, 120)
    )
    assert many.shape[0] > few.shape[0]


def test_every_point_is_drawn_in_every_panel():
    points = [("a", 1.0, 10.0), ("b", 40.0, 20.0), ("c", 900.0, 15.0)]
    figure = draw([Panel("x", points), Panel("other", points[:1])], title="y")
    blue = (figure == scatter._BLUE).all(axis=2)
    area = np.pi * scatter._RADIUS**2
    half = figure.shape[1] // 2
    assert blue[:, :half].sum() == pytest.approx(3 * area, rel=0.25)
    assert blue[:, half:].sum() == pytest.approx(area, rel=0.25)


@pytest.mark.parametrize(
    ("values", "is_log"),
    [([1, 1000], True), ([2, 15], True), ([70.1, 70.4], False), ([5], False), ([0, 0], False)],
)
def test_an_axis_holds_its_values_and_some_ticks(values, is_log):
    low, high, ticks = axis(values, is_log=is_log)
    assert low < min(values) <= max(values) < high
    assert len(ticks) >= 2
    assert all(low <= tick <= high for tick in ticks)
    assert ticks == sorted(ticks)
