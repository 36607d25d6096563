"""Layouts as users have them: `data init` describes every pair, and `data check` opens them."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perpixel.data.datasets.folder import open_folder, splits_of_folder
from perpixel.io.images import write_image

MASK = np.array([[0, 1, 2, 1], [2, 2, 0, 0]], np.uint8)


@pytest.fixture
def command(command):
    """Runs a command; returns its exit code and what it prints."""

    def run(*words):
        code, out, err = command(*words)
        return code, out + err

    return run


def _write(root: Path, name: str, number: int, *, is_mask: bool = False) -> None:
    """An image, different for each number, or a mask, which a word in its name may say, too."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".npy"):
        np.save(path, MASK)
    elif name.endswith(".gif"):
        Image.fromarray(MASK).save(path)
    elif is_mask or (
        any(word in name for word in ("mask", "label", "gt", "Seg")) and ".jp" not in name
    ):
        write_image(path, MASK)
    else:
        write_image(path, np.full((*MASK.shape, 3), number, np.uint8))


def _write_pairs(root: Path, image: str, mask: str, names) -> None:
    for number, name in enumerate(names):
        _write(root, image.format(name), number + 1)
        _write(root, mask.format(name), number + 1, is_mask=True)


def _described(root: Path) -> dict[str, list[tuple[str, str]]]:
    return {split: list(open_folder(root, split).files) for split in splits_of_folder(root)}


def _toml(root: Path) -> str:
    return (root / "dataset.toml").read_text()


NAMES = [f"{number:02}" for number in range(10)]
PLACES = ("berlin", "paris", "rome")
PAIRS = {  # image and mask in a folder; {} is their name
    "folders": ("images/{}.jpg", "masks/{}.png"),
    "prefixes": ("images/image_{}.png", "masks/mask_{}.png"),
    "prefixes in one folder": ("image_{}.png", "mask_{}.png"),
    "a prefix of the masks": ("images/{}.png", "gt/p{}.png"),
    "words without a separator": ("image{}.jpg", "label{}.png"),
    "nnU-Net": ("imagesTr/case_{}_0000.png", "labelsTr/case_{}.png"),
    "DeepGlobe": ("{}_sat.jpg", "{}_mask.png"),
    "Carvana": ("images/{}.jpg", "masks/{}_mask.gif"),
    "arrays": ("images/{}.jpg", "masks/{}.npy"),
    "arrays beside": ("{}.jpg", "{}_mask.npy"),
    "beside": ("{}.jpg", "{}.png"),
    "jfif": ("images/{}.jfif", "labels/{}.png"),
    "CVC": ("Original/{}.jpg", "Ground Truth gt/{}.png"),
}
ROOTS = {  # where these folders are
    "one": ["{}"],
    "several": [f"{place}/{{}}" for place in PLACES],
    "splits": ["train/{}", "val/{}", "test/{}"],
    "several with splits": [f"{p}/{split}/{{}}" for p in PLACES for split in ("train", "val")],
}


def test_folders_whose_names_end_alike_go_together(tmp_path, command):
    for place in PLACES:
        _write_pairs(tmp_path, f"images_{place}/{{}}.jpg", f"{place}_masks/{{}}.png", NAMES)
    code, printed = command("data", "init", tmp_path)
    assert code == 0, printed
    described = itertools.chain(*_described(tmp_path).values())
    assert sorted(described) == [
        (f"images_{place}/{name}.jpg", f"{place}_masks/{name}.png")
        for place in PLACES
        for name in NAMES
    ]


@pytest.mark.parametrize(("pairs", "roots"), list(itertools.product(PAIRS, ROOTS)))
def test_every_pair_is_described_and_checked(pairs, roots, tmp_path, command):
    image, mask = PAIRS[pairs]
    expected = set()
    for index, root in enumerate(ROOTS[roots]):
        names = [f"{index}{name}" for name in NAMES[: 6 - index // 2]]
        paths = root.format(image), root.format(mask)
        _write_pairs(tmp_path, *paths, names)
        expected |= {(paths[0].format(name), paths[1].format(name)) for name in names}
    code, printed = command("data", "init", tmp_path)
    assert code == 0, printed
    described = _described(tmp_path)
    found = list(itertools.chain(*described.values()))
    assert len(found) == len(set(found)) == len(expected)
    assert set(found) == expected
    for split, files in described.items():
        if "splits" in roots:
            assert all(f"{split}/" in name for pair in files for name in pair)
        else:  # every root is in both
            starts = {root.format("") for root in ROOTS[roots]}
            assert all(any(name.startswith(start) for name, _ in files) for start in starts)
    code, printed = command("data", "check", "folder", tmp_path, "--json", tmp_path / "check.json")
    assert code == 0, printed
    report = json.loads((tmp_path / "check.json").read_text())
    assert sum(split["pairs"] for split in report["splits"]) == len(expected)
    assert "no pair uses" not in printed


# --- Several groups of pairs ---------------------------------------------------------------------


def test_several_roots_are_a_list_of_tables(tmp_path, command):
    for place in PLACES:
        _write_pairs(tmp_path, f"{place}/images/{{}}.jpg", f"{place}/masks/{{}}.png", "1234")
    code, printed = command("data", "init", tmp_path)
    assert code == 0
    assert (
        "of 3 groups is for validation. Where a group is a place, film or patient, whole" in printed
    )
    assert _toml(tmp_path).count("[[splits.train]]") == 3
    assert [len(files) for files in _described(tmp_path).values()] == [10, 2]


def test_masks_of_two_formats_are_both_described(tmp_path, command):
    _write_pairs(tmp_path, "images/{}.jpg", "masks/{}.png", NAMES)
    _write_pairs(tmp_path, "images/{}.jpg", "masks/{}.npy", ["a"])
    command("data", "init", tmp_path)
    assert 'mask_suffix = ".npy"' in _toml(tmp_path)
    assert sum(map(len, _described(tmp_path).values())) == 11


def test_groups_may_have_names_of_their_own(tmp_path, command):
    _write_pairs(tmp_path, "berlin/images/{}.jpg", "berlin/masks/{}.png", NAMES)
    _write_pairs(tmp_path, "rome/images/{}_sat.jpg", "rome/masks/mask_{}.npy", "ab")
    code, _ = command("data", "init", tmp_path)
    assert code == 0
    assert 'mask_prefix = "mask_"' in _toml(tmp_path)
    assert sum(map(len, _described(tmp_path).values())) == 12


def test_one_folder_of_images_may_have_its_masks_in_two(tmp_path, command):
    _write_pairs(tmp_path, "images/{}.jpg", "masks/{}.png", "123456")
    _write_pairs(tmp_path, "images/{}.jpg", "more_masks/{}.png", "789")
    command("data", "init", tmp_path)
    files = itertools.chain(*_described(tmp_path).values())
    assert {mask for _, mask in files} == {
        *(f"masks/{number}.png" for number in "123456"),
        *(f"more_masks/{number}.png" for number in "789"),
    }


def test_what_is_in_no_pair_is_counted(tmp_path, command):
    _write_pairs(tmp_path, "images/{}.jpg", "masks/{}.png", "12")
    for name in ("images/3.jpg", "masks/4.png", "masks/5.png", "photos/6.jpg"):
        _write(tmp_path, name, 7)
    _, printed = command("data", "init", tmp_path)
    assert "images (1 file, such as 3.jpg), masks (2 files, such as 4.png), photos (1 f" in printed
    _, printed = command("data", "check", "folder", tmp_path)
    assert "masks/4.png" in printed


def test_two_images_of_one_stem_are_refused_and_named(tmp_path, command):
    _write_pairs(tmp_path, "images/{}.jpg", "masks/{}.png", "12")
    shutil.copy(tmp_path / "masks/2.png", tmp_path / "images/2.png")
    code, printed = command("data", "init", tmp_path)
    assert code == 1
    assert "images/2.jpg and images/2.png have the same stem" in printed
    assert not (tmp_path / "dataset.toml").exists()


@pytest.mark.parametrize(
    "masks",
    [
        ("masks/{}_cat.png", "masks/{}_dog.png"),
        ("masks_cat/{}.png", "masks_dog/{}.png"),
        ("masks/cat_{}.png", "masks/dog_{}.png"),
        ("masks/{}_1.png", "masks/{}_2.png"),
    ],
)
def test_a_mask_for_each_class_is_not_taken_for_all(masks, tmp_path, command):
    for mask in masks:
        _write_pairs(tmp_path, "images/{}.jpg", mask, NAMES)
    code, printed = command("data", "init", tmp_path)
    assert code == 1
    assert "perpixel data convert" in printed
    assert not (tmp_path / "dataset.toml").exists()


# --- Lists ---------------------------------------------------------------------------------------

SPLIT_FILES = [
    ("train.txt", "val.txt"),
    ("Train.txt", "Validation.txt"),
    ("train_list.txt", "val_list.txt"),
    ("trainlist.txt", "vallist.txt"),
    ("split_train.txt", "split_val.txt"),
    ("train_ids.lst", "valid_ids.lst"),
    ("ImageSets/Segmentation/train.txt", "ImageSets/Segmentation/val.txt"),
    ("train.csv", "val.csv"),
]
LINES = [
    "{}",
    "{}.jpg",
    "images/{}.jpg",
    "./images/{}.jpg",
    "images\\{}.jpg",
    "/home/me/set/images/{}.jpg",
    "images/{0}.jpg masks/{0}.png",
    "images/{0}.jpg,masks/{0}.png",
    "{0}.jpg\t{0}.png",
    "/set/images/{0}.jpg /set/masks/{0}.png",  # SegNet
    "{} 1 1 1",  # Oxford-IIIT Pet
    '"{}.jpg"',
]


def _write_lists(root: Path, files, lines) -> None:
    for file, content in zip(files, lines, strict=True):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text("".join(f"{line}\n" for line in content))


@pytest.mark.parametrize(
    ("files", "line"),
    [*((files, LINES[6]) for files in SPLIT_FILES), *((SPLIT_FILES[0], line) for line in LINES)],
)
def test_a_users_own_split_is_used(files, line, tmp_path, command):
    _write_pairs(tmp_path, "images/{}.jpg", "masks/{}.png", NAMES)
    header = ["image,mask"] if files[0].endswith(".csv") else []
    train, val = ([line.format(n) for n in names] for names in (NAMES[:7], NAMES[7:]))
    _write_lists(tmp_path, files, ([*header, *train], [*header, *val]))
    code, printed = command("data", "init", tmp_path)
    assert code == 0, printed
    described = _described(tmp_path)
    assert described["train"] == [(f"images/{n}.jpg", f"masks/{n}.png") for n in NAMES[:7]]
    assert described["val"] == [(f"images/{n}.jpg", f"masks/{n}.png") for n in NAMES[7:]]
    assert f'list = "{files[1]}"' in _toml(tmp_path)
    assert command("data", "check", "folder", tmp_path)[0] == 0


def test_lists_name_images_in_sub_folders_and_with_endings(tmp_path, command):
    _write_pairs(tmp_path, "images/s/{}_sat.jpg", "masks/s/{}_mask.png", NAMES)
    lines = (["s/00_sat.jpg", "s/01_sat", "s/02", "s/03_mask.png"], ["images/s/04_sat.jpg"])
    _write_lists(tmp_path, ("train.txt", "val.txt"), lines)
    _, printed = command("data", "init", tmp_path)
    described = _described(tmp_path)
    assert [image for image, _ in described["train"]] == [
        f"images/s/0{number}_sat.jpg" for number in range(4)
    ]
    assert described["val"] == [("images/s/04_sat.jpg", "masks/s/04_mask.png")]
    assert "5 pairs in none of train.txt, val.txt: left out" in printed


@pytest.mark.parametrize("line", ["{}", "images/{0}.jpg masks/{0}.png"])
def test_a_line_without_a_mask_is_named_and_the_others_are_used(line, tmp_path, command):
    _write_pairs(tmp_path, "images/{}.jpg", "masks/{}.png", NAMES)
    (tmp_path / "masks/08.png").unlink()
    val = [line.format(name) for name in NAMES[7:]]
    _write_lists(tmp_path, ("train.txt", "val.txt"), (NAMES[:7], val))
    code, printed = command("data", "init", tmp_path)
    assert code == 0
    assert f"val.txt: 1 of 3 lines cannot be used: line 2, {val[1]!r}, names an image without" in (
        printed
    )
    assert [image for image, _ in _described(tmp_path)["val"]] == ["images/07.jpg", "images/09.jpg"]
    assert len(_described(tmp_path)["train"]) == 7
    assert (tmp_path / "val.txt").read_text().splitlines() == val


@pytest.mark.parametrize(
    ("lists", "reason"),
    [
        ({"val.txt": "07\n8\n09\n"}, "val.txt: 1 of 3 lines cannot be used: line 2, '8', names no"),
        ({"val.txt": "x\ny\n"}, "val.txt: 2 of 2 lines cannot be used: line 1, 'x', names no"),
        ({"my_val.txt": "07\n"}, "my_val.txt: seems to say which"),
        ({"meta.csv": "id,split\n01,train\n02,val\n03,val\n"}, "meta.csv: seems to say which"),
        ({"val.txt": "7\n"}, "line 1, '7', names no image"),
        (
            {"val.txt": "images/07.jpg masks/08.png\n"},
            "line 1, 'images/07.jpg masks/08.png', names several images",
        ),
        ({"split.csv": "file,set\n" + "".join(f"{n},train\n{n},val\n" for n in NAMES)}, "each spl"),
        ({"train_test_split.txt": "1 0\n2 1\n"}, "train_test_split.txt: seems to say which"),  # CUB
        ({"splits_final.json": "[]\n"}, "splits_final.json: seems to say which"),  # nnU-Net
        ({"train.json": '["01"]'}, "train.json: seems to say which"),
        ({"validation.odgt": '{"fpath": "01"}'}, "validation.odgt: seems to say which"),  # ADE20K
        ({"metadata.jsonl": '{"file": "01", "split": "train"}'}, "metadata.jsonl: seems to say"),
        ({"list_eval_partition.txt": "01.jpg 0\n"}, "partition.txt: seems to say which"),  # CelebA
        ({"val.txt": "rome/images/07.jpg\nparis/images/07.jpg\n"}, "both mean images/07.jpg"),
    ],
)
def test_a_list_that_cannot_be_used_is_not_replaced(lists, reason, tmp_path, command):
    _write_pairs(tmp_path, "images/{}.jpg", "masks/{}.png", NAMES)
    _write_lists(tmp_path, lists, [text.splitlines() for text in lists.values()])
    code, printed = command("data", "init", tmp_path)
    assert code == 1
    assert reason in printed
    assert not (tmp_path / "dataset.toml").exists()


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        (
            {"train.txt": NAMES[:5]},  # the others may be for tests: left out, and said
            {"train": NAMES[:4], "val": NAMES[4:5]},
        ),
        ({"valid.txt": NAMES[7:]}, {"train": NAMES[:7], "val": NAMES[7:]}),  # CamVid of fast.ai
        (
            {"trainval.txt": NAMES[:5], "test.txt": NAMES[5:]},
            {"train": NAMES[:4], "val": NAMES[4:5], "test": NAMES[5:]},
        ),
        (
            {"test.txt": NAMES[5:]},
            {"train": NAMES[:4], "val": NAMES[4:5], "test": NAMES[5:]},
        ),
    ],
)
def test_a_list_of_one_split_says_the_others(lists, expected, tmp_path, command):
    _write_pairs(tmp_path, "images/{}.jpg", "masks/{}.png", NAMES)
    _write_lists(tmp_path, lists, lists.values())
    code, printed = command("data", "init", tmp_path)
    assert code == 0, printed
    described = {
        split: [Path(image).stem for image, _ in files]
        for split, files in _described(tmp_path).items()
    }
    assert described == expected


@pytest.mark.parametrize("val", ["eval", "dev", "va", "holdout"])
def test_other_words_for_validation_are_known(val, tmp_path, command):
    for split, names in (("train", NAMES[:7]), (val, NAMES[7:])):
        _write_pairs(tmp_path, f"{split}/images/{{}}.jpg", f"{split}/masks/{{}}.png", names)
    assert command("data", "init", tmp_path)[0] == 0
    assert {split: len(pairs) for split, pairs in _described(tmp_path).items()} == {
        "train": 7, "val": 3,
    }  # fmt: skip


def test_a_folder_beside_train_without_a_word_for_its_split_is_refused(tmp_path, command):
    for folder, names in (("train", NAMES[:7]), ("later", NAMES[7:])):
        _write_pairs(tmp_path, f"{folder}/images/{{}}.jpg", f"{folder}/masks/{{}}.png", names)
    code, printed = command("data", "init", tmp_path)
    assert code == 1
    assert "nothing says what later/images is for" in printed


def test_other_lists_are_noted(tmp_path, command):
    _write_pairs(tmp_path, "images/{}.jpg", "masks/{}.png", NAMES)
    files = "train.txt", "val.txt", "Main/cat_train.txt", "Main/cat_val.txt", "fold1.txt"
    lines = NAMES[:7], NAMES[7:], NAMES[:6], NAMES[6:], NAMES[:5]
    _write_lists(tmp_path, files, lines)
    _, printed = command("data", "init", tmp_path)
    assert len(_described(tmp_path)["train"]) == 7
    assert "not used: other lists of images (Main/cat_train.txt, Main/cat_val.txt, fold1.txt)" in (
        printed
    )


def test_every_root_may_have_its_lists(tmp_path, command):
    for place in PLACES[:2]:
        _write_pairs(tmp_path, f"{place}/images/{{}}.jpg", f"{place}/masks/{{}}.png", "1234")
    _write_lists(tmp_path, ("berlin/train.txt", "berlin/val.txt"), ("123", "4"))
    command("data", "init", tmp_path)
    described = _described(tmp_path)
    assert ("berlin/images/4.jpg", "berlin/masks/4.png") in described["val"]
    assert {image for image, _ in described["train"]} == {
        *(f"berlin/images/{number}.jpg" for number in "123"),
        *(f"paris/images/{number}.jpg" for number in "123"),
    }


def test_one_list_may_name_images_of_several_roots(tmp_path, command):
    for place in PLACES:
        _write_pairs(tmp_path, f"{place}/images/{{}}.jpg", f"{place}/masks/{{}}.png", "12")
    lines = [f"{place}/images/{number}.jpg" for place in PLACES for number in "12"]
    _write_lists(tmp_path, ("train.txt", "val.txt"), (lines[:4], lines[4:]))
    command("data", "init", tmp_path)
    described = _described(tmp_path)
    assert [image for image, _ in described["train"]] == lines[:4]
    assert [image for image, _ in described["val"]] == lines[4:]
    assert _toml(tmp_path).count("[[splits.train]]") == 2


# --- Masks that are not found --------------------------------------------------------------------


def _json(root: Path, name: str, content: object) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps(content))


COCO = {"images": [], "annotations": [], "categories": []}
CAUSES = [
    (lambda root: _json(root, "coco.json", COCO), "coco.json looks like annotations (coco)"),
    (lambda root: _json(root, "images/1.json", {"shapes": []}), "annotations (labelme)"),
    (lambda root: _write_lists(root, ["labels/1.txt"], [["0 .1 .1 .2 .1"]]), "annotations (yolo)"),
    (
        lambda root: _write(root, "out/task-1-annotation-2-by-1-tag-cat-0.png", 1),
        "Label Studio's masks of one class do not say their image: export COCO",
    ),
    (
        lambda root: [_write(root, f"masks/{kind}/1.png", 1) for kind in ("cat", "dog")],
        "masks/cat/1.png looks like annotations (class masks): `perpixel data convert`",
    ),
    (lambda root: _write(root, "masks/1.jpg", 1), "masks/1.jpg: JPEG files cannot be masks"),
    (lambda root: (root / "masks.zip").touch(), "masks.zip: unpack it"),
    (lambda root: (root / "1.xml").touch(), "1.xml: XML, as of Pascal VOC's boxes"),
    (lambda root: _write(root, "masks/x9.png", 1), "masks/x9.png: it is called a mask, but no"),
    (lambda root: None, "Masks are recognized by their folder"),
]


@pytest.mark.parametrize(("write", "text"), CAUSES)
def test_masks_that_are_not_found_have_a_cause(write, text, tmp_path, command):
    for number in "12":
        _write(tmp_path, f"images/{number}.jpg", int(number))
    write(tmp_path)
    code, printed = command("data", "init", tmp_path)
    assert code == 1
    assert "found " in printed
    assert "2 .jpg" in printed
    assert text in printed
