import csv
import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from perpixel.errors import PerpixelError
from perpixel.evaluation.files import write_scores
from perpixel.evaluation.metrics import areas, confusion, scores
from perpixel.recipes.schema import IGNORE_INDEX


@st.composite
def maps(draw):
    classes = draw(st.integers(1, 6))
    shape = (draw(st.integers(1, 7)), draw(st.integers(1, 7)))
    labels = st.one_of(st.integers(0, classes - 1), st.just(IGNORE_INDEX))
    label = draw(arrays(np.uint8, shape, elements=labels))
    prediction = draw(arrays(np.uint8, shape, elements=st.integers(0, classes - 1)))
    return classes, label, prediction


@given(maps())
def test_counts_equal_a_plain_loop(case):
    classes, label, prediction = case
    expected = np.zeros((classes, classes), np.int64)
    for place in np.ndindex(*label.shape):
        if label[place] != IGNORE_INDEX:
            expected[label[place], prediction[place]] += 1
    found = confusion(label, prediction, num_classes=classes)
    assert found.dtype == np.int64
    assert (found == expected).all()


@given(maps())
def test_scores_equal_their_definitions(case):
    classes, label, prediction = case
    names = tuple(f"c{index}" for index in range(classes))
    found = scores(confusion(label, prediction, num_classes=classes), names=names)
    known = label != IGNORE_INDEX
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


@given(maps())
def test_precision_dice_and_weighted_iou_equal_their_definitions(case):
    classes, label, prediction = case
    names = tuple(f"c{index}" for index in range(classes))
    found = scores(confusion(label, prediction, num_classes=classes), names=names)
    known = label != IGNORE_INDEX
    weighted = 0.0
    for index, name in enumerate(names):
        truth, guess = known & (label == index), known & (prediction == index)
        both, labeled, predicted = (int(area.sum()) for area in (truth & guess, truth, guess))
        if predicted:
            assert abs(found.precision[name] - 100 * both / predicted) < 1e-9
        else:
            assert found.precision[name] is None
        if labeled + predicted:
            assert abs(found.dice[name] - 200 * both / (labeled + predicted)) < 1e-9
            weighted += labeled * 100 * both / (labeled + predicted - both)
        else:
            assert found.dice[name] is None
    assert abs(found.frequency_weighted_iou - weighted / max(known.sum(), 1)) < 1e-9


def test_nothing_labeled_scores_nothing():
    label = np.full((3, 3), IGNORE_INDEX, np.uint8)
    found = scores(confusion(label, np.zeros_like(label), num_classes=2), names=("a", "b"))
    assert (found.miou, found.pixel_accuracy, found.iou) == (0.0, 0.0, {"a": None, "b": None})


def test_counts_beyond_float32_are_exact():
    matrix = np.array([[2**40 + 1, 1], [0, 2**40]], np.int64)
    found = scores(matrix, names=("a", "b"))
    assert found.confusion.sum() == 2**41 + 2
    assert found.iou["a"] == 100 * (2**40 + 1) / (2**40 + 2)


def test_counts_beyond_what_one_histogram_holds_are_exact():
    label = np.zeros((4100, 4100), np.uint8)  # more than 2^24 pixels
    label[0, 0] = IGNORE_INDEX
    found = confusion(label, np.zeros_like(label), num_classes=2)
    assert found.tolist() == [[4100 * 4100 - 1, 0], [0, 0]]


def test_maps_that_are_views_are_counted():
    label = np.arange(24, dtype=np.uint8).reshape(4, 6) % 3
    found = confusion(label[::-1, ::2], label[::-1, ::2], num_classes=3)
    assert found.sum() == found.trace() == 12


def test_an_image_has_scores_of_its_own():
    label = np.array([[0, 0, 1, IGNORE_INDEX]], np.uint8)
    counts = confusion(label, np.array([[0, 1, 1, 1]], np.uint8), num_classes=3)
    blank = confusion(np.full_like(label, IGNORE_INDEX), label % 2, num_classes=3)
    found = scores(
        counts + blank,
        names=("a", "b", "c"),
        images=[("x.png", areas(counts)), ("y.png", areas(blank))],
    )
    first, second = found.per_image
    assert (first.name, first.miou, first.iou) == ("x.png", 50.0, {"a": 50.0, "b": 50.0, "c": None})
    assert first.pixel_accuracy == 100 * 2 / 3
    assert (second.miou, second.pixel_accuracy) == (None, None)
    assert found.images == 2
    assert found.frequency_weighted_iou == 50.0


def test_files_hold_every_score(tmp_path):
    counts = confusion(np.array([[0, 1]], np.uint8), np.array([[0, 0]], np.uint8), num_classes=3)
    found = scores(counts, names=("a", "b,c", "d"), images=[("x.png", areas(counts))])
    write_scores(tmp_path, found)
    assert json.loads((tmp_path / "evaluate.json").read_text())["miou"] == found.miou
    rows = list(csv.reader((tmp_path / "confusion.csv").open()))
    assert rows == [
        ["label", "a", "b,c", "d"], ["a", "1", "0", "0"], ["b,c", "1", "0", "0"],
        ["d", "0", "0", "0"],
    ]  # fmt: skip
    header, row = csv.reader((tmp_path / "images.csv").open())
    assert header == ["image", "miou", "pixel_accuracy", "a", "b,c", "d"]
    assert row == ["x.png", "25.0", "50.0", "50.0", "0.0", ""]


def test_file_names_may_be_of_any_bytes(tmp_path):
    counts = confusion(np.array([[0]], np.uint8), np.array([[0]], np.uint8), num_classes=1)
    name = os.fsdecode(b"caf\xe9.png")
    write_scores(tmp_path, scores(counts, names=("a",), images=[(name, areas(counts))]))
    assert b"caf\xe9.png,100.0" in (tmp_path / "images.csv").read_bytes()


def test_a_confusion_matrix_is_drawn_and_written(tmp_path):
    result = scores(np.array([[3, 1], [0, 2]]), names=("sky", "road"))
    figure = result.plot_confusion(tmp_path / "confusion.png")
    with Image.open(tmp_path / "confusion.png") as written:
        assert (np.asarray(written) == np.asarray(figure)).all()
    assert result.plot_confusion().size == figure.size
    with pytest.raises(PerpixelError, match=r"use \.png"):
        result.plot_confusion(tmp_path / "confusion.txt")


def test_printed_scores_fit_a_few_lines():
    names = tuple(f"class_{index}" for index in range(150))
    counts = np.eye(150, dtype=np.int64)
    images = [(f"{index}.png", areas(counts)) for index in range(100)]
    text = repr(scores(counts, names=names, images=images))
    assert "miou=100.0" in text
    assert len(text) < 300


def test_the_original_fcns_own_formulas():
    """score.py of shelhamer/fcn.berkeleyvision.org: NaN is left out of its means."""
    rng = np.random.default_rng(0)
    matrix = rng.integers(0, 1000, (21, 21))
    matrix[5] = matrix[:, 5] = 0  # a class that is neither there nor predicted
    matrix[7] = 0  # one that is predicted only: an IU of 0
    correct, there, predicted = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    with np.errstate(invalid="ignore"):
        accuracy, iu = correct / there, correct / (there + predicted - correct)
    freq = there / matrix.sum()
    found = scores(matrix, names=tuple(map(str, range(21))))
    assert found.pixel_accuracy == pytest.approx(100 * correct.sum() / matrix.sum())
    assert found.mean_accuracy == pytest.approx(100 * np.nanmean(accuracy))
    assert found.miou == pytest.approx(100 * np.nanmean(iu))
    weighted = (freq[freq > 0] * iu[freq > 0]).sum()
    assert found.frequency_weighted_iou == pytest.approx(100 * weighted)
