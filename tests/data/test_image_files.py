"""Which files of a folder are images, and which are masks that nobody wants segmented."""

import numpy as np
import pytest

from perpixel.data.image_files import divide_files
from perpixel.errors import PerpixelError
from perpixel.io.images import write_image

TOML = """
classes = ["a", "b"]
mask_suffix = "_m.png"
[splits.train]
images = "photos"
masks = "truthful"
list = "train.txt"
"""


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        (["images/a.jpg", "images/s/b.png"], ["masks/a.png", "masks/s/b.png"]),
        (["train/a.png", "val/b.png"], ["trainannot/a.png", "valannot/b.png"]),
        (["JPEGImages/a.jpg"], ["SegmentationClass/a.png", "SegmentationObject/a.png"]),
        (["berlin/images/a.jpg", "rome/images/b.jpg"], ["berlin/masks/a.png", "rome/masks/b.png"]),
        (["a.jpg", "b.jpg"], ["a_label.png", "b_label.png"]),
        (["image_1.jpg", "image_2.jpg"], ["mask_1.png", "mask_2.png"]),
        (["a.png", "labels/a.jpg"], []),  # JPEG files are no masks: photos of labels
        (["a.png", "b_mask.png"], []),  # nothing that it could be the mask of
        (["masks/a.png", "masks/b.png"], []),  # there is nothing else to segment
    ],
)
def test_masks_are_told_by_their_names(images, masks, tmp_path):
    assert divide_files(tmp_path, [*images, *masks, "notes.txt"]) == (images, sorted(masks))


def test_dataset_toml_says_what_masks_are(tmp_path):
    (tmp_path / "dataset.toml").write_text(TOML)
    (tmp_path / "train.txt").write_text("1\n")
    images = ["photos/1.png", "photos/2.png", "photos/labels/3.png"]
    masks = ["truthful/1_m.png", "truthful/2_m.png"]
    for name in (*images, *masks):
        write_image(tmp_path / name, np.zeros((4, 4, 3), np.uint8))
    found = divide_files(tmp_path, [*images, *masks])
    assert found == (images[:2], ["photos/labels/3.png", *masks])
    (tmp_path / "dataset.toml").write_text("classes = 3")
    with pytest.raises(PerpixelError, match=r"dataset\.toml: classes = 3"):
        divide_files(tmp_path, images)


def test_indices_beside_a_photo_are_its_mask(tmp_path):
    write_image(tmp_path / "a.jpg", np.zeros((4, 4, 3), np.uint8))
    write_image(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    assert divide_files(tmp_path, ["a.jpg", "a.png"]) == (["a.jpg"], ["a.png"])
    write_image(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    assert divide_files(tmp_path, ["a.jpg", "a.png"]) == (["a.jpg", "a.png"], [])


def test_a_dataset_toml_below_the_folder_says_it_too(tmp_path):
    files = ["town/photos/1.png", "town/truthful/1_m.png", "town/truthful/2_m.png", "2.png"]
    for name in files:
        write_image(tmp_path / name, np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "town/dataset.toml").write_text(TOML)
    (tmp_path / "town/train.txt").write_text("1\n")
    found = divide_files(tmp_path, [*files, "town/dataset.toml"])
    assert found == (["town/photos/1.png", "2.png"], files[1:3])
