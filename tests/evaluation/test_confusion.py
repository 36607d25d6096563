import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from perpixel.evaluation.confusion import confusion, scores
from perpixel.recipes.spec import IGNORE


@st.composite
def maps(draw):
    classes = draw(st.integers(1, 6))
    shape = (draw(st.integers(1, 7)), draw(st.integers(1, 7)))
    labels = st.one_of(st.integers(0, classes - 1), st.just(IGNORE))
    label = draw(arrays(np.uint8, shape, elements=labels))
    prediction = draw(arrays(np.uint8, shape, elements=st.integers(0, classes - 1)))
    return classes, label, prediction


@given(maps())
def test_counts_equal_a_plain_loop(case):
    classes, label, prediction = case
    expected = np.zeros((classes, classes), np.int64)
    for place in np.ndindex(*label.shape):
        if label[place] != IGNORE:
            expected[label[place], prediction[place]] += 1
    found = confusion(label, prediction, classes=classes)
    assert found.dtype == np.int64
    assert (found == expected).all()


@given(maps())
def test_scores_equal_their_definitions(case):
    classes, label, prediction = case
    names = tuple(f"c{index}" for index in range(classes))
    found = scores(confusion(label, prediction, classes=classes), names=names)
    known = label != IGNORE
    ious, recalls = [], []
    for index, name in enumerate(names):
        truth, guess = known & (label == index), known & (prediction == index)
        union = int((truth | guess).sum())
        if union:
            ious.append(100 * int((truth & guess).sum()) / union)
            assert abs(found.iou[name] - ious[-1]) < 1e-9
        else:
            assert found.iou[name] is None
        if truth.any():
            recalls.append(100 * int((truth & guess).sum()) / int(truth.sum()))
            assert abs(found.accuracy[name] - recalls[-1]) < 1e-9
        else:
            assert found.accuracy[name] is None
    if ious:
        assert abs(found.miou - np.mean(ious)) < 1e-9
        assert abs(found.mean_accuracy - np.mean(recalls)) < 1e-9
        right = 100 * int((known & (label == prediction)).sum()) / int(known.sum())
        assert abs(found.pixel_accuracy - right) < 1e-9


def test_nothing_labelled_scores_nothing():
    label = np.full((3, 3), IGNORE, np.uint8)
    found = scores(confusion(label, np.zeros_like(label), classes=2), names=("a", "b"))
    assert (found.miou, found.pixel_accuracy, found.iou) == (0.0, 0.0, {"a": None, "b": None})


def test_counts_beyond_float32_are_exact():
    matrix = np.array([[2**40 + 1, 1], [0, 2**40]], np.int64)
    found = scores(matrix, names=("a", "b"))
    assert found.confusion.sum() == 2**41 + 2
    assert found.iou["a"] == 100 * (2**40 + 1) / (2**40 + 2)
