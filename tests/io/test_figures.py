"""Figures: what is drawn where, and that odd names and sizes are drawn, too."""

import numpy as np
import pytest

from perpixel.io import figures

RED, GREEN, BLUE = (250, 10, 10), (10, 250, 10), (10, 10, 250)


def flat(color: tuple[int, int, int], height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), color, np.uint8)


def area(picture: np.ndarray, color: tuple[int, int, int]) -> tuple[int, int]:
    """Height and width of the box around the pixels of a color."""
    rows, columns = np.nonzero((picture == color).all(axis=2))
    return rows.max() - rows.min() + 1, columns.max() - columns.min() + 1


def test_a_sheet_fits_images_and_names_the_classes():
    tiles = [(flat(RED, 600, 1200), "large"), (flat(GREEN, 30, 20), "caf\udce9/" + "long" * 40)]
    sheet = np.asarray(
        figures.sheet(
            tiles, columns=4, classes=["a", "b\n" + "c" * 90], palette=(BLUE, RED), shown={0}
        )
    )
    assert area(sheet[:200], RED) == (160, 320)
    assert area(sheet, GREEN) == (300, 200), "ten times, in whole pixels"
    assert area(sheet, BLUE)[0] > 10
    assert sheet.shape[1] < 700, "two columns, and no room for more"


def test_classes_that_are_not_shown_are_pale():
    def darkest(shown: set[int]) -> int:
        sheet = figures.sheet(
            [(flat(RED, 8, 8), "")], columns=1, classes=["name"], palette=(RED,), shown=shown
        )
        return int(np.asarray(sheet).max(axis=2)[-40:].min())

    assert darkest({0}) < 60 < darkest(set())


@pytest.mark.parametrize("count", [1, 3, 60])
def test_a_confusion_matrix_has_a_cell_for_every_pair(count):
    """Blue on the diagonal, red beside it, nothing for a class without labels."""
    matrix = np.zeros((count, count), np.int64)
    matrix[0, 0], matrix[0, -1] = matrix[0, 0] + 50, matrix[0, -1] + 50
    picture = np.asarray(figures.confusion(matrix, [f"class {n}" for n in range(count)]), np.int64)
    spread = picture[..., 0] - picture[..., 2]
    assert (spread < -80).any(), "the correct half is blue"
    assert (spread > 30).any() == (count > 1), "the other red"


def test_curves_fill_their_charts():
    points = [(step, 1 / step) for step in range(1, 101)]
    single = np.asarray(figures.curves([("one", points[:1], [])]), np.int64)
    both = np.asarray(figures.curves([("a", points, figures.smooth(points)), ("b", points, [])]))
    assert both.shape == (single.shape[0], 2 * single.shape[1], 3)
    assert ((single[..., 2] - single[..., 0]) > 80).sum() > 10, "a single value is a dot"


def test_smoothing_keeps_a_line_and_removes_noise():
    noise = np.random.default_rng(0).normal(size=200)
    smoothed = figures.smooth([(step, 3 + value) for step, value in enumerate(noise)])
    assert [step for step, _ in smoothed] == list(range(200))
    values = np.array([value for _, value in smoothed])
    assert np.abs(values - 3).max() < 1
    assert values.std() < noise.std() / 2
    assert all(
        value == pytest.approx(5) for _, value in figures.smooth([(n, 5) for n in range(20)])
    )
    assert figures.smooth([(1, 1.0), (2, 3.0)]) == []


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 100, [0, 50, 100]), (0.3, 2.2, [0, 0.5, 1, 1.5, 2, 2.5]), (5, 5, [4.5, 5, 5.5]),
     (0, 0.0005, [0, 0.0002, 0.0004, 0.0006]), (-3, 4, [-4, -2, 0, 2, 4])],
)  # fmt: skip
def test_ticks_are_round_and_enclose(low, high, expected):
    positions = figures.ticks(low, high)
    assert 3 <= len(positions) <= 6
    assert positions[0] <= low
    assert positions[-1] >= high
    assert positions == expected
