"""The built-in scenes: deterministic, balanced, and with classes that color alone cannot tell."""

import subprocess
import sys
from hashlib import sha256

import numpy as np
import pytest

from perpixel.data.dataset import read_pair
from perpixel.data.datasets.synthetic import CLASSES, SyntheticStreets
from perpixel.errors import UsageError
from perpixel.recipes.schema import IGNORE_INDEX

DIGEST = """
from hashlib import sha256
from perpixel.data.datasets.synthetic import SyntheticStreets

val = SyntheticStreets("val")
digest = sha256()
for index in range(5, 9):
    digest.update(val.image(index).tobytes() + val.label(index).tobytes())
print(digest.hexdigest())
"""


def _stacked(scenes):
    images, labels = zip(*(read_pair(scenes, index) for index in range(len(scenes))), strict=True)
    return np.stack(images), np.stack(labels)


@pytest.fixture(scope="module")
def train():
    return _stacked(SyntheticStreets("train", count=200))


@pytest.fixture(scope="module")
def val():
    return _stacked(SyntheticStreets("val"))


def test_splits_have_names_and_lengths():
    assert (len(SyntheticStreets("train")), len(SyntheticStreets("val"))) == (800, 60)
    assert len(SyntheticStreets("train", count=3)) == 3
    assert SyntheticStreets("val").sample_id(12) == "val/00012.png"


def test_an_unknown_split_is_answered_with_the_splits():
    with pytest.raises(UsageError, match=r"no split 'test'.*train, val"):
        SyntheticStreets("test")


@pytest.mark.parametrize("size", [(96, 128), (64, 64), (97, 131), (240, 320)])
def test_images_have_the_size_asked_for(size):
    image, label = read_pair(SyntheticStreets("train", count=1, size=size), 0)

    assert image.shape == (*size, 3)
    assert label.shape == size
    assert image.dtype == label.dtype == np.uint8


def test_an_index_beyond_the_last_scene_is_an_error():
    with pytest.raises(IndexError):
        SyntheticStreets("train", count=3).image(3)


def test_a_scene_depends_on_its_index_alone():
    scenes = SyntheticStreets("train")
    image, label = read_pair(scenes, 7)
    expected = image.copy(), label.copy()
    image[:], label[:] = 0, 0  # what a caller does to its arrays must not reach later reads
    reread = scenes.label(7), scenes.image(7)
    _stacked(SyntheticStreets("train", count=6))
    later = read_pair(SyntheticStreets("train", count=8), 7)

    for image, label in (reread[::-1], later):
        np.testing.assert_array_equal(image, expected[0])
        np.testing.assert_array_equal(label, expected[1])


def test_another_process_draws_the_same_scenes(val):
    digest = sha256()
    for image, label in zip(val[0][5:9], val[1][5:9], strict=True):
        digest.update(image.tobytes() + label.tobytes())

    command = [sys.executable, "-c", DIGEST]
    other = subprocess.run(command, capture_output=True, text=True, check=True)

    assert other.stdout.strip() == digest.hexdigest()


def test_no_scene_comes_twice(train, val):
    images = [image.tobytes() for image in (*train[0], *val[0])]
    masks = [label.tobytes() for label in (*train[1], *val[1])]

    assert len(set(images)) == len(set(masks)) == len(images)


def test_labels_hold_classes_and_outlines(train):
    labels = train[1]

    assert set(np.unique(labels)) == {*range(len(CLASSES)), IGNORE_INDEX}
    assert 0.05 < (labels == IGNORE_INDEX).mean() < 0.2
    assert ((labels == IGNORE_INDEX).mean((1, 2)) > 0.01).all()


def test_classes_never_touch_without_an_outline(train):
    labels = train[1].astype(int)
    for axis in (1, 2):
        pixels, neighbors = np.delete(labels, -1, axis), np.delete(labels, 0, axis)
        known = (pixels != IGNORE_INDEX) & (neighbors != IGNORE_INDEX)
        np.testing.assert_array_equal(pixels[known], neighbors[known])


def test_every_class_is_common(train):
    labels = train[1]
    shares = np.stack([(labels == index).mean((1, 2)) for index in range(len(CLASSES))])

    assert shares.mean(1).min() > 0.015
    assert (shares > 0.001).mean(1).min() > 0.85


def test_color_alone_does_not_tell_the_classes_apart(train, val):
    images, labels = (part.reshape(-1, *part.shape[3:]) for part in train)
    means = np.stack([images[labels == index].mean(0) for index in range(len(CLASSES))])
    # argmin |x - m|^2 = argmin |m|^2 - 2 x.m, without an array of pixels by classes by colors
    scores = (means**2).sum(1) - 2 * val[0].astype(np.float32) @ means.T.astype(np.float32)
    nearest, known = scores.argmin(-1), val[1] != IGNORE_INDEX

    ious = []
    for index in range(len(CLASSES)):
        predicted, true = nearest[known] == index, val[1][known] == index
        ious.append((predicted & true).sum() / (predicted | true).sum())

    assert np.mean(ious) < 0.4
