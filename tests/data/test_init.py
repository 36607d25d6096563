"""The proposals of `perpixel data init` for common layouts, each opened and read."""

import errno
import os
import tomllib
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from perpixel.data.cache import open_cache, write_cache
from perpixel.data.dataset import read_pair
from perpixel.data.datasets.folder import open_folder
from perpixel.data.init import propose, write_proposal
from perpixel.errors import PerpixelError
from perpixel.io.images import distinct_palette, write_image, write_mask
from perpixel.recipes.schema import IGNORE_INDEX

IDS = np.array([[0, 1, 2, 255], [2, 2, 2, 2]], np.uint8)
TEN = [f"{index:03}" for index in range(10)]


def _images(root, *names):
    for name in names:
        write_image(root / name, np.full((2, 4, 3), 100, np.uint8))


def _masks(root, *names, mask=IDS):
    for name in names:
        write_image(root / name, mask)


def _proposed(root):
    """The proposal as a dictionary, after every label of every split has been read."""
    proposal = propose(root)
    write_proposal(root, proposal)
    described = tomllib.loads(proposal.toml)
    for split in described["splits"]:
        pairs = open_folder(root, split)
        assert pairs.classes.names == tuple(item["name"] for item in described["classes"])
        for index in range(len(pairs)):
            read_pair(pairs, index)
    return described


def _size(root, split):
    return len(open_folder(root, split))


# --- Layouts -------------------------------------------------------------------------------------

LAYOUTS = [
    # image, mask, expected images, masks, image_suffixes, mask_suffix
    ("images/*.jpg", "masks/*.png", "images", "masks", None, ".png"),
    ("img/*.jpg", "label/*.png", "img", "label", None, ".png"),
    ("data/rgb/*.PNG", "data/gt/*.TIF", "data/rgb", "data/gt", None, ".TIF"),
    ("images/*.jpg", "masks/*_mask.png", "images", "masks", None, "_mask.png"),
    ("images/s/*.jpg", "labels/s/*_L.png", "images", "labels", None, "_L.png"),
    ("raw/*.jpg", "masks/*.png", "raw", "masks", None, ".png"),
    ("img_dir/*.jpg", "ann_dir/*.png", "img_dir", "ann_dir", None, ".png"),
    ("*.jpg", "masks/*.png", ".", "masks", None, ".png"),
    ("*.jpg", "*.png", ".", ".", None, ".png"),
    ("x/*.jpg", "x/*_label.png", ".", ".", None, "_label.png"),
    ("*_sat.jpg", "*_mask.png", ".", ".", ["_sat.jpg"], "_mask.png"),
    ("*.png", "*mask.png", ".", ".", None, "mask.png"),
    ("*.rgb.png", "*.mask.png", ".", ".", [".rgb.png"], ".mask.png"),
    (
        "a/leftImg8bit/c/*_leftImg8bit.png", "a/gtFine/c/*_gtFine_labelIds.png",
        "a/leftImg8bit", "a/gtFine", ["_leftImg8bit.png"], "_gtFine_labelIds.png",
    ),
    (
        "JPEGImages/*.jpg", "SegmentationClass/*.png",
        "JPEGImages", "SegmentationClass", None, ".png",
    ),
    ("data/raw/*.jpg", "data/masks/*.png", "data/raw", "data/masks", None, ".png"),
    ("raw/s/*.jpg", "masks/s/*.png", "raw", "masks", None, ".png"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("image", "mask", "images", "masks", "image_suffixes", "mask_suffix"), LAYOUTS
)
def test_folders_and_endings_are_found(
    tmp_path, image, mask, images, masks, image_suffixes, mask_suffix
):
    _images(tmp_path, *[image.replace("*", name) for name in TEN])
    _masks(tmp_path, *[mask.replace("*", name) for name in TEN])
    (tmp_path / "notes.txt").write_text("something else")
    described = _proposed(tmp_path)
    assert described.get("image_suffixes") == image_suffixes
    assert described["mask_suffix"] == mask_suffix
    for split, lines in (("train", 8), ("val", 2)):
        assert described["splits"][split] == {
            "images": images,
            "masks": masks,
            "list": f"{split}.txt",
        }
        assert _size(tmp_path, split) == lines


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("SPLIT/*.png", "SPLITannot/*.png"),
        ("SPLIT/images/*.jpg", "SPLIT/masks/*.png"),
        ("images/SPLIT/*.jpg", "annotations/SPLIT/*.png"),
        ("set/SPLIT_images/a/*.jpg", "set/SPLIT_labels/a/*.png"),
        ("SPLIT/*.jpg", "SPLIT/*_mask.png"),
        ("images/*.jpg", "masks/SPLIT/*.png"),
    ],
)
@pytest.mark.parametrize("words", [("train", "val", "test"), ("training", "validation", "testing")])
def test_splits_are_found(tmp_path, image, mask, words):
    for word, names in zip(words, (TEN[:6], TEN[6:9], TEN[9:]), strict=True):
        for name in names:
            _images(tmp_path, image.replace("SPLIT", word).replace("*", name))
            _masks(tmp_path, mask.replace("SPLIT", word).replace("*", name))
    described = _proposed(tmp_path)
    assert list(described["splits"]) == ["train", "val", "test"]
    assert [_size(tmp_path, split) for split in described["splits"]] == [6, 3, 1]
    assert described["splits"]["val"]["masks"] == mask.rpartition("/")[0].replace(
        "SPLIT", words[1]
    ).removesuffix("/a")


def test_without_a_val_split_every_fifth_image_to_train_with_is_held_out(tmp_path):
    for split, names in (("train", TEN), ("test", ["t"])):
        _images(tmp_path, *[f"{split}/images/{name}.jpg" for name in names])
        _masks(tmp_path, *[f"{split}/masks/{name}.png" for name in names])
    _proposed(tmp_path)
    val = [image for image, _ in open_folder(tmp_path, "val").files]
    assert val == ["train/images/004.jpg", "train/images/009.jpg"]
    train = [Path(image).stem for image, _ in open_folder(tmp_path, "train").files]
    assert train == [name for name in TEN if name not in "004 009"]
    assert [_size(tmp_path, split) for split in ("train", "val", "test")] == [8, 2, 1]
    assert tuple(open_folder(tmp_path, "test").files) == (
        ("test/images/t.jpg", "test/masks/t.png"),
    )


@pytest.mark.parametrize(("count", "sizes"), [(1, (1, 1)), (2, (1, 1)), (6, (5, 1))])
def test_a_few_images_can_be_divided(tmp_path, count, sizes):
    _images(tmp_path, *[f"images/{name}.jpg" for name in TEN[:count]])
    _masks(tmp_path, *[f"masks/{name}.png" for name in TEN[:count]])
    _proposed(tmp_path)
    assert (_size(tmp_path, "train"), _size(tmp_path, "val")) == sizes


def test_lists_that_divide_the_images_are_used(tmp_path):
    _images(tmp_path, *[f"JPEGImages/{name}.jpg" for name in [*TEN, "bare"]])
    _masks(tmp_path, *[f"SegmentationClass/{name}.png" for name in TEN])
    _masks(tmp_path, *[f"SegmentationObject/{name}.png" for name in TEN])
    for folder, name, lines in (
        ("Segmentation", "train", TEN[:7]),
        ("Segmentation", "val", TEN[7:]),
        ("Main", "train", [*TEN[:7], "bare"]),
        ("Segmentation", "trainval", TEN),
    ):
        (tmp_path / f"ImageSets/{folder}").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"ImageSets/{folder}/{name}.txt").write_text("\n".join(lines))
    assert not propose(tmp_path).lists
    described = _proposed(tmp_path)
    assert described["splits"]["train"]["list"] == "ImageSets/Segmentation/train.txt"
    assert described["splits"]["train"]["masks"] == "SegmentationClass"
    assert (_size(tmp_path, "train"), _size(tmp_path, "val")) == (7, 3)


def test_a_list_of_no_image_is_refused_and_an_existing_file_is_not_overwritten(tmp_path):
    _images(tmp_path, *[f"images/{name}.jpg" for name in [*TEN, "bare"]])
    _masks(tmp_path, *[f"masks/{name}.png" for name in TEN])
    (tmp_path / "train.txt").write_text("step 1 loss 0.3\n")
    with pytest.raises(PerpixelError, match=r"train\.txt: 1 of 1 line .* move the file elsewhere"):
        propose(tmp_path)
    (tmp_path / "train.txt").write_text("000\nbare\n")
    described = _proposed(tmp_path)
    assert described["splits"]["train"]["list"] == "dataset.toml.train.txt"
    assert (tmp_path / "train.txt").read_text() == "000\nbare\n"


def test_names_match_in_either_unicode_form(tmp_path):
    decomposed, composed = (unicodedata.normalize(form, "Äpfel") for form in ("NFD", "NFC"))
    _images(tmp_path, *[f"images/{decomposed}{name}.jpg" for name in TEN])
    _masks(tmp_path, *[f"masks/{composed}{name}.png" for name in TEN])
    for split, stems in (("train", TEN[:8]), ("val", TEN[8:])):
        (tmp_path / f"{split}.txt").write_text("".join(f"{decomposed}{name}\n" for name in stems))
    described = _proposed(tmp_path)
    assert described["splits"]["val"]["list"] == "val.txt"
    assert (_size(tmp_path, "train"), _size(tmp_path, "val")) == (8, 2)


def test_images_without_masks_are_left_out_and_noted(tmp_path):
    for split, names in (("train", [*TEN, "bare"]), ("val", TEN)):
        _images(tmp_path, *[f"images/{split}/{name}.jpg" for name in names])
        _masks(tmp_path, *[f"masks/{split}/{name}.png" for name in TEN])
    _images(tmp_path, "images/test/x.jpg", "photos/y.jpg")
    described = _proposed(tmp_path)
    assert "list" in described["splits"]["train"]
    assert "list" not in described["splits"]["val"]
    assert _size(tmp_path, "train") == 10
    notes = "\n".join(propose(tmp_path).notes)
    assert "images/test (1 file, such as x.jpg), images/train (1 file, such as bare.jpg)" in notes
    assert "photos (1 file, such as y.jpg)" in notes


def test_class_masks_are_preferred_to_instances_and_images_of_masks(tmp_path):
    _images(tmp_path, *[f"images/{name}.jpg" for name in TEN])
    for kind in ("color", "instanceIds", "labelIds"):
        _masks(tmp_path, *[f"gt/{name}_{kind}.png" for name in TEN])
    assert _proposed(tmp_path)["mask_suffix"] == "_labelIds.png"


def test_folders_of_images_are_preferred_to_others(tmp_path):
    for folder in ("depth", "images"):
        _images(tmp_path, *[f"{folder}/{name}.png" for name in TEN])
    _masks(tmp_path, *[f"masks/{name}.png" for name in TEN])
    assert _proposed(tmp_path)["splits"]["train"]["images"] == "images"


# --- Values --------------------------------------------------------------------------------------


def _pair(root, mask):
    _images(root, "images/a.png")
    (root / "masks").mkdir()
    mask.save(root / "masks/a.png") if isinstance(mask, Image.Image) else _masks(
        root, "masks/a.png", mask=mask
    )


def test_ids_become_classes_and_255_is_ignored(tmp_path):
    _pair(tmp_path, IDS)
    described = _proposed(tmp_path)
    assert [(item["name"], item["ids"]) for item in described["classes"]] == [
        ("class_0", [0]),
        ("class_1", [1]),
        ("class_2", [2]),
    ]
    assert described["ignored_ids"] == [255]
    toml = propose(tmp_path).toml
    assert "ids = [2] },  # 62.50%" in toml
    assert "255: taken for pixels without a label (by convention)" in toml
    assert "ignored_ids = [255]  # 12.50%" in toml
    assert "read 1 of the 1 mask;" in toml
    assert open_folder(tmp_path, "train").label(0)[0].tolist() == [0, 1, 2, IGNORE_INDEX]


@pytest.mark.parametrize(
    ("values", "names", "ignored"),
    [
        ((0, 255), {"background": [0], "foreground": [255]}, None),
        ((0, 1), {"background": [0], "foreground": [1]}, None),
        ((0, 1, 255), {"background": [0], "foreground": [1]}, [255]),
        ((3, 5), {"class_3": [3], "class_5": [5]}, None),
        ((0, 7, 7000), {"class_0": [0], "class_7": [7], "class_7000": [7000]}, None),
        ((4,), {"class_4": [4]}, None),
    ],
)
def test_few_values(tmp_path, values, names, ignored):
    mask = np.resize(np.array(values, np.uint16 if max(values) > 255 else np.uint8), (2, 4))
    _pair(tmp_path, mask)
    described = _proposed(tmp_path)
    assert {item["name"]: item["ids"] for item in described["classes"]} == names
    assert described.get("ignored_ids") == ignored


def test_one_bit_masks_are_background_and_foreground(tmp_path):
    _pair(tmp_path, Image.fromarray(np.array([[0, 255, 0, 0]] * 2, np.uint8)).convert("1"))
    assert [item["ids"] for item in _proposed(tmp_path)["classes"]] == [[0], [1]]


def test_a_palette_gives_the_colors(tmp_path):
    _images(tmp_path, "images/a.png")
    write_mask(tmp_path / "masks/a.png", IDS, ((0, 0, 0), (128, 0, 0), (0, 128, 0)))
    described = _proposed(tmp_path)
    assert [item["color"] for item in described["classes"]] == [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    assert [item["ids"] for item in described["classes"]] == [[0], [1], [2]]
    assert described["ignored_ids"] == [255]


def test_a_gray_or_ambiguous_palette_is_not_used(tmp_path):
    _images(tmp_path, "images/a.png")
    for palette in [((0,) * 3, (1,) * 3, (2,) * 3), ((9, 0, 0), (9, 0, 0), (0, 0, 9))]:
        write_mask(tmp_path / "masks/a.png", IDS, palette)
        assert "color = " not in propose(tmp_path).toml


def _rgb(*colors):
    return np.resize(np.array(colors, np.uint8), (2, 4, 3))


def test_rgb_masks_give_classes_by_color_and_voc_void_is_ignored(tmp_path):
    _pair(tmp_path, _rgb((128, 0, 1), (0, 0, 0), (224, 224, 192), (0, 0, 128)))
    described = _proposed(tmp_path)
    assert described["classes"] == [
        {"name": "class_0", "colors": [[0, 0, 0]]},
        {"name": "class_1", "colors": [[0, 0, 128]]},
        {"name": "class_2", "colors": [[128, 0, 1]]},
    ]
    assert described["ignored_colors"] == [[224, 224, 192]]
    assert open_folder(tmp_path, "train").label(0)[0].tolist() == [2, 0, IGNORE_INDEX, 1]


def test_white_in_rgb_masks_is_a_class(tmp_path):
    _pair(tmp_path, _rgb((255, 255, 255), (255, 0, 0)))
    described = _proposed(tmp_path)
    assert [item["colors"] for item in described["classes"]] == [[[255] + [0] * 2], [[255] * 3]]


@pytest.mark.parametrize(
    ("values", "names", "ignored"),
    [
        ((0, 255), ["background", "foreground"], None),
        ((0, 1, 2, 255), ["class_0", "class_1", "class_2"], [[255, 255, 255]]),
    ],
)
def test_ids_that_were_saved_as_gray_rgb_are_shown_in_colors(tmp_path, values, names, ignored):
    _pair(tmp_path, _rgb(*[(value,) * 3 for value in values]))
    described = _proposed(tmp_path)
    assert [item["name"] for item in described["classes"]] == names
    assert described["classes"][1]["colors"] == [[values[1]] * 3]
    assert "color" not in described["classes"][1]
    assert described.get("ignored_colors") == ignored


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ((0, 128, 255), "spread like shades of gray"),
        ((0, 85, 170, 255), "spread like shades of gray"),
        ((0, 64, 128, 192, 255), "spread like shades of gray"),
        ((0, 206, 210, 255), "spread like shades of gray"),
        ((0, 50, 100, 150, 200, 250, 255), "spread like shades of gray"),
        ((255, 0, 1, 255, 2), "the most common value"),  # background that is not 0
        ((0, 26, 255), "spread like shades of gray"),  # ids, perhaps: one class more is seen
    ],
)
def test_255_is_a_class_where_it_may_be_one_and_that_is_said(tmp_path, channels, values, reason):
    mask = np.resize(np.array(values, np.uint8), (2, 4))
    _pair(tmp_path, mask if channels == 1 else mask[..., None].repeat(3, axis=2))
    proposal = propose(tmp_path)
    described = _proposed(tmp_path)
    key = "ids" if channels == 1 else "colors"
    raw = [item[key][0] for item in described["classes"]]
    assert raw == [v if channels == 1 else [v] * 3 for v in sorted(set(values))]
    assert "background" not in {item["name"] for item in described["classes"]}
    (note,) = proposal.notes
    assert reason in note
    assert f"move it to ignored_{key}" in note
    assert "is taken for a class" in proposal.toml
    assert open_folder(tmp_path, "train").label(0).max() != IGNORE_INDEX


def test_masks_of_0_and_1_among_those_of_0_and_255_lose_no_class(tmp_path):
    _images(tmp_path, "images/a.png", "images/b.png")
    for name, value in (("a", 1), ("b", 255)):
        mask = np.array([[0, 0, 0, value]] * 2, np.uint8)
        _masks(tmp_path, f"masks/{name}.png", mask=mask)
    assert [item["ids"] for item in _proposed(tmp_path)["classes"]] == [[0], [1], [255]]
    assert "no mask holds it beside anything but 0" in propose(tmp_path).toml.replace("\n# ", " ")


def test_what_is_less_than_the_rest_is_not_called_background(tmp_path):
    _pair(tmp_path, np.array([[0, 255, 255, 255]] * 2, np.uint8))
    assert [item["name"] for item in _proposed(tmp_path)["classes"]] == ["class_0", "class_255"]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_masks_with_a_palette_each_are_read_by_color(tmp_path, suffix):
    """As editors, pngquant and optipng write them: index 1 is red in one, and green in another."""
    red, green, black = (250, 0, 0), (0, 250, 0), (0, 0, 0)
    (tmp_path / "masks").mkdir()
    for name, colors in (("a", (black, red)), ("b", (black, green)), ("c", (green, black, red))):
        _images(tmp_path, f"images/{name}.jpg")
        mask = Image.fromarray(np.resize(np.arange(len(colors), dtype=np.uint8), (2, 4)))
        mask.putpalette([channel for color in colors for channel in color])
        mask.save(tmp_path / f"masks/{name}{suffix}")
    described = _proposed(tmp_path)
    assert described["read_palette_as"] == "colors"
    assert [item["colors"] for item in described["classes"]] == [
        [[*c]] for c in (black, green, red)
    ]
    (tmp_path / "train.txt").write_text("a\nb\nc\n")
    pairs = open_folder(tmp_path, "train")
    assert [pairs.label(i)[0].tolist() for i in range(3)] == [
        [0, 2, 0, 2],
        [0, 1, 0, 1],
        [1, 0, 2, 1],
    ]
    out = tmp_path / "cache"
    write_cache(out, "folder", {"train": pairs}, say=lambda _: None, progress=lambda *_: None)
    assert (open_cache(out, "folder", "train").label(2) == pairs.label(2)).all()


def test_rgb_masks_and_their_smaller_copies_with_a_palette_are_read_by_color(tmp_path):
    _images(tmp_path, "images/a.png", "images/b.png")
    mask = _rgb((9, 9, 200), (200, 0, 0))
    _masks(tmp_path, "masks/a.png", mask=mask)
    Image.fromarray(mask).quantize(2).save(tmp_path / "masks/b.png")
    described = _proposed(tmp_path)
    assert [item["colors"] for item in described["classes"]] == [[[9, 9, 200]], [[200, 0, 0]]]
    assert "some have a palette and others RGB" in "".join(propose(tmp_path).notes)


def test_ids_in_one_channel_are_shown_in_colors_that_differ(tmp_path):
    """CARLA's masks: the class is the red channel."""
    _pair(tmp_path, _rgb((0, 0, 0), (1, 0, 0), (7, 0, 0)))
    described = _proposed(tmp_path)
    assert [(item["name"], item["colors"]) for item in described["classes"]] == [
        ("class_0", [[0, 0, 0]]),
        ("class_1", [[1, 0, 0]]),
        ("class_7", [[7, 0, 0]]),
    ]
    classes = open_folder(tmp_path, "train").classes
    assert classes.palette == distinct_palette(3)
    assert open_folder(tmp_path, "train").label(0)[0].tolist() == [0, 1, 2, 0]


def test_a_spread_of_two_hundred_masks_is_read(tmp_path):
    names = [f"{index:03}" for index in range(450)]
    _images(tmp_path, *[f"images/{name}.png" for name in names])
    _masks(tmp_path, *[f"masks/{name}.png" for name in names])
    _masks(tmp_path, "masks/449.png", mask=np.full((2, 4), 7, np.uint8))
    (tmp_path / "masks/001.png").write_text("corrupt, but not in the sample")
    toml = propose(tmp_path).toml
    assert "read 200 of the 450 masks" in toml
    assert "class_7" in toml


# --- What cannot be proposed ---------------------------------------------------------------------


def test_nothing_is_overwritten(tmp_path):
    _pair(tmp_path, IDS)
    proposal = propose(tmp_path)
    (tmp_path / "dataset.toml").write_text("mine")
    with pytest.raises(PerpixelError, match=r"dataset\.toml: exists already"):
        write_proposal(tmp_path, proposal)
    assert (tmp_path / "dataset.toml").read_text() == "mine"
    assert not (tmp_path / "train.txt").exists()


def test_a_full_disk_leaves_no_files_that_block_the_next_attempt(tmp_path, monkeypatch):
    _pair(tmp_path, IDS)
    proposal = propose(tmp_path)

    def full(part, target, replace=Path.replace):
        if target.name == "dataset.toml":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(part, target)

    before = set(tmp_path.rglob("*"))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(PerpixelError, match=r"dataset\.toml: cannot be written \(No space"):
            write_proposal(tmp_path, proposal)
    assert set(tmp_path.rglob("*")) == before
    write_proposal(tmp_path, proposal)


def test_a_folder_without_masks_says_how_masks_are_recognized(tmp_path):
    with pytest.raises(PerpixelError, match=r"none: no such folder"):
        propose(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(PerpixelError, match=r"file: is a file, not a folder\. Name the"):
        propose(tmp_path / "file")
    _images(tmp_path, "images/a.jpg", "b.png")
    with pytest.raises(PerpixelError, match=r"found 2 images, but no masks .*dataset\.toml"):
        propose(tmp_path)


def test_jpeg_files_are_no_masks(tmp_path):
    _images(tmp_path, "images/a.jpg", "masks/a.jpg")
    with pytest.raises(PerpixelError, match=r"masks/a\.jpg: JPEG files cannot be masks"):
        propose(tmp_path)


def test_masks_with_too_many_values_are_named(tmp_path):
    _pair(tmp_path, np.arange(256, dtype=np.uint16).reshape(2, 128) + 1)
    with pytest.raises(PerpixelError, match=r"masks/a\.png: .* 256 different values, .* 254"):
        propose(tmp_path)


def test_a_resized_mask_is_noted(tmp_path):
    _images(tmp_path, *[f"images/{name}.jpg" for name in TEN])
    mask = np.repeat(np.array([0, 200], np.uint8), 5000).reshape(100, 100)
    _masks(tmp_path, *[f"masks/{name}.png" for name in TEN], mask=mask)
    assert not propose(tmp_path).notes
    mask[50, :40] = np.arange(0, 200, 5)
    _masks(tmp_path, "masks/003.png", mask=mask)
    (note,) = propose(tmp_path).notes
    assert "masks/003.png first: 33 of the 41 values of the masks make up 0.0% " in note
    assert "it holds 33 of these values" in note


def test_many_classes_in_few_masks_are_not_noted(tmp_path):
    _images(tmp_path, "images/a.jpg", "images/b.jpg")
    for name, first in (("a", 0), ("b", 20)):
        mask = np.arange(first, first + 20, dtype=np.uint8).repeat(10).reshape(10, 20)
        _masks(tmp_path, f"masks/{name}.png", mask=mask)
    assert not propose(tmp_path).notes


def test_black_and_white_masks_that_were_jpeg_files_are_noted(tmp_path):
    mask = np.repeat(np.array([0, 255], np.uint8), 5000)
    mask[:30] = np.arange(1, 31)  # what a lossy file makes of the edges
    _images(tmp_path, *[f"images/{name}.jpg" for name in TEN])
    _masks(tmp_path, *[f"masks/{name}.png" for name in TEN], mask=mask.reshape(100, 100))
    suspicion, doubt = propose(tmp_path).notes
    assert "24 of the 32 values of the masks make up 0.2% of the pixels" in suspicion
    assert "255 (50.00% of all pixels) is taken for a class" in doubt


def test_black_and_white_masks_with_soft_edges_are_noted(tmp_path):
    mask = np.repeat(np.array([0, 255], np.uint8), 5000).reshape(100, 100)
    mask[50:52] = np.linspace(0, 255, 200).astype(np.uint8).reshape(2, 100)
    _pair(tmp_path, mask)
    (note,) = propose(tmp_path).notes
    assert "masks/a.png first: 192 of the 200 values of the masks make up 1.9% " in note
    assert "Were masks blurred" in note


def test_masks_of_two_kinds_are_named(tmp_path):
    _pair(tmp_path, IDS)
    _images(tmp_path, "images/b.png", "masks/b.png")
    with pytest.raises(PerpixelError, match=r"masks/a\.png and .*b\.png: one holds RGB colors"):
        propose(tmp_path)


def test_a_corrupt_mask_is_named(tmp_path):
    _pair(tmp_path, IDS)
    (tmp_path / "masks/a.png").write_text("not a mask")
    with pytest.raises(PerpixelError, match=r"masks/a\.png: not an image"):
        propose(tmp_path)


@pytest.mark.parametrize("rgb", [False, True])
def test_black_and_white_masks_with_soft_edges_keep_their_foreground(tmp_path, rgb):
    mask = np.repeat(np.array([0, 255], np.uint8), 5000).reshape(100, 100)
    mask[50:51] = np.linspace(0, 255, 100).astype(np.uint8) // 32 * 32
    _pair(tmp_path, np.dstack([mask] * 3) if rgb else mask)
    described = tomllib.loads(propose(tmp_path).toml)
    assert "ignored_ids" not in described
    assert "ignored_colors" not in described


def test_a_single_pair_is_in_both_splits_which_says_so(tmp_path):
    _pair(tmp_path, IDS)
    toml = propose(tmp_path).toml
    assert toml.count("# 1 pair: the only one, which is in train and val: its score says") == 2


def test_negative_numbers_are_proposed_as_no_label_and_said(tmp_path):
    _images(tmp_path, "images/a.png", "images/b.png")
    for name in "ab":
        (tmp_path / "masks").mkdir(exist_ok=True)
        mask = np.array([[-9999, -1, 0, 1], [1000, 1000, 0, 1]], np.int16)
        tifffile.imwrite(tmp_path / f"masks/{name}.tif", mask)
    proposal = propose(tmp_path)
    described = _proposed(tmp_path)
    assert described["ignored_ids"] == [-9999, -1]
    assert [item["ids"] for item in described["classes"]] == [[0], [1], [1000]]
    assert any("-9999, -1: taken for pixels without" in note for note in proposal.notes)
