"""dataset.toml: its keys, their meaning, and an error for every mistake in it."""

import os
import unicodedata

import numpy as np
import pytest
from PIL import Image

from perpixel.data.dataset import read_pair
from perpixel.data.datasets.folder import open_folder
from perpixel.errors import PerpixelError
from perpixel.io.images import distinct_palette, write_image
from perpixel.recipes.schema import IGNORE_INDEX

SPLIT = """
[splits.train]
images = "images"
masks = "masks"
"""
SHORTEST = 'classes = ["background", "building"]\n' + SPLIT
IDS = np.array([[0, 1, 255], [1, 1, 0]], np.uint8)


def _write(root, toml, *, images=("images/a.jpg",), masks=("masks/a.png",), mask=IDS):
    (root / "dataset.toml").write_text(toml, "utf-8")
    for name in images:
        write_image(root / name, np.full((*mask.shape[:2], 3), 100, np.uint8))
    for name in masks:
        write_image(root / name, mask)


def _error(root, split="train"):
    with pytest.raises(PerpixelError) as error:
        open_folder(root, split)
    message = str(error.value)
    assert message.startswith(
        (f"{root / 'dataset.toml'}: ", f"{root / 'dataset.toml'} has no split")
    )
    assert "\n" not in message
    return message


def _label(root):
    return open_folder(root, "train").label(0).tolist()


def test_negative_ids_are_classes_or_ignored(tmp_path):
    toml = """
mask_suffix = ".tif"
ignored_ids = [-9999, 65535]
classes = [{ name = "no", ids = [-1] }, { name = "yes", ids = [0, 1000, 10000] }]
"""
    _write(tmp_path, toml + SPLIT, masks=(), mask=IDS[:1].repeat(2, 1)[:, :5])
    ids = np.array([[-9999, -1, 0, 1000, 10000]], np.int16)
    (tmp_path / "masks").mkdir()
    Image.fromarray(ids.astype(np.int32)).save(tmp_path / "masks/a.tif")
    assert _label(tmp_path) == [[255, 0, 1, 1, 1]]
    (tmp_path / "dataset.toml").write_text(SHORTEST.replace("\n[", 'mask_suffix = ".tif"\n[', 1))
    with pytest.raises(PerpixelError, match=r"a\.tif: label value -9999, -1, 1000, 10000 at 4"):
        _label(tmp_path)
    (tmp_path / "dataset.toml").write_text(f"ignored_ids = [-32769]\n{SHORTEST}")
    assert "ignored_ids" in _error(tmp_path)


# --- What the file means -------------------------------------------------------------------------


def test_the_shortest_description(tmp_path):
    _write(tmp_path, SHORTEST)
    pairs = open_folder(tmp_path, "train")
    assert tuple(pairs.files) == (("images/a.jpg", "masks/a.png"),)
    assert pairs.classes.names == ("background", "building")
    assert pairs.classes.palette == distinct_palette(2)
    image, label = read_pair(pairs, 0)
    assert image.shape == (2, 3, 3)
    assert np.array_equal(label, IDS)


def test_every_key_at_once(tmp_path):
    toml = """
    image_suffixes = ["_rgb.jpg", "_rgb.JPEG"]
    mask_suffix = "_mask.png"
    ignored_ids = [0, 255]
    classes = [
      { name = "road", color = [128, 64, 128], ids = [7, 8] },
      { name = "car", color = [0, 0, 142], ids = 26 },
    ]
    [splits.test]
    images = "images"
    masks = "masks"
    list = "lists/test.txt"
    """
    images = ["images/a/1_rgb.jpg", "images/b/1_rgb.jpeg", "images/b/2_rgb.jpg", "images/x.jpg"]
    masks = ["masks/a/1_mask.png", "masks/b/1_mask.png", "masks/a/1_other.png"]
    mask = np.array([[7, 8, 26], [0, 255, 7]], np.uint8)
    _write(tmp_path, toml, images=images, masks=masks, mask=mask)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/test.txt").write_text("\ufeffb/1\r\na/1\r\n\r\n", "utf-8")
    pairs = open_folder(tmp_path, "test")
    assert tuple(pairs.files) == (
        ("images/b/1_rgb.jpeg", "masks/b/1_mask.png"),
        ("images/a/1_rgb.jpg", "masks/a/1_mask.png"),
    )
    assert pairs.classes.palette == ((128, 64, 128), (0, 0, 142))
    assert pairs.label(0).tolist() == [[0, 0, 1], [IGNORE_INDEX, IGNORE_INDEX, 0]]


def test_without_a_list_every_image_counts_in_the_order_of_names(tmp_path):
    names = ["b", "a", "sub/c", "sub/deep/d"]
    _write(
        tmp_path,
        SHORTEST,
        images=[f"images/{name}.png" for name in names],
        masks=[f"masks/{name}.png" for name in [*names, "unused"]],
    )
    (tmp_path / "images/notes.txt").write_text("not an image")
    (tmp_path / "images/.hidden.png").write_text("nor this")
    pairs = open_folder(tmp_path, "train")
    assert [pairs.sample_id(index) for index in range(4)] == [
        f"images/{n}.png" for n in sorted(names)
    ]
    assert pairs.files[3] == ("images/sub/deep/d.png", "masks/sub/deep/d.png")


TWO_ROOTS = """
classes = ["a", "b"]
mask_suffix = ["_m.png", ".npy"]
[[splits.train]]
images = "x/images"
masks = "x/masks"
[[splits.train]]
images = "y"
masks = "y"
mask_prefix = "mask_"
mask_suffix = ".png"
image_prefix = "image_"
"""


def _write_two_roots(root, toml):
    images = ["x/images/1.jpg", "x/images/2.jpg", "y/image_1.png", "y/image_3.png"]
    _write(root, toml, images=images, masks=["x/masks/1_m.png", "y/mask_1.png", "y/mask_3.png"])
    np.save(root / "x/masks/2.npy", IDS)


def test_a_split_of_several_folders_each_with_names_of_its_own(tmp_path):
    _write_two_roots(tmp_path, TWO_ROOTS)
    pairs = open_folder(tmp_path, "train")
    assert tuple(pairs.files) == (
        ("x/images/1.jpg", "x/masks/1_m.png"),
        ("x/images/2.jpg", "x/masks/2.npy"),
        ("y/image_1.png", "y/mask_1.png"),
        ("y/image_3.png", "y/mask_3.png"),
    )
    for index in range(4):
        read_pair(pairs, index)


def test_folders_may_share_a_list_in_which_a_name_is_of_one_of_them(tmp_path):
    toml = TWO_ROOTS.replace('images = "', 'list = "train.txt"\nimages = "')
    _write_two_roots(tmp_path, toml)
    (tmp_path / "train.txt").write_text("y/image_1.png\n2.jpg\n3\n")
    assert [image for image, _ in open_folder(tmp_path, "train").files] == [
        "y/image_1.png",
        "x/images/2.jpg",
        "y/image_3.png",
    ]
    (tmp_path / "train.txt").write_text("1\n")
    message = _error(tmp_path)
    assert "line 1, '1', names several images, x/images/1.jpg, y/image_1.png: write" in message
    assert "splits.train[0].list" in message


def test_a_list_whose_mask_is_another_is_refused(tmp_path):
    _write(tmp_path, SHORTEST + 'list = "train.txt"')
    (tmp_path / "train.txt").write_text("images/a.jpg other/a.png\n")
    assert "pairs images/a.jpg with other/a.png, but its mask is masks/a.png" in _error(tmp_path)


def test_folders_may_be_links(tmp_path):
    _write(tmp_path, SHORTEST, images=["elsewhere/a.jpg"], masks=["masks/city/a.png"])
    (tmp_path / "images").mkdir()
    (tmp_path / "images/city").symlink_to(tmp_path / "elsewhere")
    assert tuple(open_folder(tmp_path, "train").files) == (
        ("images/city/a.jpg", "masks/city/a.png"),
    )


@pytest.mark.parametrize(
    ("images", "masks", "suffix", "image", "mask"),
    [
        (".", ".", "_mask.png", "a.png", "a_mask.png"),
        (".", ".", ".png", "a.jpg", "a.png"),
        (".", "masks", ".png", "a.png", "masks/a.png"),
        ("x", "x/masks", "_L.png", "x/b/a.png", "x/masks/b/a_L.png"),
        ("./x/", "x", "_L.png", "x/a.png", "x/a_L.png"),
        ("images", ".", ".png", "images/a.png", "a.png"),
    ],
)
def test_masks_may_lie_among_the_images(tmp_path, images, masks, suffix, image, mask):
    toml = f'classes = ["a", "b"]\nmask_suffix = "{suffix}"\n' + SPLIT.replace(
        '"images"', f'"{images}"'
    ).replace('"masks"', f'"{masks}"')
    _write(tmp_path, toml, images=[image], masks=[mask])
    assert tuple(open_folder(tmp_path, "train").files) == ((image, mask),)


def test_255_is_ignored_unless_a_class_has_it(tmp_path):
    toml = 'classes = [{name = "a", ids = 0}, {name = "b", ids = [1, 255]}]\n' + SPLIT
    _write(tmp_path, toml)
    assert _label(tmp_path) == [[0, 1, 1], [1, 1, 0]]


def test_nothing_is_ignored_when_the_list_is_empty(tmp_path):
    _write(tmp_path, "ignored_ids = []\n" + SHORTEST)
    with pytest.raises(PerpixelError, match=r"label value 255 .*2 classes; ids 0, 1\)"):
        _label(tmp_path)


RGB = np.array([[(9, 9, 9), (0, 0, 142)], [(0, 0, 70), (255, 255, 255)]], np.uint8)


def test_rgb_masks_hold_the_colors(tmp_path):
    toml = """
    ignored_colors = [255, 255, 255]
    classes = [
      { name = "road", colors = [9, 9, 9] },
      { name = "car", colors = [[0, 0, 142], [0, 0, 70]] },
    ]
    """
    _write(tmp_path, toml + SPLIT, mask=RGB)
    assert _label(tmp_path) == [[0, 1], [1, IGNORE_INDEX]]
    assert open_folder(tmp_path, "train").classes.palette == ((9, 9, 9), (0, 0, 142))
    Image.fromarray(IDS).save(tmp_path / "masks/a.png")
    with pytest.raises(PerpixelError, match=r"a\.png: holds ids, but .* colors"):
        _label(tmp_path)


COLORED = """
ignored_colors = [[255, 255, 255]]
classes = [
  { name = "a", color = [9, 9, 9] },
  { name = "b", color = [0, 0, 142] },
  { name = "c", color = [0, 0, 70] },
]
"""


def test_with_nothing_but_display_colors_the_masks_may_hold_them_or_positions(tmp_path):
    _write(tmp_path, COLORED + SPLIT, mask=RGB)
    assert _label(tmp_path) == [[0, 1], [2, IGNORE_INDEX]]
    Image.fromarray(IDS).save(tmp_path / "masks/a.png")
    assert _label(tmp_path) == IDS.tolist()


def test_generated_colors_are_not_expected_in_masks(tmp_path):
    _write(tmp_path, SHORTEST, mask=RGB)
    with pytest.raises(PerpixelError, match=r"a\.png: holds RGB colors, but .* ids"):
        _label(tmp_path)


def test_a_value_without_a_class_is_named_with_file_and_class_count(tmp_path):
    _write(tmp_path, SHORTEST, mask=np.full((2, 2), 77, np.uint8))
    with pytest.raises(PerpixelError, match=r"masks/a\.png: label value 77 .*\(2 classes; ids"):
        _label(tmp_path)


# --- Mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("toml", "parts"),
    [
        ("classes: [", ["not a TOML file", "line 1"]),
        ("", ["classes is missing", "splits is missing"]),
        ("class = []\n" + SHORTEST, ["unknown key class.", "Did you mean classes?"]),
        (SHORTEST + 'mask = "x"', ["unknown key splits.train.mask.", "Did you mean masks?"]),
        (
            'classes = [{name = "a", colour = [1, 2, 3]}]' + SPLIT,
            ["unknown key classes[0].colour.", "name, color, ids", "Did you mean color?"],
        ),
        ("classes = [{ids = [1]}]" + SPLIT, ["classes[0].name is missing"]),
        ("classes = []" + SPLIT, ["classes = []", "at least 1 item"]),
        ('classes = ["a", ""]' + SPLIT, ["classes[1].name = ''"]),
        ('classes = ["a", 3]' + SPLIT, ["classes[1] = 3: should be a table of name, color"]),
        ('classes = "a"' + SPLIT, ["classes = 'a'", "list"]),
        ('splits = "a"\nclasses = ["a"]', ["splits = 'a': should be a table"]),
        ('classes = ["a"]\n[splits]', ["splits = {}"]),
        ('classes = ["a"]\n[splits.x]\nimages = "a"', ["splits.x.masks is missing"]),
        ('classes = [{name = "a", ids = 65536}]' + SPLIT, ["classes[0].ids = 65536"]),
        ('classes = [{name = "a", ids = []}]' + SPLIT, ["classes[0].ids = []"]),
        ('classes = [{name = "a", color = [1, 2]}]' + SPLIT, ["classes[0].color[2] is missing"]),
        ('classes = [{name = "a", color = [1, 2, 256]}]' + SPLIT, ["color[2] = 256"]),
        ('classes = ["a", "b", "a"]' + SPLIT, ["2 classes have the name 'a'"]),
        (
            COLORED.replace("142", "70") + SPLIT,
            ["(0, 0, 70) is listed 2 times in the colors of the classes"],
        ),
        (
            'classes = [{name = "a", ids = [1, 2]}, {name = "b", ids = 2}]' + SPLIT,
            ["2 is listed 2 times in the ids of the classes"],
        ),
        (
            "ignored_ids = [1]\n" + SHORTEST,
            ["1 is listed 2 times in the ids of the classes and ignored_ids"],
        ),
        (
            "ignored_colors = [[9, 9, 9]]" + COLORED.partition("]]")[2] + SPLIT,
            ["(9, 9, 9) is listed 2 times", "and ignored_colors"],
        ),
        ("ignored_colors = [[9, 9, 9], [9, 9, 9]]\n" + SHORTEST, ["2 times", "ignored_colors"]),
        (
            'classes = ["a", {name = "b", ids = [1]}, "c"]' + SPLIT,
            ["2 of 3 classes have no ids (a, c)", "every class or to none"],
        ),
        ('mask_suffix = "png"\n' + SHORTEST, ["mask_suffix = 'png'", "write the whole ending"]),
        (SHORTEST + 'mask_suffix = [".png", "x"]', ["splits.train.mask_suffix[1] = 'x'"]),
        (SHORTEST.replace("[splits.train]", "[[splits.train]]") + "lisst = 3", ["train[0].lisst"]),
        ('classes = ["a"]\n[splits]\ntrain = "a"', ["splits.train = 'a': should be a table"]),
        ('classes = ["a"]\n[splits]\ntrain = []', ["splits.train = []"]),
        ("image_suffixes = []\n" + SHORTEST, ["image_suffixes = []"]),
        ("bands = [4, 3]\n" + SHORTEST, ["bands[2] is missing"]),
        ("bands = [0, 1, 2]\n" + SHORTEST, ["bands[0] = 0"]),
        ("std = [0.0, 1.0, 1.0]\n" + SHORTEST, ["std[0] = 0.0"]),
        ("apply_exif_orientation = 6\n" + SHORTEST, ["apply_exif_orientation = 6"]),
        (f"classes = {[str(index) for index in range(255)]}" + SPLIT, ["classes", "254"]),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path, toml, parts):
    _write(tmp_path, toml)
    message = _error(tmp_path)
    for part in parts:
        assert part in message
    assert "_Class" not in message
    assert "_Split" not in message
    assert "uple" not in message


def test_each_mistake_is_reported_once_and_at_most_five(tmp_path):
    _write(tmp_path, 'classes = [{name = "a", colour = [1, 2, 3]}]' + SPLIT)
    assert _error(tmp_path).endswith("Did you mean color?")
    _write(tmp_path, f"classes = {list(range(300, 310))}" + SPLIT)
    assert _error(tmp_path).count("should be a table") == 5
    assert _error(tmp_path).endswith("; and 5 more")


def test_two_hundred_and_fifty_four_classes_are_fine(tmp_path):
    _write(tmp_path, f"classes = {[str(index) for index in range(254)]}" + SPLIT)
    assert len(open_folder(tmp_path, "train").classes) == 254


def test_a_missing_description_can_be_proposed(tmp_path):
    assert f"perpixel data init {tmp_path}" in _error(tmp_path)
    with pytest.raises(PerpixelError, match=r"nowhere: no such folder.*dataset\.toml"):
        open_folder(tmp_path / "nowhere", "train")


def test_a_file_in_another_encoding_is_named(tmp_path):
    (tmp_path / "dataset.toml").write_bytes(SHORTEST.replace("building", "café").encode("latin-1"))
    assert "not a TOML file" in _error(tmp_path)


def test_a_split_that_is_not_there_lists_those_that_are(tmp_path):
    _write(tmp_path, SHORTEST + SPLIT.replace("train", "val"))
    message = _error(tmp_path, "vall")
    assert "no split 'vall'. Did you mean val? There are: train, val" in message


@pytest.mark.parametrize("key", ["images", "masks"])
def test_folders_that_are_not_there_or_not_below_are_named(tmp_path, key):
    _write(tmp_path, SHORTEST)
    _write(tmp_path, SHORTEST.replace(f'"{key}"', '"imgs"'))
    assert f"splits.train.{key} = 'imgs': no such folder; there are images, masks" in _error(
        tmp_path
    )
    for outside in ("../x", "/x"):
        _write(tmp_path, SHORTEST.replace(f'"{key}"', f'"{outside}"'))
        assert f"splits.train.{key} = '{outside}': write folders relative" in _error(tmp_path)


def test_images_without_masks_are_counted_and_the_first_are_listed(tmp_path):
    names = [f"images/{index:02}.jpg" for index in range(12)]
    _write(tmp_path, SHORTEST, images=names, masks=["masks/00.png"])
    message = _error(tmp_path)
    assert "splits.train: images have no mask: 11 of 12 (images/01.jpg, images/02.jpg" in message
    assert "images/08.jpg, ...)" in message
    assert "masks/01.png" in message
    assert "mask_suffix" in message


def test_a_folder_without_images_says_what_was_looked_for(tmp_path):
    _write(tmp_path, 'image_suffixes = [".tga"]\n' + SHORTEST)
    message = _error(tmp_path)
    assert "splits.train.images: images holds no images. They end in .tga" in message


def test_images_that_would_share_a_mask_are_refused(tmp_path):
    _write(tmp_path, SHORTEST, images=("images/a.jpg", "images/a.png"))
    assert "images/a.jpg and images/a.png have the same stem" in _error(tmp_path)


def test_a_list_that_does_not_fit_is_named(tmp_path):
    _write(tmp_path, SHORTEST + 'list = "train.txt"')
    assert "splits.train.list = 'train.txt': no such file" in _error(tmp_path)
    (tmp_path / "train.txt").write_text("a\nb.jpg\n")
    message = _error(tmp_path)
    assert "splits.train.list: 1 of 2 lines of train.txt cannot be used: line 2, 'b.jpg', " in (
        message
    )
    assert "a line is an image's path below images or " in message.lower()


def test_an_empty_list_is_named(tmp_path):
    _write(tmp_path, SHORTEST + 'list = "train.txt"')
    (tmp_path / "train.txt").write_text("\n")
    assert "splits.train.list: train.txt names no images" in _error(tmp_path)


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"], ids=["plain", "marked"])
def test_a_list_may_hold_names_of_any_bytes(tmp_path, start):
    name = os.fsdecode(b"caf\xe9")
    _write(tmp_path, SHORTEST + 'list = "train.txt"')
    for folder, kind in (("images", "jpg"), ("masks", "png")):
        (tmp_path / f"{folder}/a.{kind}").rename(tmp_path / folder / f"{name}.{kind}")
    (tmp_path / "train.txt").write_bytes(start + b"caf\xe9\n")
    assert open_folder(tmp_path, "train").sample_id(0) == f"images/{name}.jpg"


@pytest.mark.parametrize("forms", [("NFC", "NFD", "NFD"), ("NFD", "NFC", "NFC")])
def test_names_match_in_either_unicode_form(tmp_path, forms):
    image, mask, listed = (unicodedata.normalize(form, "Äpfel") for form in forms)
    _write(
        tmp_path,
        SHORTEST + 'list = "train.txt"',
        images=(f"images/{image}.jpg",),
        masks=(f"masks/{mask}.png",),
    )
    (tmp_path / "train.txt").write_text(f"{listed}\n", "utf-8")
    pairs = open_folder(tmp_path, "train")
    assert tuple(pairs.files) == ((f"images/{image}.jpg", f"masks/{mask}.png"),)
    assert pairs.label(0).shape == pairs.image(0).shape[:2]


def test_a_list_in_utf_16_is_named(tmp_path):
    _write(tmp_path, SHORTEST + 'list = "train.txt"')
    (tmp_path / "train.txt").write_text("a\n", "utf-16")
    assert "train.txt: not UTF-8 text (UTF-16, perhaps)" in _error(tmp_path)


def test_a_link_to_a_folder_above_is_followed_once(tmp_path):
    _write(tmp_path, SHORTEST)
    (tmp_path / "images/loop").symlink_to(tmp_path / "images")
    (tmp_path / "masks/loop").symlink_to(tmp_path / "masks")
    assert tuple(open_folder(tmp_path, "train").files) == (("images/a.jpg", "masks/a.png"),)


def test_a_link_that_leads_to_itself_is_no_folder(tmp_path):
    _write(tmp_path, SHORTEST)
    (tmp_path / "images/self").symlink_to(tmp_path / "images/self")
    assert tuple(open_folder(tmp_path, "train").files) == (("images/a.jpg", "masks/a.png"),)
