import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from perpixel.evaluation.boundary import boundary_counts
from perpixel.recipes.schema import IGNORE_INDEX


def by_hand(label, prediction, classes, width):
    """Each pixel of a class is in its band when a square around it leaves the class."""
    known = label != IGNORE_INDEX

    def band(mask):
        framed = np.pad(mask, width)
        found = np.zeros_like(mask)
        for y, x in np.argwhere(mask):
            found[y, x] = not framed[y : y + 2 * width + 1, x : x + 2 * width + 1].all()
        return found

    counts = []
    for index in range(classes):
        truth, guess = band(known & (label == index)), band(known & (prediction == index))
        counts.append(((truth & guess).sum(), (truth | guess).sum()))
    return np.array(counts).T


@given(st.data(), st.integers(1, 12), st.integers(1, 12), st.floats(0.01, 0.4))
def test_counts_equal_a_plain_loop(data, height, width, distance):
    values = st.sampled_from([0, 0, 0, 1, 1, 2, IGNORE_INDEX])
    label = data.draw(arrays(np.uint8, (height, width), elements=values))
    prediction = data.draw(
        arrays(np.uint8, (height, width), elements=st.sampled_from([0, 0, 0, 1, 2]))
    )
    found = boundary_counts(label, prediction, num_classes=3, distance=distance)
    wide = max(1, round(distance * float(np.hypot(height, width))))
    assert found.dtype == np.int64
    assert (found == by_hand(label, prediction, 3, wide)).all()


def test_a_right_map_has_all_of_its_band():
    label = np.kron([[0, 1], [2, 0]], np.ones((40, 40))).astype(np.uint8)
    inner, either = boundary_counts(label, label, num_classes=4)
    assert (inner == either).all()
    assert inner[3] == 0
    assert 0 < inner[1] < 1600
