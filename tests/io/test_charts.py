"""Charts: coordinates within the box, smoothed curves, ticks, and the image of both."""

import numpy as np
import pytest

from perpixel.io import charts


def test_an_image_has_a_chart_for_each_curve():
    rows = [{"step": step, "loss": 1 / step} for step in range(1, 101)]
    loss = np.asarray(charts.draw(charts.charts([rows])), np.int64)
    both = charts.charts([[*rows, {"step": 100, "miou": 40.0}]])
    assert [chart.title for chart in both] == ["Loss", "mIoU on the evaluation split, %"]
    image = np.asarray(charts.draw(both), np.int64)
    assert image.shape == (loss.shape[0], 2 * loss.shape[1], 3)
    single = image[:, loss.shape[1] :]
    assert ((single[..., 2] - single[..., 0]) > 80).sum() > 10, "a single value is a dot"


def test_smoothing_removes_noise_and_keeps_the_level():
    noise = np.random.default_rng(0).normal(size=200)
    smoothed = charts.smooth([(step, 3 + value) for step, value in enumerate(noise)])
    assert [step for step, _ in smoothed] == list(range(200))
    values = np.array([value for _, value in smoothed])
    assert np.abs(values - 3).max() < 1
    assert values.std() < noise.std() / 2
    assert all(value == pytest.approx(5) for _, value in charts.smooth([(n, 5) for n in range(20)]))
    assert charts.smooth([(1, 1.0), (2, 3.0)]) == []


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 100, [0, 50, 100]), (0.3, 2.2, [0, 0.5, 1, 1.5, 2, 2.5]), (5, 5, [4.5, 5, 5.5]),
     (0, 0.0005, [0, 0.0002, 0.0004, 0.0006]), (-3, 4, [-4, -2, 0, 2, 4])],
)  # fmt: skip
def test_ticks_are_round_and_enclose(low, high, expected):
    positions = charts.ticks(low, high)
    assert 3 <= len(positions) <= 6
    assert positions[0] <= low
    assert positions[-1] >= high
    assert positions == expected
