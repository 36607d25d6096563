"""Class names that exports bring, and their place in the dataset.toml that `data init` proposes."""

import contextlib
import json
import tomllib

import numpy as np
import pytest
from PIL import Image

from perpixel.cli import main
from perpixel.data.class_names import parse_names, read_names
from perpixel.data.datasets import camvid, cityscapes, pascal_voc
from perpixel.data.datasets.folder import open_folder
from perpixel.data.init import propose, write_proposal
from perpixel.errors import PerpixelError, UsageError
from perpixel.io.images import write_image, write_mask
from perpixel.recipes.schema import IGNORE_INDEX

IDS = np.array([[0, 1, 2, 2], [2, 2, 1, 1]], np.uint8)
COLORS = np.array([(0, 0, 0), (250, 50, 80), (50, 90, 250)], np.uint8)


def _propose(root, mask, files=(), *, names=None):
    """The proposed description of one pair beside text `files`, and the notes."""
    write_image(root / "images/a.png", np.full((*mask.shape[:2], 3), 100, np.uint8))
    if mask.ndim == 3 or not (root / "masks/a.png").exists():
        write_image(root / "masks/a.png", mask)
    for name, text in dict(files).items():
        (root / name).write_text(text, "utf-8")
    proposal = propose(root, names=names)
    write_proposal(root, proposal)
    return tomllib.loads(proposal.toml), "\n".join(proposal.notes)


def _ids(described):
    return [(item["name"], item["ids"]) for item in described["classes"]]


FORMS = {
    "_classes.csv": "Pixel Value, Class\n0, sky\n1, road\n2, car\n3, bus\n",
    "class_dict.csv": "name,r,g,b\nsky,0,0,0\nroad,250,50,80\ncar,50,90,250\nbus,7,200,7\n",
    "labelmap.txt": (
        "# label:color_rgb:parts:actions\n"
        "sky:0,0,0::\nroad:250,50,80::\ncar:50,90,250:wheel,door:\nbus:7,200,7::\n"
    ),
    "label_colors.txt": "0 0 0\tsky\n250 50 80\troad\n50 90 250\tcar\n7 200 7\t\tbus\n",
    "classes.csv": "name,id\nsky,0\nroad,1\ncar,2\nbus,3\n",
    "classes.txt": "sky\nroad\ncar\nbus\n",
    "labels.txt": "__ignore__\nsky\nroad\ncar\nbus\n",
    "obj.names": "sky\r\nroad\r\ncar\r\nbus\r\n",
    "data.yaml": "nc: 4\nnames: ['sky', \"road\", car,\n  bus]  # four\nroboflow:\n  x: 1\n",
    "dataset.yaml": "names:\n  0: sky\n  1: road\n  2: car\n  3: bus\nnc: 4\n",
    "data.yml": "names:\n- sky\n- road\n- car\n- 'bus'\n",
    "dataset.json": json.dumps({"labels": {"sky": 0, "car": 2, "road": 1, "bus": 3}, "x": [1]}),
    "id2label.json": json.dumps({"0": "sky", "1": "road", "2": "car", "3": "bus"}),
    "classes.json": json.dumps(["sky", "road", "car", "bus"]),
}
WITH_COLORS = ("class_dict.csv", "labelmap.txt", "label_colors.txt")


@pytest.mark.parametrize("name", FORMS)
def test_names_of_an_export_are_those_of_the_ids(tmp_path, name):
    described, notes = _propose(tmp_path, IDS, {name: FORMS[name]})
    assert _ids(described) == [("sky", [0]), ("road", [1]), ("car", [2]), ("bus", [3])]
    assert f"class names are from {name}" in notes
    assert "no mask that was read shows bus" in notes
    assert open_folder(tmp_path, "train").classes.names == ("sky", "road", "car", "bus")


@pytest.mark.parametrize("name", WITH_COLORS)
def test_names_with_colors_are_those_of_rgb_masks(tmp_path, name):
    described, _ = _propose(tmp_path, COLORS[IDS], {name: FORMS[name]})
    assert described["classes"][3] == {"name": "bus", "colors": [[7, 200, 7]]}
    assert [item["name"] for item in described["classes"]] == ["sky", "road", "car", "bus"]
    assert open_folder(tmp_path, "train").label(0).tolist() == IDS.tolist()


def test_names_with_colors_are_those_of_palettes_in_any_order(tmp_path):
    """As CVAT writes them: one channel whose palette has labelmap.txt's colors."""
    write_mask(tmp_path / "masks/a.png", IDS, tuple(map(tuple, COLORS[[2, 0, 1]].tolist())))
    described, _ = _propose(tmp_path, IDS, {"labelmap.txt": FORMS["labelmap.txt"]})
    assert described["read_palette_as"] == "colors"
    assert [item["name"] for item in described["classes"]] == ["sky", "road", "car", "bus"]
    assert open_folder(tmp_path, "train").label(0).tolist() == np.array([2, 0, 1])[IDS].tolist()


@pytest.mark.parametrize(
    ("name", "text", "mask", "words"),
    [
        ("classes.txt", "sky\nroad\n", IDS, "has 2 names (sky, road) and the masks hold 3 values"),
        ("classes.txt", "a\nb\nc\n", IDS + 4, "has 3 names (a, b, c) and the masks hold 3 values"),
        ("classes.txt", "sky\nroad\ncar\n", COLORS[IDS], "without colors, and the masks hold"),
        # Polygons have no background, and masks made of them do.
        ("data.yaml", "names: [crack, hole]", (IDS == 0).astype(np.uint8), "names no background"),
        ("classes.txt", "a\nb\nc\n", np.array([[0, 0, 1, 2]], np.uint8), "names no background"),
    ],
)
def test_names_that_may_not_fit_are_not_used_and_said(tmp_path, name, text, mask, words):
    described, notes = _propose(tmp_path, mask, {name: text})
    assert words in notes
    assert words.split(" (")[0] in propose(tmp_path).toml.replace("\n# ", " ")
    assert not {item["name"] for item in described["classes"]} & {"sky", "a", "crack"}


def test_a_value_without_a_name_stays_a_class_and_is_said(tmp_path):
    text = json.dumps({"labels": {"background": 0, "crack": 1}})
    described, notes = _propose(tmp_path, IDS, {"dataset.json": text})
    assert _ids(described) == [("background", [0]), ("crack", [1]), ("class_2", [2])]
    assert "no name is given for 2, which masks hold" in notes


def test_values_with_one_name_are_one_class_and_that_is_said(tmp_path):
    described, notes = _propose(tmp_path, IDS, {"_classes.csv": "0, sky\n1, car\n2, car\n"})
    assert _ids(described) == [("sky", [0]), ("car", [1, 2])]
    assert "several values are called car" in notes


def test_shades_of_gray_take_a_list_of_as_many_names_that_the_user_gives(tmp_path):
    mask = np.array([0, 128, 255], np.uint8)[IDS]
    described, _ = _propose(tmp_path, mask, names=parse_names("cup,handle,table"))
    assert _ids(described) == [("cup", [0]), ("handle", [128]), ("table", [255])]


def test_names_whose_colors_are_not_the_palettes_are_not_used(tmp_path):
    """Read by color, the pixels without a label would be background: both are black."""
    mask = np.array([[0, 0, 0, 1], [1, 1, 2, 255]], np.uint8)
    (tmp_path / "masks").mkdir()
    image = Image.fromarray(mask)
    image.putpalette([*COLORS[[0, 2, 1]].reshape(-1).tolist(), *[0] * 759])
    image.save(tmp_path / "masks/a.png")
    described, notes = _propose(tmp_path, mask, {"labelmap.txt": FORMS["labelmap.txt"]})
    assert "gives other colors than the masks' palette" in notes
    assert _ids(described) == [("class_0", [0]), ("class_1", [1]), ("class_2", [2])]
    assert described["ignored_ids"] == [255]


def test_what_an_export_calls_ignored_is_no_class(tmp_path):
    text = json.dumps({"labels": {"background": 0, "tumor": 1, "ignore": 3}})
    described, _ = _propose(tmp_path, np.where(IDS == 2, 1, 3 * IDS), {"dataset.json": text})
    assert _ids(described) == [("background", [0]), ("tumor", [1])]
    assert described["ignored_ids"] == [3]


def test_copies_in_the_splits_are_one_list_and_different_ones_none(tmp_path):
    write_image(tmp_path / "train/images/a.png", np.zeros((2, 4, 3), np.uint8))
    write_image(tmp_path / "train/masks/a.png", IDS)
    for split in ("train", "valid"):
        (tmp_path / split).mkdir(exist_ok=True)
        (tmp_path / split / "_classes.csv").write_text(FORMS["_classes.csv"])
    assert "class names are from train/_classes.csv" in "\n".join(propose(tmp_path).notes)
    (tmp_path / "valid/_classes.csv").write_text("Pixel Value, Class\n0, road\n1, sky\n2, car\n")
    proposal = propose(tmp_path)
    assert "they differ" in "\n".join(proposal.notes)
    assert "class_0" in proposal.toml


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", '{"labels": {"whole tumor": [1, 2], "core": [2]}}', "neither a name nor an id"),
        ("a.json", "[1", "no class names in a known form"),
        ("a.yaml", "nc: 3", "neither a name nor an id"),
        ("a.yaml", "just text", "str where names are expected"),
        ("a.txt", "", "no class names"),
        ("a.csv", "a,b,c\nd,e,f\n", "not one name"),
        ("a.txt", "a:1,1,1::\nb:1,1,1::\n", "more than one name"),
        ("a.txt", "a:1,1,300::\n", "0 to 255"),
    ],
)
def test_files_without_names_say_why(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(PerpixelError, match=words) as error:
        read_names(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


def test_a_list_of_names_is_taken_as_it_is_or_refused(tmp_path, monkeypatch, capsys):
    _propose(tmp_path, IDS + 5)
    (tmp_path / "dataset.toml").unlink()
    (tmp_path / "train.txt").unlink(missing_ok=True)
    (tmp_path / "val.txt").unlink(missing_ok=True)
    words = ["perpixel", "data", "init", str(tmp_path), "--names", "sky, road,car"]
    monkeypatch.setattr("sys.argv", words)
    with contextlib.suppress(SystemExit):
        main.main()
    assert "class names are from --names" in capsys.readouterr().out
    described = tomllib.loads((tmp_path / "dataset.toml").read_text())
    assert _ids(described) == [("sky", [5]), ("road", [6]), ("car", [7])]
    with pytest.raises(UsageError, match="--names has 2 names"):
        propose(tmp_path, names=parse_names("sky,road"))
    with pytest.raises(UsageError, match="neither a file nor names"):
        parse_names(str(tmp_path / "nowhere.txt"))


@pytest.mark.parametrize(
    ("classes", "void"),
    [
        (pascal_voc.CLASSES, (224, 224, 192)),
        (cityscapes.CLASSES, (0, 0, 0)),
        (camvid.RELEASE_CLASSES, (0, 0, 0)),
    ],
)
def test_well_known_colors_give_the_names(tmp_path, classes, void):
    colors = [*classes.palette[:14], classes.palette[1], void]
    described, notes = _propose(tmp_path, np.array([colors], np.uint8))
    assert [item["name"] for item in described["classes"]][:14] == [*classes.names[:14]]
    assert described["ignored_colors"] == [list(void)]
    assert "used for other classes, too" in notes


def test_a_voc_palette_gives_the_names_of_indices(tmp_path):
    mask = np.array([[0, 0, 15, 12, 7, 255]], np.uint8)
    write_mask(tmp_path / "masks/a.png", mask, pascal_voc.CLASSES.palette)
    described, _ = _propose(tmp_path, mask)
    assert _ids(described) == [
        ("background", [0]),
        ("car", [7]),
        ("dog", [12]),
        ("person", [15]),
    ]
    assert described["classes"][3]["color"] == [192, 128, 128]
    assert open_folder(tmp_path, "train").label(0)[0].tolist() == [0, 0, 3, 2, 1, IGNORE_INDEX]


def test_colors_of_two_known_data_sets_are_no_proof(tmp_path):
    shared = [(128, 0, 0), (128, 128, 0), (128, 128, 128), (64, 0, 128)]  # VOC's and CamVid's
    described, _ = _propose(tmp_path, np.array([shared], np.uint8))
    assert {item["name"] for item in described["classes"]} == {f"class_{i}" for i in range(4)}


def test_a_palette_file_of_two_bits_is_read_by_its_indices(tmp_path):
    write_image(tmp_path / "images/a.png", np.zeros((2, 4, 3), np.uint8))
    (tmp_path / "masks").mkdir()
    image = Image.fromarray(IDS)
    image.putpalette(COLORS.tobytes())
    image.save(tmp_path / "masks/a.png", bits=2)
    described, _ = _propose(tmp_path, IDS)
    assert [item["ids"] for item in described["classes"]] == [[0], [1], [2]]
