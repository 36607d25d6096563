"""Every data set: equal sizes, labels of classes or ignored, repeatable reading."""

from pathlib import Path

import numpy as np
import pytest
from miniatures import MINIATURES

from perpixel.data.dataset import Dataset, read_pair
from perpixel.data.registry import NAMES, open_dataset, usual_splits
from perpixel.errors import UsageError
from perpixel.recipes.schema import IGNORE_INDEX


@pytest.fixture(params=["camvid", "folder", "scenes", *MINIATURES])
def dataset(request, mini: Path, tmp_path: Path) -> Dataset:
    if request.param in MINIATURES:
        name, write = MINIATURES[request.param]
        write(tmp_path)
        return open_dataset(name, tmp_path, usual_splits(name)[0])
    if request.param == "folder":
        (tmp_path / "images").symlink_to(mini / "train")
        (tmp_path / "masks").symlink_to(mini / "trainannot")
        names = ", ".join(f'"{index}"' for index in range(11))
        (tmp_path / "dataset.toml").write_text(
            f"classes = [{names}]\nignored_ids = [11]\n"
            '[splits.train]\nimages = "images"\nmasks = "masks"\n'
        )
        return open_dataset("folder", tmp_path, "train")
    return open_dataset(request.param, None if request.param == "scenes" else mini, "train")


def test_every_sample_is_an_image_with_classes(dataset: Dataset):
    assert len(dataset) >= 3
    assert len(dataset.classes.names) == len(set(dataset.classes.names)) >= 6
    assert len(dataset.classes.palette) == len(dataset.classes)
    for index in range(3):
        image, label = read_pair(dataset, index)
        assert image.dtype == label.dtype == np.uint8
        assert image.shape == (*label.shape, 3)
        assert set(np.unique(label)) <= {*range(len(dataset.classes)), IGNORE_INDEX}
    assert len({dataset.sample_id(index) for index in range(len(dataset))}) == len(dataset)


def test_reading_is_a_function_of_the_index(dataset: Dataset):
    first = [dataset.image(2), dataset.label(2)]
    dataset.image(1)
    assert all((a == b).all() for a, b in zip(first, read_pair(dataset, 2), strict=True))
    first[0][:] = 0
    first[1][:] = 0
    assert dataset.image(2).any()  # what a caller does to an image stays with the caller
    assert dataset.label(2).any()


def test_every_data_set_is_tested_here():
    assert {*NAMES} == {"camvid", "folder", "scenes", *(name for name, _ in MINIATURES.values())}


def test_unknown_names_and_missing_roots_are_explained():
    with pytest.raises(UsageError, match="scenes are built in, and have no --data"):
        open_dataset("scenes", Path("photos"), "train")
    with pytest.raises(UsageError, match="Did you mean camvid"):
        open_dataset("camvit", None, "train")
    with pytest.raises(UsageError, match="--data ROOT"):
        open_dataset("camvid", None, "train")
