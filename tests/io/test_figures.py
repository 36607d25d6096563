"""Figures: what is drawn where, and that odd names and sizes are drawn, too."""

import numpy as np
import pytest

from perpixel.io import figures

RED, GREEN, BLUE = (250, 10, 10), (10, 250, 10), (10, 10, 250)


def flat(color: tuple[int, int, int], height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), color, np.uint8)


def area(image: np.ndarray, color: tuple[int, int, int]) -> tuple[int, int]:
    """Height and width of the box around the pixels of a color."""
    rows, columns = np.nonzero((image == color).all(axis=2))
    return rows.max() - rows.min() + 1, columns.max() - columns.min() + 1


def test_a_sheet_fits_images_and_names_the_classes():
    large, small = figures.fit(flat(RED, 600, 1200)), figures.fit(flat(GREEN, 30, 20))
    tiles = [(large, "large"), (small, "caf\udce9/" + "long" * 40)]
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
    image = np.asarray(figures.confusion(matrix, [f"class {n}" for n in range(count)]), np.int64)
    spread = image[..., 0] - image[..., 2]
    assert (spread < -80).any(), "the correct half is blue"
    assert (spread > 30).any() == (count > 1), "the other red"
