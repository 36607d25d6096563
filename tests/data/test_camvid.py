"""CamVid: a miniature in SegNet's layout, and the real images where this machine has them."""

import numpy as np
import pytest
from PIL import Image

from perpixel.data.dataset import read_pair
from perpixel.data.datasets.camvid import CLASSES, open_camvid
from perpixel.errors import PerpixelError
from perpixel.io.images import write_image
from perpixel.recipes.schema import IGNORE_INDEX


@pytest.fixture
def root(tmp_path):
    """Three images to train, listed backwards, and one to validate; all twelve values."""
    ids = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for split, names in (("train", "cba"), ("val", "d")):
        for name in names:
            write_image(tmp_path / f"{split}/{name}.png", np.full((3, 4, 3), ord(name), np.uint8))
            (tmp_path / f"{split}annot").mkdir(exist_ok=True)
            Image.fromarray(ids).save(tmp_path / f"{split}annot/{name}.png")
        lines = [
            f"/SegNet/CamVid/{split}/{name}.png /SegNet/CamVid/{split}annot/{name}.png\n"
            for name in names
        ]
        (tmp_path / f"{split}.txt").write_text("".join(lines))
    return tmp_path


def test_the_pairs_of_a_split_come_in_the_lists_order(root):
    train = open_camvid(root, "train")
    assert len(train) == 3
    assert [train.sample_id(index) for index in range(3)] == [f"train/{name}.png" for name in "cba"]
    assert [int(train.image(index)[0, 0, 0]) for index in range(3)] == [ord(name) for name in "cba"]
    assert len(open_camvid(root, "val")) == 1


def test_there_are_eleven_classes_and_the_twelfth_value_is_no_label(root):
    train = open_camvid(root, "train")
    assert train.classes is CLASSES
    assert len(CLASSES) == 11
    assert len(set(CLASSES.palette)) == 11
    _, label = read_pair(train, 0)
    assert label.ravel().tolist() == [*range(11), IGNORE_INDEX]


def test_missing_files_are_named(root):
    with pytest.raises(PerpixelError, match=r"none: no such folder.*camvid.*train\.txt"):
        open_camvid(root / "none", "train")
    with pytest.raises(PerpixelError, match=r"test\.txt: no such list; splits there: train, val"):
        open_camvid(root, "test")
    (root / "val/d.png").unlink()
    with pytest.raises(PerpixelError, match=r"val/d\.png: no such file"):
        open_camvid(root, "val").image(0)


@pytest.mark.parametrize(("split", "count"), [("train", 367), ("val", 101)])
def test_the_real_images(camvid, split, count):
    pairs = open_camvid(camvid, split)
    assert len(pairs) == count
    values = set()
    for index in range(0, count, 20):
        image, label = read_pair(pairs, index)
        assert image.shape == (360, 480, 3)
        assert label.shape == (360, 480)
        values |= set(np.unique(label).tolist())
    assert values == {*range(11), IGNORE_INDEX}
