"""Submission files, value by value."""

import numpy as np
import pytest
from PIL import Image

from perpixel.data.datasets.cityscapes import LABEL_IDS
from perpixel.data.registry import classes
from perpixel.data.submission import find_ids, find_submission
from perpixel.errors import PerpixelError, UsageError
from perpixel.io.images import is_prediction, read_mask

FILES = {
    "cityscapes": ("a.png", "L", lambda label: np.array(LABEL_IDS)[label]),
    "ade20k": ("a.png", "L", lambda label: label + 1),
    "pascal_voc": (
        "results/VOC2012/Segmentation/comp6_test_cls/a.png", "P", lambda label: label,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_servers_file_holds_its_ids(tmp_path, name):
    path, mode, ids = FILES[name]
    count = len(classes(name))
    label = np.resize(np.arange(count, dtype=np.uint8), (7, 31))
    server = find_submission(name)
    server.require(classes(name).names)
    server.write(tmp_path, "a", label)
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png")] == [path]
    with Image.open(tmp_path / path) as file:
        assert file.mode == mode
        assert (np.asarray(file) == ids(label.astype(int))).all()
        if mode == "P":
            assert file.getpalette()[: 3 * count] == [
                part for color in classes(name).palette for part in color
            ]


def test_id_ranges_are_the_servers():
    assert (min(find_submission("ade20k").ids), max(find_submission("ade20k").ids)) == (1, 150)
    assert (min(LABEL_IDS), max(LABEL_IDS)) == (7, 33)


def test_other_classes_and_another_name_are_refused():
    cityscapes = find_submission("cityscapes")
    names = cityscapes.classes.names
    cityscapes.require(tuple(name.replace(" ", "_").title() for name in names))
    for other in (classes("camvid").names, names[::-1], names[:-1]):
        with pytest.raises(PerpixelError, match=r"hold the 19 classes road, .* a dataset\.toml"):
            cityscapes.require(other)
    with pytest.raises(UsageError, match="Did you mean cityscapes"):
        find_submission("cityscape")


def test_a_folders_ids_are_those_of_its_toml(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    toml = tmp_path / "dataset.toml"
    rest = '[splits.train]\nimages = "images"\nmasks = "masks"\n'
    toml.write_text(
        'classes = [{ name = "road", ids = [7, 8] }, { name = "car", ids = 300 }]\n' + rest
    )
    format_ = find_ids(str(tmp_path))
    format_.require(("road", "Car"))
    format_.write(tmp_path / "out", "s/a", np.array([[0, 1]], np.uint8))
    assert read_mask(tmp_path / "out/s/a.png").tolist() == [[7, 300]]
    assert is_prediction(tmp_path / "out/s/a.png")
    toml.write_text('classes = [{ name = "road", colors = [[1, 2, 3]] }]\n' + rest)
    with pytest.raises(PerpixelError, match=r"dataset\.toml: its classes have colors"):
        find_ids(str(tmp_path))
    with pytest.raises(UsageError, match=r"nor a benchmark.*There are: cityscapes"):
        find_ids("nowhere")
