"""`perpixel data check` on data sets with known problems: all are found and named in one run."""

import json
import os
import re
import shutil
import sys
import tomllib
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile
from miniatures import MINIATURES, write_bands
from PIL import Image

from perpixel.data.cache import write_cache
from perpixel.data.check import Report, check
from perpixel.data.check_pair import Kind
from perpixel.data.dataset import read_pair
from perpixel.data.datasets.folder import open_folder
from perpixel.data.label_sheet import choose_examples
from perpixel.data.registry import open_dataset
from perpixel.errors import PerpixelError, UsageError
from perpixel.io.images import read_image, write_image, write_mask


def names(root: Path, split: str) -> list[str]:
    """The names of a split's images, in its list's order."""
    lines = (root / f"{split}.txt").read_text().splitlines()
    return [Path(line.split()[0]).name for line in lines]


def change_mask(path: Path, change) -> None:
    write_image(path, change(np.array(Image.open(path))))


def filled(mask: np.ndarray, *, at: tuple, value: object) -> np.ndarray:
    mask[at] = value
    return mask


def damage(root: Path) -> dict[Kind, set[str]]:
    """Eleven kinds of damage to a data set in CamVid's layout, and the names to be reported."""
    train, val = names(root, "train"), names(root, "val")
    image, mask = root / "train", root / "trainannot"

    (image / train[0]).unlink()
    (mask / train[1]).unlink()
    cut = (image / train[2]).read_bytes()
    (image / train[2]).write_bytes(cut[: len(cut) // 2])
    (mask / train[3]).write_bytes(b"this is no image")
    change_mask(mask / train[4], lambda old: old[:-7])
    change_mask(mask / train[5], lambda old: filled(old, at=np.s_[:2, :3], value=77))
    change_mask(mask / train[6], lambda old: np.full_like(old, 11))
    (image / train[8]).write_bytes((image / train[7]).read_bytes())
    (root / "val" / val[0]).write_bytes((image / train[9]).read_bytes())
    shutil.copy(image / train[10], image / "not_listed.png")
    write_image(image / "not_listed.png", 255 - read_image(image / "not_listed.png"))
    for name in val:
        label = np.array(Image.open(root / "valannot" / name))
        if (label == 3).any():  # the road
            change_mask(root / "valannot" / name, lambda old: filled(old, at=old == 3, value=4))
    return {
        Kind.MISSING_IMAGE: {f"train/{train[0]}"},
        Kind.MISSING_MASK: {f"trainannot/{train[1]}"},
        Kind.UNREADABLE_IMAGE: {f"train/{train[2]}"},
        Kind.UNREADABLE_MASK: {f"trainannot/{train[3]}"},
        Kind.DIFFERENT_SIZES: {f"train/{train[4]}"},
        Kind.UNKNOWN_VALUES: {f"trainannot/{train[5]}"},
        Kind.ONLY_VOID: {f"trainannot/{train[6]}"},
        Kind.REPEATED: {f"train/{train[7]}"},
        Kind.IN_SEVERAL_SPLITS: {f"train/{train[9]}"},
        Kind.UNUSED: {"train/not_listed.png"},
        Kind.UNSEEN_CLASS: {"road"},
    }


def subjects_of(report: Report) -> dict[Kind, set[str]]:
    subjects: dict[Kind, set[str]] = {}
    for finding in report.findings:
        subjects.setdefault(finding.kind, set()).add(finding.subject)
    return subjects


def detail(report: Report, kind: Kind) -> str:
    (text,) = {finding.detail for finding in report.findings if finding.kind is kind}
    return text


@pytest.fixture
def root(mini: Path, tmp_path: Path) -> Path:
    """A copy of the miniature CamVid in which every split shows every class."""
    root = tmp_path / "CamVid"
    shutil.copytree(mini, root)
    row = np.s_[-1, :11]
    for split in ("train", "val"):
        for name in names(root, split):
            path = root / f"{split}annot" / name
            change_mask(path, lambda old: filled(old, at=row, value=np.arange(11)))
    return root


@pytest.fixture
def command(command):
    """Runs `perpixel data check`; returns its exit code, stdout and stderr."""
    return partial(command, "data", "check")


def test_a_clean_set_is_clean(root: Path, command, tmp_path: Path):
    code, out, _ = command("camvid", root, "--json", tmp_path / "check.json")
    assert code == 0
    assert "checked 15 pairs; errors: 0, warnings: 0, notes: 0" in out
    report_json = json.loads((tmp_path / "check.json").read_text())
    assert report_json["findings"] == []
    assert [split["pairs"] for split in report_json["splits"]] == [12, 3]


def test_a_sheet_shows_masks_over_images(root: Path, command, tmp_path: Path):
    """Every intact image of the fifteen up to a dozen, and every class's color in the legend."""
    (root / "trainannot" / names(root, "train")[0]).write_bytes(b"no mask")
    file = tmp_path / "out" / "labels.png"
    code, out, _ = command("camvid", root, "--sheet", file)
    assert (code, f"{file}: 12 images" in out) == (1, True)
    sheet = read_image(file)
    for color in open_dataset("camvid", root, "val").classes.palette:
        assert (sheet[-60:] == color).all(axis=2).sum() > 100
    broken = tmp_path / "broken"
    shutil.copytree(root, broken)
    for mask in broken.glob("*annot/*.png"):
        mask.write_bytes(b"no mask")
    code, _, err = command("camvid", broken, "--sheet", tmp_path / "none.png")
    assert (code, "no image with an intact mask" in err) == (1, True)
    code, _, err = command("camvid", root, "--sheet", tmp_path / "labels.text")
    assert (code, "use .png" in err) == (1, True)


def test_examples_show_every_class_and_show_it_well():
    pixels = np.zeros((40, 14), np.int64)
    pixels[:, 0] = 100  # a class that all images show
    for number in range(1, 14):
        pixels[number, number] = 1
    pixels[30, 1:5] = 1  # several at once, of which there are too many for one image each
    pixels[35, 7] = 50  # and one that is better seen here
    pixels[39] = 0  # nothing is labeled
    chosen = choose_examples(pixels)
    assert len(chosen) == 12
    assert pixels[chosen].any(axis=0).all()
    assert {30, 35} <= set(chosen)
    assert choose_examples(pixels[[39, 0, 1]]) == [1, 2]
    assert choose_examples(np.zeros((0, 3), np.int64)) == []


def test_eleven_kinds_of_damage_in_one_run(root: Path, command, tmp_path: Path):
    expected = damage(root)
    report = check("camvid", root)
    assert subjects_of(report) == expected
    code, out, err = command("camvid", root, "--json", tmp_path / "out/check.json")
    assert code == 1, err
    for kind, subjects in expected.items():
        assert f"{kind.severity}: {kind.title}: {len(subjects)}" in out
        assert all(subject in out for subject in subjects)
    report_json = json.loads((tmp_path / "out/check.json").read_text())
    assert (report_json["errors"], report_json["warnings"], report_json["notes"]) == (6, 5, 0)
    assert {finding["kind"] for finding in report_json["findings"]} == {
        kind.name.lower() for kind in expected
    }
    assert detail(report, Kind.UNKNOWN_VALUES) == "77 at 6 pixels"
    assert "48x64, its mask" in detail(report, Kind.DIFFERENT_SIZES)
    assert "41x64 (height x width)" in detail(report, Kind.DIFFERENT_SIZES)
    assert "val/00.png in val" in detail(report, Kind.IN_SEVERAL_SPLITS)


@pytest.mark.skipif(sys.platform != "linux", reason="sets the process's processor cores")
def test_the_report_does_not_depend_on_the_number_of_threads(root: Path):
    damage(root)
    expected = check("camvid", root).as_json()
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert check("camvid", root).as_json() == expected
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize("layout", MINIATURES)
def test_data_sets_in_their_original_layouts_have_no_errors(layout: str, tmp_path: Path):
    name, write = MINIATURES[layout]
    write(tmp_path)
    report = check(name, tmp_path)
    expected = {
        "pascal_voc": ["trainaug", "val"],
        "siftflow": ["trainval", "test"],
        "nyudv2": ["trainval", "test"],
    }
    assert [split.name for split in report.splits] == expected.get(name, ["train", "val"])
    assert report.balance is report.splits[0]
    # The miniatures of one split are painted as those of the other.
    # Pascal Context's 59 classes leave out the background.
    warnings = {Kind.IN_SEVERAL_SPLITS, Kind.MOSTLY_VOID}
    if name == "siftflow":  # an image without labels
        warnings.add(Kind.UNUSED)
    assert subjects_of(report).keys() <= warnings


# --- Reports of data sets without errors ---------------------------------------------------------


def small(root: Path, masks: list[list[list[int]]], *, classes: str = '"a", "b", "c"') -> Path:
    """A folder whose split "train" has these masks, and black images but for their numbers."""
    for number, mask in enumerate(masks):
        label = np.array(mask, np.uint8)
        write_image(root / f"masks/{number}.png", label)
        write_image(root / f"images/{number}.png", np.full((*label.shape, 3), number, np.uint8))
    (root / "dataset.toml").write_text(
        f'classes = [{classes}]\n[splits.train]\nimages = "images"\nmasks = "masks"\n'
    )
    return root


def test_class_weights_are_the_papers(tmp_path: Path):
    root = small(tmp_path, [[[0, 0, 0, 1]], [[0, 255, 255, 255]], [[0, 1]]], classes='"a","b","c"')
    (train,) = check("folder", root).splits
    assert (train.pixels, train.void, train.images) == ((5, 2, 0), 3, (3, 2, 0))
    frequency = 5 / 7, 2 / 6  # of the labeled pixels of the images that show the class
    median = sum(frequency) / 2
    assert train.median_frequency == pytest.approx(
        [median / frequency[0], median / frequency[1], 1], rel=1e-3
    )
    assert train.enet == pytest.approx(
        [1 / np.log(1.02 + 5 / 7), 1 / np.log(1.02 + 2 / 7), 1 / np.log(1.02)], rel=1e-3
    )
    assert train.sizes == (((1, 2), 1), ((1, 4), 2))


def test_printed_class_weights_can_be_set(root: Path, command):
    import perpixel

    _, out, _ = command("camvid", root)
    settings = [line.split()[-1] for line in out.splitlines() if "--set" in line]
    assert len(settings) == 2
    for setting in settings:
        recipe = perpixel.override(perpixel.recipe("camvid/semantic_fpn_r18"), [setting])
        assert len(recipe.loss.class_weights or ()) == 11


def test_odd_images_are_noted_and_read(tmp_path: Path):
    root = small(tmp_path, [[[0, 1, 2], [0, 0, 0]]] * 4)
    images = tmp_path / "images"
    for path in images.iterdir():
        path.unlink()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 3, 4), np.uint8)
    Image.fromarray(pixels).save(images / "0.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 256).save(images / "1.png")
    Image.fromarray(pixels, "CMYK").save(images / "2.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels[..., :3].swapaxes(0, 1).copy()).save(images / "3.jpg", exif=exif)
    report = check("folder", root, crop=(2, 4))
    assert subjects_of(report) == {
        Kind.ALPHA: {"images/0.png"},
        Kind.SIXTEEN_BITS: {"images/1.png"},
        Kind.CMYK: {"images/2.jpg"},
        Kind.TURNED: {"images/3.jpg"},
        Kind.BELOW_CROP: {f"images/{name}" for name in ("0.png", "1.png", "2.jpg", "3.jpg")},
    }
    assert Kind.BELOW_CROP not in subjects_of(check("folder", root, crop=(2, 3)))


def test_transparent_pixels_of_masks_are_noted(tmp_path: Path):
    root = small(tmp_path, [[[0, 1, 2], [0, 0, 0]]] * 2)
    ids = np.array([[0, 1, 2], [0, 0, 0]], np.uint8)
    for name, alpha in (("0", np.where(ids, 255, 0)), ("1", np.full_like(ids, 255))):
        Image.fromarray(np.dstack([ids, alpha.astype(np.uint8)])).save(root / f"masks/{name}.png")
    report = check("folder", root)
    assert subjects_of(report)[Kind.CLEAR] == {"masks/0.png"}
    assert detail(report, Kind.CLEAR) == "66.67% of its pixels"
    assert report.splits[0].pixels == (8, 2, 2)


def test_a_cache_is_refused_with_its_source(tmp_path: Path):
    root = small(tmp_path / "set", [[[0, 1, 2]]])
    pairs = {"train": open_folder(root, "train")}
    out = tmp_path / "cache"
    write_cache(out, "folder", pairs, say=lambda line: None, progress=lambda done, total: None)
    with pytest.raises(
        UsageError, match=r"is a cache; name the files it was made from: folder .*set"
    ):
        check("folder", out)


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ('"background", "crack"', ("background", [0], "crack", [255])),
        ('"crack"', ("background", [0], "crack", [255])),
        ('"crack", "background"', ("crack", [255], "background", [0])),
        ('{ name = "rest", ids = [0, 255] }', ("rest", [0], "class_255", [255])),
    ],
)
def test_a_split_of_one_class_is_an_error_with_the_table_that_fits(
    tmp_path: Path, command, classes, expected
):
    root = small(tmp_path, [[[0, 0, 255, 0]]], classes=classes)
    code, out, _ = command("folder", root)
    assert code == 1
    assert "the masks hold 0 (75.00%), 255 (25.00%)" in out
    table = re.search(r"classes = \[.*\]", out)[0]
    text = (root / "dataset.toml").read_text()
    (root / "dataset.toml").write_text(re.sub(r"classes = .*", table, text))
    assert command("folder", root)[0] == 0
    listed = tomllib.loads((root / "dataset.toml").read_text())["classes"]
    assert tuple(value for item in listed for value in item.values()) == expected


def test_a_split_whose_masks_are_empty_is_an_error(tmp_path: Path):
    report = check("folder", small(tmp_path, [[[0, 0]], [[0, 0]]]))
    assert subjects_of(report)[Kind.ONE_CLASS] == {"train"}
    assert "0 (100.00%) and nothing else" in detail(report, Kind.ONE_CLASS)


def test_mostly_unlabeled_pixels_are_a_warning(tmp_path: Path):
    root = small(tmp_path, [[[0, 1, 255, 255]], [[2, 255, 255, 255]]])
    report = check("folder", root)
    assert detail(report, Kind.MOSTLY_VOID) == "62.5%"
    assert Kind.MOSTLY_VOID not in subjects_of(check("folder", small(tmp_path, [[[0, 1, 2, 255]]])))


def test_palettes_that_differ_are_an_error_until_their_meaning_is_said(tmp_path: Path):
    ids = [[0, 1, 1]]
    root = small(tmp_path, [ids] * 3, classes='"a", { name = "b" }')
    for number, color in ((0, (9, 200, 9)), (1, (200, 9, 9)), (2, (9, 200, 9))):
        write_mask(root / f"masks/{number}.png", np.array(ids, np.uint8), ((0, 0, 0), color))
    report = check("folder", root)
    assert subjects_of(report)[Kind.PALETTES] == {"masks/1.png"}
    assert detail(report, Kind.PALETTES) == "index 1 is (200, 9, 9), and (9, 200, 9) in masks/0.png"
    text = (root / "dataset.toml").read_text()
    (root / "dataset.toml").write_text('read_palette_as = "indices"\n' + text)
    assert not check("folder", root).count("error")


@pytest.mark.parametrize(
    ("bits", "expected"), [(12, {"images/0.png"}), (14, {"images/0.png"}), (16, set())]
)
def test_16_bits_that_hold_fewer_are_a_warning(tmp_path: Path, bits, expected):
    root = small(tmp_path, [[[0, 1, 2], [0, 0, 0]]])
    values = np.array([[0, 1, 2], [3, 4, 2**bits - 1]], np.uint16)
    Image.fromarray(values).save(tmp_path / "images/0.png")
    report = check("folder", root)
    assert subjects_of(report)[Kind.SIXTEEN_BITS] == {"images/0.png"}
    assert subjects_of(report).get(Kind.FEW_BITS, set()) == expected


def test_one_white_pixel_does_not_hide_that_16_bits_hold_fewer(tmp_path: Path):
    root = small(tmp_path, [np.zeros((20, 20), int).tolist()])
    values = np.random.default_rng(0).integers(0, 4096, (20, 20), np.uint16)
    values[3, 4] = 65535
    Image.fromarray(values).save(tmp_path / "images/0.png")
    assert subjects_of(check("folder", root))[Kind.FEW_BITS] == {"images/0.png"}


@pytest.mark.parametrize("planes", [False, True])
def test_a_tiff_of_unmarked_bands_is_checked_like_others(tmp_path: Path, planes: bool):
    root = small(tmp_path, [np.eye(20, dtype=int).tolist()])
    (tmp_path / "images/0.png").unlink()
    values = np.random.default_rng(0).integers(0, 4096, (20, 20, 3), np.uint16)
    write_bands(tmp_path / "images/0.tif", values, planes=planes)
    report = check("folder", root)
    for kind in (Kind.SIXTEEN_BITS, Kind.FEW_BITS, Kind.UNMARKED):
        assert subjects_of(report)[kind] == {"images/0.tif"}
    assert detail(report, Kind.UNMARKED) == "3 bands of 16-bit numbers"
    assert report.count("error") == 0


def test_what_a_tiff_loses_when_read_is_a_warning(tmp_path: Path):
    root = small(tmp_path, [np.eye(20, dtype=int).tolist()] * 3)
    for path in (root / "images").iterdir():
        path.unlink()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 4), np.uint8)
    plain = {"photometric": "minisblack", "metadata": None}
    tifffile.imwrite(root / "images/0.tif", pixels, planarconfig="contig", **plain)
    tifffile.imwrite(root / "images/1.tif", pixels[..., 0].astype(np.int16) - 9, **plain)
    tifffile.imwrite(root / "images/2.tif", np.stack([pixels[..., 0]] * 3), **plain)
    report = check("folder", root)
    details = {f.subject: f.detail for f in report.findings if f.kind is Kind.PARTLY_READ}
    assert details == {
        "images/0.tif": "the first three of 4 bands of 8-bit numbers; bands = [4, 3, 2] in "
        "dataset.toml reads others",
        "images/1.tif": "numbers down to -8: negative ones are 0",
    }
    assert subjects_of(report)[Kind.UNREADABLE_IMAGE] == {"images/2.tif"}
    assert "several pages" in detail(report, Kind.UNREADABLE_IMAGE)


@pytest.mark.parametrize("orientation", [3, 6])
def test_images_that_exif_turns_are_named_where_nothing_else_shows_it(
    tmp_path: Path, command, orientation
):
    """A mask drawn on the pixels as they are stored."""
    root = small(tmp_path, [np.arange(24).reshape(4, 6) % 3])
    (root / "images/0.png").unlink()
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.zeros((4, 6, 3), np.uint8)
    Image.fromarray(pixels).save(root / "images/0.jpg", exif=exif)
    _, out, _ = command("folder", root)
    found = subjects_of(check("folder", root))
    assert found.pop(Kind.TURNED) == {"images/0.jpg"}
    assert set(found) == (set() if orientation == 3 else {Kind.DIFFERENT_SIZES})
    if orientation == 6:
        assert "EXIF orientation 6" in out
        with pytest.raises(PerpixelError, match=r"images/0\.jpg: .* EXIF orientation 6"):
            read_pair(open_folder(root, "train"), 0)
    assert "apply_exif_orientation = false" in out
    toml = root / "dataset.toml"
    toml.write_text(f"apply_exif_orientation = false\n{toml.read_text()}")
    assert check("folder", root).findings == ()
    assert read_pair(open_folder(root, "train"), 0)[0].shape == (4, 6, 3)


def test_a_truncated_jpeg_that_opencv_fills_with_gray_is_corrupt(tmp_path: Path, monkeypatch):
    root = small(tmp_path, [[[0, 1, 2]]])
    path = tmp_path / "images/0.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    write_image(path, noise)
    path.write_bytes(path.read_bytes()[:-900])
    (tmp_path / "images/0.png").unlink()
    monkeypatch.setattr(
        "perpixel.data.dataset.read_image", lambda path, **_: np.zeros((1, 3, 3), np.uint8)
    )
    report = check("folder", root)
    assert subjects_of(report) == {Kind.UNREADABLE_IMAGE: {"images/0.jpg"}}
    assert "truncated" in detail(report, Kind.UNREADABLE_IMAGE)


# --- Data sets that do not open, or not in full --------------------------------------------------


def test_a_folder_with_missing_images_and_masks_is_still_checked(tmp_path: Path, command):
    root = small(tmp_path, [[[0, 1, 2]], [[0, 1, 2]], [[0, 1, 9]]])
    (root / "masks/1.png").unlink()
    with (root / "dataset.toml").open("a") as file:
        file.write('list = "train.txt"\n')
    (root / "train.txt").write_text("0\n1\n2\nnowhere\n")
    report = check("folder", root)
    assert subjects_of(report) == {
        Kind.MISSING_IMAGE: {"images/nowhere.png"},
        Kind.MISSING_MASK: {"masks/1.png", "masks/nowhere.png"},
        Kind.UNKNOWN_VALUES: {"masks/2.png"},
    }
    assert command("folder", root)[0] == 1


def test_a_split_that_does_not_open_leaves_the_others(root: Path):
    (root / "val.txt").write_text("/SegNet/CamVid/val/00.png\n")
    report = check("camvid", root)
    assert subjects_of(report)[Kind.UNOPENED] == {"val"}
    assert "val.txt" in detail(report, Kind.UNOPENED)
    assert [split.name for split in report.splits] == ["train"]
    (root / "val.txt").write_text("\n")
    assert "lists no images" in detail(check("camvid", root), Kind.UNOPENED)
    (root / "val.txt").unlink()
    assert "no such list" in detail(check("camvid", root), Kind.UNOPENED)


def test_masks_of_the_wrong_kind_are_named(tmp_path: Path):
    root = small(tmp_path, [[[0, 1, 2]], [[0, 1, 2]]])
    write_image(root / "masks/1.png", np.zeros((1, 3, 3), np.uint8))
    report = check("folder", root)
    assert subjects_of(report) == {Kind.UNKNOWN_VALUES: {"masks/1.png"}}
    assert detail(report, Kind.UNKNOWN_VALUES).startswith("holds RGB colors")


def test_only_one_split_and_its_neighbors_files(root: Path):
    report = check("camvid", root, only=["val"])
    assert [split.name for split in report.splits] == ["val"]
    assert not report.findings


def test_other_files_of_a_mask_folder_are_not_unused(tmp_path: Path):
    root = small(tmp_path, [[[0, 1, 2]], [[0, 1, 2]]])
    toml = (root / "dataset.toml").read_text()
    (root / "dataset.toml").write_text('mask_suffix = "_labelIds.png"\n' + toml)
    for number in range(2):
        (root / f"masks/{number}.png").rename(root / f"masks/{number}_labelIds.png")
        write_image(root / f"masks/{number}_color.png", np.zeros((1, 3, 3), np.uint8))
    write_image(root / "masks/9_labelIds.png", np.zeros((1, 3), np.uint8))
    assert subjects_of(check("folder", root)) == {Kind.UNUSED: {"masks/9_labelIds.png"}}


def test_wrong_commands_are_explained(root: Path, command, tmp_path: Path):
    assert command("camvit", root)[0] == 2
    code, _, err = command("camvid", root, "--crop", "large")
    assert (code, "512x1024" in err) == (2, True)
    with pytest.raises(UsageError, match="there are no files"):
        check("scenes", root)
    with pytest.raises(PerpixelError, match=r"dataset\.toml: no such file"):
        check("folder", root)
    code, out, _ = command("camvid", tmp_path / "nowhere")
    assert (code, "no such folder" in out, "--data" in out) == (1, True, False)


def test_large_images_and_masks_cause_no_warning(tmp_path: Path, monkeypatch):
    """Pillow's, of a "decompression bomb" from 89 megapixels on."""
    root = small(tmp_path, [[[0, 1, 2], [0, 0, 0]]])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    with warnings.catch_warnings(action="error"):
        assert not check("folder", root).findings
