"""Each published data set in its original layout: counts, ids, lists, and two steps of training."""

from pathlib import Path

import miniatures
import numpy as np
import pytest
from miniatures import MINIATURES
from PIL import Image

import perpixel
from perpixel.data.dataset import read_pair
from perpixel.data.datasets import ade20k, camvid, cityscapes, pascal_context, pascal_voc
from perpixel.data.registry import NAMES, classes, open_dataset
from perpixel.errors import PerpixelError, UsageError
from perpixel.io.images import palette_table, read_mask, write_image
from perpixel.recipes.schema import IGNORE_INDEX

SAMPLES = Path(__file__).parents[3] / "shared" / "data" / "samples"


@pytest.fixture
def samples() -> Path:
    """Real files of several data sets, where this machine has them."""
    if not SAMPLES.is_dir():
        pytest.skip("no real samples on this machine (looked in ../shared/data/samples)")
    return SAMPLES


@pytest.fixture(params=MINIATURES)
def mini_set(request, tmp_path: Path) -> tuple[str, Path]:
    name, write = MINIATURES[request.param]
    write(tmp_path)
    return name, tmp_path


COUNTS = {
    "pascal_voc": {"train": 3, "val": 2, "trainval": 5, "trainaug": 5, "sbd_train": 3},
    "ade20k": {"train": 4, "val": 2},
    "cityscapes": {"train": 4, "val": 2, "test": 1},
    "pascal_context": {"train": 3, "val": 1},
    "pascal_context_59": {"train": 3, "val": 1},
    "pascal_context_fcn": {"train": 3, "val": 1},
    "camvid": {"train": 4, "val": 1, "test": 2},
    "siftflow": {"trainval": 3, "test": 200},
    "nyudv2": {"train": 381, "val": 414, "trainval": 795, "test": 654},
}


def test_every_split_is_read_and_every_class_is_found(mini_set):
    name, root = mini_set
    for split, count in COUNTS[name].items():
        dataset = open_dataset(name, root, split)
        assert len(dataset) == count
        assert dataset.classes == classes(name)
        for index in range(count):
            image, label = read_pair(dataset, index)
            assert image.shape == (*miniatures.SIZE, 3)
            void = {IGNORE_INDEX} & set(np.unique(label).tolist())
            assert set(np.unique(label).tolist()) == {*range(len(dataset.classes))} | void
    with pytest.raises(UsageError, match=rf"{name[:6]}.* has no split 'tran'.*train"):
        open_dataset(name, root, "tran")


def test_two_steps_of_training(mini_set, tmp_path_factory):
    name, root = mini_set
    splits = ("train", "val") if "val" in COUNTS[name] else ("trainval", "test")
    recipe = perpixel.override(
        perpixel.recipe("camvid/fcn_r18-d8"),
        ["model.backbone.base_channels=8",
         f"data.name={name}", f"data.train_split={splits[0]}", f"data.eval_split={splits[1]}",
         "train.steps=2", "train.batch_size=2", "augment.crop_size=32x32",
         "train.precision=float32", "model.head.channels=8", "model.aux_head.channels=8"],
    )  # fmt: skip
    run = perpixel.train(
        recipe, data=root, out=tmp_path_factory.mktemp("run"), device="cpu", workers=0
    )
    assert run.scores.images == COUNTS[name][splits[1]]
    assert set(run.scores.iou) == set(classes(name).names)


def test_a_folder_of_something_else_is_described(mini_set, tmp_path_factory):
    name, _ = mini_set
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "holiday").mkdir()
    with pytest.raises(PerpixelError, match="holiday" if name != "camvid" else "train.txt"):
        open_dataset(name, elsewhere, next(iter(COUNTS[name])))
    with pytest.raises(PerpixelError, match="no such folder"):
        open_dataset(name, elsewhere / "none", next(iter(COUNTS[name])))


def test_names_and_palettes_are_complete():
    counts = {"pascal_voc": 21, "ade20k": 150, "cityscapes": 19, "pascal_context": 60,
              "pascal_context_59": 59, "pascal_context_fcn": 60, "camvid": 11, "scenes": 7,
              "siftflow": 33, "nyudv2": 40}  # fmt: skip
    assert set(counts) == set(NAMES) - {"folder"}
    assert classes("folder") is None
    for name, count in counts.items():
        names = classes(name).names
        assert len(names) == len(set(names)) == count
        assert all(text and text == text.strip() for text in names)
    ade = classes("ade20k")
    assert len(set(ade.palette)) == 149
    assert ade.palette[6] == ade.palette[48] == (140, 140, 140)
    assert (ade.names[0], ade.names[7], ade.names[149]) == ("wall", "bed", "flag")
    assert dict(zip(*_pairs("cityscapes"), strict=True))["traffic sign"] == (220, 220, 0)
    assert classes("pascal_context").palette == ade.palette[:60]
    assert classes("pascal_context_59").names == classes("pascal_context").names[1:]


def test_the_original_fcns_order_and_lists(mini_voc_and_context):
    """Pascal Context's outputs, VOC's first; SBD's own list and masks; 736 images of VOC 2011."""
    voc, context = mini_voc_and_context
    fcn = open_dataset("pascal_context_fcn", context, "train")
    usual = open_dataset("pascal_context", context, "train")
    assert fcn.classes.names[:3] == ("background", "aeroplane", "bicycle")
    assert fcn.classes.names[20:23] == ("tvmonitor", "bag", "bed")
    assert sorted(fcn.classes.names) == sorted(usual.classes.names)
    assert dict(zip(fcn.classes.names, fcn.classes.palette, strict=True)) == dict(
        zip(usual.classes.names, usual.classes.palette, strict=True)
    )
    ours, theirs = fcn.label(0), usual.label(0)
    names = np.array([*usual.classes.names]), np.array([*fcn.classes.names])
    np.testing.assert_array_equal(names[1][ours], names[0][theirs])

    seg11valid = open_dataset("pascal_voc", voc, "seg11valid")
    assert len(seg11valid) == 736
    assert seg11valid.sample_id(0).endswith("JPEGImages/2007_000033.jpg")
    image, label = read_pair(seg11valid, 0)
    assert image.shape[:2] == label.shape
    sbd = open_dataset("pascal_voc", voc, "sbd_train")
    assert [Path(sbd.sample_id(i)).stem for i in range(3)] == [*miniatures.SBD_TRAIN]
    assert sbd.files[1][1].endswith("cls/2007_000032.mat")  # SBD's mask, though VOC has one


@pytest.fixture
def mini_voc_and_context(tmp_path: Path) -> tuple[Path, Path]:
    miniatures.pascal_voc(tmp_path / "voc")
    miniatures.pascal_context(tmp_path / "context")
    return tmp_path / "voc", tmp_path / "context"


def _pairs(name):
    return classes(name).names, classes(name).palette


def test_vocs_palette_is_its_color_map():
    """The devkit's rule: bit k of each channel is bit 3k + channel of the index, from the top."""
    for index, color in enumerate(pascal_voc.CLASSES.palette):
        expected = [
            sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8))
            for channel in range(3)
        ]
        assert list(color) == expected


@pytest.mark.parametrize("below", [".", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_voc_is_found_from_any_of_its_folders(tmp_path, below):
    miniatures.pascal_voc(tmp_path)
    train = pascal_voc.open_pascal_voc(tmp_path / below, "train")
    assert [Path(train.sample_id(i)).stem for i in range(3)] == list(miniatures.VOC_TRAIN)
    assert train.label(0).shape == miniatures.SIZE


def test_trainaug_takes_vocs_masks_where_there_are_any_and_none_of_val(tmp_path):
    miniatures.pascal_voc(tmp_path)
    pairs = pascal_voc.open_pascal_voc(tmp_path, "trainaug")
    assert [(Path(image).stem, Path(mask).suffix) for image, mask in pairs.files] == [
        ("2007_000032", ".png"), ("2007_000039", ".png"), ("2007_000063", ".png"),
        ("2008_000002", ".mat"), ("2008_000003", ".mat"),
    ]  # fmt: skip
    assert (read_mask(tmp_path / pairs.files[3][1]) == pairs.label(3)).all()
    assert not (pairs.label(3) == IGNORE_INDEX).any()
    assert (pairs.label(0) == IGNORE_INDEX).any()


def test_trainaug_reads_ready_made_masks_too(tmp_path):
    miniatures.pascal_voc(tmp_path)
    from_sbd = pascal_voc.open_pascal_voc(tmp_path, "trainaug")
    ready = tmp_path / "VOCdevkit/VOC2012/SegmentationClassAug"
    for name in {*miniatures.SBD_TRAIN, *miniatures.SBD_VAL}:
        mat = tmp_path / f"benchmark_RELEASE/dataset/cls/{name}.mat"
        miniatures.gray(ready / f"{name}.png", read_mask(mat))
    pairs = pascal_voc.open_pascal_voc(tmp_path, "trainaug")
    assert [image for image, _ in pairs.files] == [image for image, _ in from_sbd.files]
    assert all(mask.endswith(".png") for _, mask in pairs.files)
    assert all((pairs.label(i) == from_sbd.label(i)).all() for i in range(len(pairs)))


def test_trainaug_without_sbd_says_what_to_fetch(tmp_path):
    miniatures.pascal_voc(tmp_path)
    with pytest.raises(PerpixelError, match="perpixel data download pascal_voc"):
        pascal_voc.open_pascal_voc(tmp_path / "VOCdevkit/VOC2012", "trainaug")


def test_trainaug_is_the_published_list(samples, tmp_path):
    """10,582 names, from lists that overlap as VOC's and SBD's do."""
    published = sorted((samples / "lists/train_aug.txt").read_text().split())
    val = (samples / "lists/seg11valid.txt").read_text().split()
    train, rest = published[:1464], published[1464:]
    lists, sbd = tmp_path / "ImageSets/Segmentation", tmp_path / "benchmark_RELEASE/dataset"
    miniatures.listing(lists / "train.txt", train)
    miniatures.listing(lists / "val.txt", val)
    miniatures.listing(sbd / "train.txt", rest[5000:] + val[:300] + train[:900])
    miniatures.listing(sbd / "val.txt", rest[:5000] + val[300:600])
    (sbd / "cls").mkdir()
    pairs = pascal_voc.open_pascal_voc(tmp_path, "trainaug")
    assert len(pairs) == 10_582
    assert [Path(image).stem for image, _ in pairs.files] == published
    assert sum(mask.endswith(".mat") for _, mask in pairs.files) == 9_118


def test_a_corrupt_matlab_file_is_named(tmp_path):
    (tmp_path / "a.mat").write_bytes(b"MATLAB 5.0 MAT-file" + b"x" * 200)
    with pytest.raises(PerpixelError, match=r"a\.mat: not a MATLAB file"):
        read_mask(tmp_path / "a.mat")
    from scipy.io import savemat

    savemat(tmp_path / "b.mat", {"other": np.eye(3)})
    with pytest.raises(PerpixelError, match=r"b\.mat: holds no mask"):
        read_mask(tmp_path / "b.mat")
    savemat(tmp_path / "c.mat", {"LabelMap": np.eye(3) / 2})
    with pytest.raises(PerpixelError, match=r"c\.mat: .* not whole, as 0\.5 at 3 of 9"):
        read_mask(tmp_path / "c.mat")


def test_cityscapes_ids_become_train_ids_and_train_ids_are_read(tmp_path):
    miniatures.cityscapes(tmp_path)
    from_ids = cityscapes.open_cityscapes(tmp_path, "train")
    label, raw = from_ids.label(1), read_mask(tmp_path / from_ids.files[1][1])
    for index, known in enumerate(cityscapes.LABEL_IDS):
        assert ((raw == known) == (label == index)).all()
    assert ((label == IGNORE_INDEX) == ~np.isin(raw, cityscapes.LABEL_IDS)).all()
    for _, mask in from_ids.files:
        path = tmp_path / mask
        miniatures.gray(Path(str(path).replace("labelIds", "labelTrainIds")), label)
    assert "labelIds" in cityscapes.open_cityscapes(tmp_path, "train").files[0][1]
    for _, mask in from_ids.files:
        (tmp_path / mask).unlink()
    from_train_ids = cityscapes.open_cityscapes(tmp_path, "train")
    assert (from_train_ids.label(1) == label).all()


def test_cityscapes_ids_are_the_named_classes(tmp_path):
    """By name as in cityscapesScripts' labels.py; trailers, caravans and the like are no class."""
    ids = {
        "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17,
        "traffic light": 19, "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23,
        "person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31,
        "motorcycle": 32, "bicycle": 33,
    }  # fmt: skip
    raw = np.arange(34, dtype=np.uint8)[None]
    write_image(tmp_path / "leftImg8bit/val/a/a_leftImg8bit.png", np.zeros((1, 34, 3), np.uint8))
    write_image(tmp_path / "gtFine/val/a/a_gtFine_labelIds.png", raw)
    pairs = cityscapes.open_cityscapes(tmp_path, "val")
    index_of_id = dict(zip(raw[0].tolist(), pairs.label(0)[0].tolist(), strict=True))
    named = {
        pairs.classes.names[index]: raw_id
        for raw_id, index in index_of_id.items()
        if index != IGNORE_INDEX
    }
    assert named == ids


def test_a_real_cityscapes_frame(samples):
    """Its labelIds become its labelTrainIds, but for 77 pixels on the borders of classes.

    The sample's two files were reduced to 256x128 differently: there, one id has several train
    ids (7 is 0, 1, 13 and 255), so that no table could make the one of the other.
    """
    val = cityscapes.open_cityscapes(samples / "cityscapes", "val")
    image, label = read_pair(val, 0)
    assert image.shape == (*label.shape, 3)
    mask = samples / "cityscapes" / val.files[0][1]
    raw, published = (
        read_mask(mask),
        read_mask(Path(str(mask).replace("labelIds", "labelTrainIds"))),
    )
    for known in np.unique(raw):  # what the published file mostly says is what the table says
        assert np.bincount(published[raw == known]).argmax() == label[raw == known][0]
    differing = np.argwhere(label != published)
    assert len(differing) == 77
    for y, x in differing:
        near = label[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3]
        assert published[y, x] in near


def test_a_real_voc_image(samples, tmp_path):
    mask = samples / "voc/label.png"
    voc = tmp_path / "VOC2012"
    for folder, file in (("JPEGImages/a.jpg", "image.jpg"), ("SegmentationClass/a.png", mask.name)):
        (voc / folder).parent.mkdir(parents=True)
        (voc / folder).write_bytes((samples / "voc" / file).read_bytes())
    miniatures.listing(voc / "ImageSets/Segmentation/val.txt", ["a"])
    _, label = read_pair(pascal_voc.open_pascal_voc(tmp_path, "val"), 0)
    with Image.open(mask) as file:
        assert (label == np.asarray(file)).all()
        colors = np.asarray(file.convert("RGB"))
    known = label != IGNORE_INDEX
    assert (palette_table(pascal_voc.CLASSES.palette)[label][known] == colors[known]).all()
    assert set(np.unique(label)) > {0, IGNORE_INDEX}


def test_ade_counts_from_one(tmp_path):
    miniatures.ade20k(tmp_path)
    pairs = ade20k.open_ade20k(tmp_path / "ADEChallengeData2016", "val")
    raw = read_mask(pairs.root / pairs.files[0][1])
    assert (pairs.label(0) == np.where(raw == 0, IGNORE_INDEX, raw.astype(int) - 1)).all()


def test_contexts_release_ids_are_the_named_classes(tmp_path):
    ids = dict(zip(pascal_context.CLASSES_59.names, pascal_context.RAW_IDS, strict=True))
    some = {"aeroplane": 2, "bag": 9, "bicycle": 23, "car": 59, "person": 284, "pottedplant": 308,
            "sky": 360, "table": 397, "tree": 420, "tvmonitor": 427, "wood": 458}  # fmt: skip
    assert some.items() <= ids.items()
    assert list(ids.values()) == sorted(set(ids.values()))
    miniatures.pascal_context(tmp_path)
    sixty = pascal_context.open_pascal_context(tmp_path, "train")
    fifty_nine = pascal_context.open_pascal_context_59(tmp_path, "train")
    label, raw = sixty.label(0), read_mask(tmp_path / sixty.files[0][1])
    assert ((raw == 284) == (label == sixty.classes.names.index("person"))).all()
    assert ((label == 0) == ~np.isin(raw, pascal_context.RAW_IDS)).all()
    assert (fifty_nine.label(0) == np.where(label == 0, IGNORE_INDEX, label.astype(int) - 1)).all()


def test_camvids_release_is_split_by_name_or_by_list(tmp_path):
    miniatures.camvid_release(tmp_path)
    for split, names in miniatures.CAMVID_NAMES.items():
        pairs = camvid.open_camvid(tmp_path, split)
        assert sorted(Path(image).stem for image, _ in pairs.files) == sorted(names)
    (tmp_path / "train.txt").write_text("/SegNet/CamVid/train/0016E5_07959.png /x/y/z.png\n")
    assert camvid.open_camvid(tmp_path, "train").sample_id(0).endswith("0016E5_07959.png")
    write_image(tmp_path / "701_StillsRaw_full/holiday.png", np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(PerpixelError, match="holiday is not one of CamVid's"):
        camvid.open_camvid(tmp_path, "val")


def test_camvids_colors_are_the_named_classes(tmp_path):
    """The release's 32 colors by name (its label_colors.txt), in SegNet's groups."""
    colors = {
        "sky": [(128, 128, 128)],
        # Archway, Bridge, Building, Tunnel, Wall
        "building": [(192, 0, 128), (0, 128, 64), (128, 0, 0), (64, 0, 64), (64, 192, 0)],
        # Column_Pole, TrafficCone
        "pole": [(192, 192, 128), (0, 0, 64)],
        # Road, LaneMkgsDriv, LaneMkgsNonDriv
        "road": [(128, 64, 128), (128, 0, 192), (192, 0, 64)],
        # Sidewalk, ParkingBlock, RoadShoulder
        "pavement": [(0, 0, 192), (64, 192, 128), (128, 128, 192)],
        # Tree, VegetationMisc
        "tree": [(128, 128, 0), (192, 192, 0)],
        # SignSymbol, Misc_Text, TrafficLight
        "signsymbol": [(192, 128, 128), (128, 128, 64), (0, 64, 64)],
        "fence": [(64, 64, 128)],
        # Car, SUVPickupTruck, Truck_Bus, Train, OtherMoving
        "car": [(64, 0, 128), (64, 128, 192), (192, 128, 192), (192, 64, 128), (128, 64, 64)],
        # Pedestrian, Child, CartLuggagePram, Animal
        "pedestrian": [(64, 64, 0), (192, 128, 64), (64, 0, 192), (64, 128, 64)],
        # Bicyclist, MotorcycleScooter
        "bicyclist": [(0, 128, 192), (192, 0, 192)],
        "void": [(0, 0, 0)],
    }
    pixels = np.array([[color for group in colors.values() for color in group]], np.uint8)
    assert pixels.shape == (1, 32, 3)
    write_image(tmp_path / "701_StillsRaw_full/0001TP_006690.png", pixels)
    write_image(tmp_path / "LabeledApproved_full/0001TP_006690_L.png", pixels)
    pairs = camvid.open_camvid(tmp_path, "train")
    names = [*pairs.classes.names, *["void"] * (256 - len(pairs.classes))]
    assert [names[index] for index in pairs.label(0)[0]] == [
        name for name, group in colors.items() for _ in group
    ]


def test_camvids_splits_follow_from_the_names(camvid):  # the fixture: real files
    from perpixel.data.datasets.camvid import split_of

    for split in ("train", "val"):
        names = [Path(line.split()[0]).stem for line in (camvid / f"{split}.txt").open()]
        assert {split_of(name) for name in names} == {split}


def test_an_empty_folder_of_masks_does_not_shrink_trainaug(tmp_path: Path):
    MINIATURES["pascal_voc"][1](tmp_path)
    before = open_dataset("pascal_voc", tmp_path, "trainaug")
    (voc,) = tmp_path.rglob("VOC2012")
    (voc / "SegmentationClassAug").mkdir()
    assert len(open_dataset("pascal_voc", tmp_path, "trainaug")) == len(before)


def test_macos_own_files_are_no_images(tmp_path):
    miniatures.ade20k(tmp_path)
    root = tmp_path / "ADEChallengeData2016"
    before = tuple(ade20k.open_ade20k(root, "val").files)
    (root / "images/validation/._extra.jpg").write_bytes(b"\0\5\x16\7")
    assert tuple(ade20k.open_ade20k(root, "val").files) == before
