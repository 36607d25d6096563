"""`perpixel data convert` on small exports of each format: pixels, description, notes."""

import contextlib
import copy
import json
import re
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from perpixel.cli import main
from perpixel.data.annotations.drawing import draw_polygons, draw_rle
from perpixel.data.check import check
from perpixel.data.convert import convert
from perpixel.data.datasets.folder import open_folder, splits_of_folder
from perpixel.errors import PerpixelError
from perpixel.io.images import read_mask, write_image

SIZE = 6, 8
BOX = [2, 1, 6, 1, 6, 4, 2, 4]  # x, y, x, y, ...: columns 2 to 5, rows 1 to 3
BOX_AREA = np.s_[1:4, 2:6]
TRIANGLE = [0, 0, 3.2, 0, 0, 3.2]
TRIANGLE_AREA = ([0, 0, 0, 1, 1, 2], [0, 1, 2, 0, 1, 0])


def converted(root: Path, only: str | None = None) -> str:
    """Converts a folder and checks the result; returns the lines for the user."""
    lines = convert(root, only=only)
    assert check("folder", root).count("error") == 0
    return "\n".join(lines)


def write(root: Path, **files: object) -> None:
    """Writes images (None), masks (lists), text, and everything else as JSON."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            rng = np.random.default_rng(len(name) + sum(name.encode()))
            write_image(root / name, rng.integers(0, 255, (*SIZE, 3)).astype(np.uint8))
        elif isinstance(content, list):
            write_image(root / name, np.array(content, np.uint8))
        else:
            (root / name).write_text(content if isinstance(content, str) else json.dumps(content))


def images(*names: str) -> dict[str, None]:
    return dict.fromkeys(names)


def mask_of(root: Path, stem: str) -> list[list[int]]:
    return read_mask(root / f"perpixel-masks/{stem}.png").tolist()


def expected(*areas: tuple) -> list[list[int]]:
    mask = np.zeros(SIZE, np.uint8)
    for area, value in areas:
        mask[area] = value
    return mask.tolist()


def files_of(root: Path, split: str) -> list[str]:
    return [image for image, _ in open_folder(root, split).files]


@pytest.mark.parametrize(
    ("text", "counts"),  # of cocodataset/cocoapi's rleToString
    [("061", [0, 6, 1]), ("0PP1", [0, 1024]), ("011101010", [0, 1, 1, 2, 1, 3, 1, 4, 1])],
)
def test_compressed_rle_is_that_of_coco(text: str, counts: list[int]):
    size, inside = (1, sum(counts)), np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    for form in (text, counts):
        assert (draw_rle(size, form, size)[0] == inside).all()


@pytest.mark.parametrize("counts", ["06", "06P", "0é", "", [5, -1, 3], [], [6, 2]])
def test_rle_that_does_not_fill_the_image_is_not_drawn(counts):
    assert not draw_rle((1, 7), counts, (1, 7)).any()


@given(st.lists(st.tuples(st.floats(-3, 11), st.floats(-3, 9)), min_size=3, max_size=7))
def test_a_polygon_holds_the_pixels_whose_centers_are_inside(corners):
    mask = draw_polygons([np.ravel(corners).tolist()], SIZE)
    contour = np.array(corners, np.float32)
    for row, column in np.ndindex(SIZE):
        distance = cv2.pointPolygonTest(contour, (column + 0.5, row + 0.5), True)
        if abs(distance) > 1e-3:
            assert mask[row, column] == (distance > 0)


def coco(images: list[str], *annotations: dict) -> dict:
    sizes = {"height": SIZE[0], "width": SIZE[1]}
    ids = {"image_id": 10, "category_id": 3, "iscrowd": 0}
    return {
        "images": [{"id": 10 + n, "file_name": name} | sizes for n, name in enumerate(images)],
        "categories": [{"id": 3, "name": "cat"}, {"id": 10, "name": "dog"}],
        "annotations": [ids | {"id": 100 + n} | item for n, item in enumerate(annotations)],
    }


def test_coco(tmp_path: Path):
    rle = {"size": list(SIZE), "counts": [2, 4, 42]}  # 2 outside, 4 inside, then the rest
    train = coco(
        ["a.jpg", "b.jpg"],
        {"segmentation": [BOX, TRIANGLE]},
        {"segmentation": rle, "category_id": 10, "image_id": 11, "iscrowd": 1},
    )
    compressed = {"size": list(SIZE), "counts": "24Z1"}  # the same runs
    val = coco(["a.jpg"], {"segmentation": compressed}, {"segmentation": [BOX], "category_id": 10})
    val["categories"] += [{"id": 1, "name": "cat "}]
    documents = {"instances_train": train, "instances_val": val, "captions": {"images": []}}
    write(tmp_path, **images("train2017/a.jpg", "train2017/b.jpg", "val2017/a.jpg"))
    write(tmp_path, **{f"annotations/{name}2017.json": documents[name] for name in documents})
    out = converted(tmp_path)
    assert "coco: train 2, val 1 images, 3 classes (background, cat, dog)" in out
    assert "files not used: 1 (annotations/captions2017.json)" in out
    assert files_of(tmp_path, "train") == ["train2017/a.jpg", "train2017/b.jpg"]
    assert mask_of(tmp_path, "train2017/a") == expected((BOX_AREA, 1), (TRIANGLE_AREA, 1))
    assert mask_of(tmp_path, "train2017/b") == expected((np.s_[2:6, 0], 2))
    assert mask_of(tmp_path, "val2017/a") == expected((BOX_AREA, 2), (np.s_[2:6, 0], 1))


def test_coco_as_roboflow_and_cvat_export_it(tmp_path: Path):
    """A category that nothing shows, images without annotations, and one file for all images."""
    roboflow, cvat = tmp_path / "roboflow", tmp_path / "cvat"
    for split in ("train", "valid"):
        content = coco([f"a_{split}.jpg", f"empty_{split}.jpg"], {"segmentation": [BOX]})
        content["categories"].insert(0, {"id": 0, "name": "pets", "supercategory": "none"})
        write(roboflow / split, **{"_annotations.coco.json": content})
        write(roboflow / split, **images(f"a_{split}.jpg", f"empty_{split}.jpg"))
    out = converted(roboflow)
    assert "classes without a pixel: 2 (pets, dog)" in out
    assert "images without an annotation, all background: 2" in out
    assert mask_of(roboflow, "valid/empty_valid") == expected()

    every = [{"segmentation": [BOX], "image_id": 10 + index} for index in range(10)]
    content = coco([f"{index}.png" for index in range(10)], *every)
    write(cvat, **images(*(f"images/{index}.png" for index in range(10))))
    write(cvat, **{"annotations/instances_default.json": content})
    assert "images taken for val (divide videos as a whole, by hand): 2" in converted(cvat)
    assert files_of(cvat, "val") == ["images/4.png", "images/9.png"]


def test_what_coco_cannot_say_is_named(tmp_path: Path):
    content = coco(
        ["a.jpg", "gone.jpg"],
        {"segmentation": [BOX, [1, 1, 2, 2]]},
        {"segmentation": [[1, 1, 2, 2]]},
        {"segmentation": [[1, 1, 2, 2, float("nan"), 3]]},
        {"segmentation": [[1, 1, 2, 2, 3, 3, 4]]},
        {"segmentation": []},
        {"segmentation": [BOX], "category_id": 99},
        {"segmentation": [BOX], "image_id": 99},
        {"segmentation": [[-5, 0, 2, 0, 2, 3, -5, 3]], "category_id": 10},
        {"segmentation": [[7.6, 5.6, 7.9, 5.6, 7.9, 5.9]]},
        {"segmentation": {"size": list(SIZE), "counts": "24"}},
        {"segmentation": [BOX], "image_id": 11},
    )
    write(tmp_path, **images("a.jpg", "unnamed.jpg"), **{"labels.json": content})
    out = converted(tmp_path)
    origin = "labels.json: annotation"
    not_drawn = ", ".join(f"{origin} {number}" for number in (101, 102, 103, 104, 108, 109))
    for line in (
        "annotated images that are not there: 1 (gone.jpg in labels.json)",
        f"not drawn, without a pixel (malformed, or of another size): 6 ({not_drawn})",
        f"annotations of no known image or class, not drawn: 2 ({origin} 105, {origin} 106)",
        "files not used: 1 (unnamed.jpg)",
    ):
        assert line in out
    assert mask_of(tmp_path, "a") == expected((BOX_AREA, 1), (np.s_[0:3, 0:2], 2))


def test_the_smaller_one_is_on_top(tmp_path: Path):
    table = {"segmentation": [[0, 0, 8, 0, 8, 6, 0, 6]], "category_id": 10}
    content = coco(["a.jpg"], {"segmentation": [BOX]}, table)
    write(tmp_path, **{"a.jpg": None, "x.json": content})
    assert "where annotations overlap, the smaller is on top" in converted(tmp_path)
    assert mask_of(tmp_path, "a") == expected((np.s_[:], 2), (BOX_AREA, 1))


def labelme(image: str, *shapes: tuple) -> dict:
    keys = {"imagePath": image, "imageData": "/9j/", "imageHeight": SIZE[0], "imageWidth": SIZE[1]}
    content = [
        {"label": label, "shape_type": kind, "points": np.reshape(points, (-1, 2)).tolist()}
        for label, kind, points in shapes
    ]
    return keys | {"shapes": content}


def test_labelme(tmp_path: Path):
    a = ("cat", "polygon", BOX), ("dog", "rectangle", [6, 3, 4, 0])
    b = ("dog", "circle", [4, 3, 4, 5]), ("cat", "line", [0, 0, 8, 6])
    c = labelme("c.jpg", ("cat", "polygon", BOX), ("__ignore__", "polygon", TRIANGLE))
    write(tmp_path, **images("train/a.jpg", "train/b.jpg", "val/c.jpg", "val/unlabeled.jpg"))
    write(tmp_path / "train", **{"a.json": labelme("a.jpg", *a)})
    write(tmp_path, **{"train/b.json": labelme("..\\train\\b.jpg", *b), "val/c.json": c})
    out = converted(tmp_path)
    assert "labelme: train 2, val 1 images, 3 classes (background, cat, dog)" in out
    assert ": 1 (train/b.json: shape 1, cat, line)" in out
    assert "files not used: 1 (val/unlabeled.jpg)" in out
    assert "the later is on top" in out
    assert mask_of(tmp_path, "train/a") == expected((BOX_AREA, 1), (np.s_[0:3, 4:6], 2))
    disk = np.hypot(*(np.indices(SIZE) + 0.5 - [[[3]], [[4]]])) < 2
    assert mask_of(tmp_path, "train/b") == expected((disk, 2))
    assert mask_of(tmp_path, "val/c") == expected((BOX_AREA, 1), (TRIANGLE_AREA, 255))


@pytest.mark.parametrize(
    ("kind", "points"), [("mask", [1, 1, 2, 2]), ("rotation", BOX), ("rectangle", BOX)]
)
def test_a_labelme_shape_with_an_area_is_drawn_or_refused(tmp_path: Path, kind, points):
    """As background it would be trained without a word."""
    write(tmp_path, **images("a.jpg"))
    write(tmp_path, **{"a.json": labelme("a.jpg", ("cat", "polygon", BOX), ("cat", kind, points))})
    with pytest.raises(PerpixelError, match=rf"a\.json: shape 1, cat, {kind}: only polygons"):
        convert(tmp_path)
    assert not (tmp_path / "dataset.toml").exists()


def yolo(class_number: int, points: list[float]) -> str:
    fractions = np.reshape(points, (-1, 2)) / SIZE[::-1]
    return " ".join([str(class_number), *map(repr, fractions.ravel().tolist())]) + "\n"


def test_yolo_as_roboflow_exports_it(tmp_path: Path):
    splits = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n"
    lines = ["0 0.5 0.5 0.2 0.2\n", yolo(0, TRIANGLE), "5 0 0 1 0 1 1\n", "0 10 10 90 10 90 90\n"]
    write(tmp_path, **images("train/images/a.jpg", "valid/images/b.jpg", "valid/images/c.jpg"))
    yaml = f"{splits}nc: 2\nnames: [yes, no]\n"
    write(tmp_path, **{"data.yaml": yaml, "train/labels/a.txt": yolo(1, BOX)})
    write(tmp_path / "valid/labels", **{"b.txt": "".join(lines) + "a b c", "other.txt": lines[1]})
    out = converted(tmp_path)
    origin = "valid/labels/b.txt: line"
    for line in (
        "yolo: train 1, val 2 images, 3 classes (background, yes, no)",
        f"not drawn, without a pixel (malformed, or of another size): 1 ({origin} 1)",
        f"lines of no known class or in pixels, not drawn: 3 ({origin} 3, {origin} 4, {origin} 5)",
        "images without an annotation, all background: 1 (valid/images/c.jpg)",
        "files not used: 1 (valid/labels/other.txt)",
    ):
        assert line in out
    assert mask_of(tmp_path, "train/images/a") == expected((BOX_AREA, 2))
    assert mask_of(tmp_path, "valid/images/b") == expected((TRIANGLE_AREA, 1))


YAMLS = {
    "cvat": "path: ./\ntrain: train.txt\nval: val.txt\nnames:\n  0: cat\n  1: dog\n",
    "ultralytics": "path: ../datasets/pets\ntrain: images/train\nval: [images/val]\n"
    "names: {0: cat, 1: dog}\n",
    "absolute": "train: /home/me/images/train\nval: C:\\x\\images\\val\nnames: [cat, dog]\n",
    "names alone": "names: [cat, dog]\n",
}


@pytest.mark.parametrize("kind", YAMLS)
def test_yolo_with_other_descriptions(tmp_path: Path, kind: str):
    for file in ("train/a", "val/b"):
        write(tmp_path, **{f"images/{file}.jpg": None, f"labels/{file}.txt": yolo(1, BOX)})
    lists = {"train.txt": "images/train/a.jpg\n", "val.txt": "images/val/b.jpg\n"}
    write(tmp_path, **{"data.yaml": YAMLS[kind]}, **lists)
    assert "yolo: train 1, val 1 images" in converted(tmp_path)
    assert files_of(tmp_path, "val") == ["images/val/b.jpg"]
    assert mask_of(tmp_path, "images/val/b") == expected((BOX_AREA, 2))


CLASS_MASKS = {
    "images/{image}.jpg": "masks/{name}/{image}.png",
    "photos/{image}.jpg": "photos/{image}_{name}.png",
    "img/{image}.png": "gt/{name}/{image}_{name}.png",
}


@pytest.mark.parametrize("image", CLASS_MASKS)
def test_a_mask_per_class(tmp_path: Path, image: str):
    for stem in ("a", "a_1", "b"):
        write(tmp_path, **images(image.format(image=stem)))
        for name, area, white in (("cat", BOX_AREA, 255), ("dog", TRIANGLE_AREA, 1)):
            if (stem, name) != ("b", "cat"):
                mask = CLASS_MASKS[image].format(image=stem, name=name)
                write(tmp_path, **{mask: expected((area, white))})
    out = converted(tmp_path)
    assert "masks: train 2, val 1 images, 3 classes (background, cat, dog)" in out
    folder = image.rpartition("{image}")[0]
    both = expected((BOX_AREA, 1), (TRIANGLE_AREA, 2))
    assert mask_of(tmp_path, f"{folder}a") == mask_of(tmp_path, f"{folder}a_1") == both
    assert mask_of(tmp_path, f"{folder}b") == expected((TRIANGLE_AREA, 2))


def changed_coco(change=lambda content: None) -> dict:
    content = coco(["a.jpg", "b.jpg"], {"segmentation": [BOX]})
    change(content)
    return {"a.jpg": None, "b.jpg": None, "x.json": content}


def changed_annotation(**values: object) -> dict:
    return changed_coco(lambda content: content["annotations"][0].update(values))


BOTH = expected((BOX_AREA, 2), (TRIANGLE_AREA, 1))
MANY = [{"id": 1000 + index, "name": f"c{index}"} for index in range(300)]
TWO_FILES = {"y.json": coco(["a.jpg"]), **changed_coco()}
TWO_FORMATS = changed_coco() | {"a.json": labelme("a.jpg", ("cat", "polygon", BOX))}
ONE_FOLDER = {"images/a.jpg": None, "labels/a.txt": "0 0 0 1 0 1 1",
              "data.yaml": "train: images\nval: images\nnames: [cat]"}  # fmt: skip
NONE = "found no annotations (--format any)"
LABEL_STUDIO = "masks/task-3-annotation-9-by-1-tag-Dog-0.png"
ERRORS = {
    "json": ({"x.json": '{"images": ['}, "x.json: cannot be read (Expecting"),
    "type": (changed_annotation(category_id=[]), "annotations.0.category_id: Input should be"),
    "panoptic": (changed_annotation(segments_info=[]), "panoptic annotations, whose PNGs"),
    "ids": (changed_coco(lambda c: c["images"][1].update(id=10)), "have the same id"),
    "boxes": (changed_annotation(segmentation=[]), "no annotation could be drawn. annotations no"),
    "gone": (changed_coco(lambda c: c["images"].pop(0)), "of no known image or class, not drawn"),
    "size": (changed_coco(lambda c: c["images"][0].update(width=9)), "a.jpg: for 6x9 (height x w"),
    "many": (changed_coco(lambda c: c["categories"].extend(MANY)), "302 classes"),
    "two files": (TWO_FILES, "a.jpg ( in x.json) and a.jpg ( in y.json)"),
    "formats": (TWO_FORMATS, "add --format coco (x.json) or --format labelme (a.json)"),
    "same names": (images("1/a.jpg", "2/a.jpg") | {"x.json": coco(["a.jpg"])}, "1/a.jpg or to 2/"),
    "splits": (ONE_FOLDER, "images/a.jpg (train in labels/a.txt) and images/a.jpg (val in"),
    "values": ({"images/a.jpg": None, "masks/cat/a.png": BOTH}, "masks/cat/a.png: holds 3 diff"),
    "all classes": ({"images/a.jpg": None, "masks/train/a.png": BOTH}, NONE),
    "folders": ({"train/a.png": None, "train_labels/a.png": BOTH}, NONE),
    "label studio": ({"a.jpg": None, LABEL_STUDIO: BOTH}, "export COCO from Label Studio"),
    "written": ({"perpixel-masks/a": ""}, "perpixel-masks: exists already; move it away"),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_say_which_file_and_leave_nothing(tmp_path: Path, kind: str):
    files, message = ERRORS[kind]
    write(tmp_path, **files)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(PerpixelError, match=re.escape(message)):
        convert(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_turned_image_is_refused_for_its_orientation(tmp_path: Path):
    write(tmp_path, **changed_coco())
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(tmp_path / "a.jpg").save(tmp_path / "a.jpg", exif=exif)
    with pytest.raises(PerpixelError, match=r"a.jpg: for 6x8 .* the image is 8x6: does its EXIF"):
        convert(tmp_path)


def test_the_command_takes_a_format(tmp_path: Path, monkeypatch, capsys):
    write(tmp_path, **TWO_FORMATS)
    monkeypatch.setattr(sys, "argv", f"perpixel data convert {tmp_path} --format labelme".split())
    with contextlib.suppress(SystemExit):
        main.main()
    assert capsys.readouterr().out.startswith("labelme: train 1, val 1 images, 2 classes")


VALID = {
    "coco/x.json": coco(["a.jpg"], {"segmentation": [BOX]}),
    "labelme/a.json": labelme("a.jpg", ("cat", "polygon", BOX), ("dog", "circle", [4, 3, 4, 5])),
    "yolo/data.yaml": {"train": "images", "val": ["images"], "names": {"0": "cat", "1": "dog"}},
}
ODD = [
    None, True, -1, 2.5, 1e308, float("nan"), float("inf"), 10**400, "", "..", "/", "a.jpg", "\0",
    "\ud800", [], {}, [[]], [None], {"size": [-1, 2**40], "counts": "0"}, 2**63, "é", "images",
    {"size": [6, 8], "counts": [2**70]}, [[1, 2, 3, 4, 1e300, -1e300]],
]  # fmt: skip


def places(value: object, path: tuple = ()) -> list[tuple]:
    """The keys that lead to every value in a JSON document."""
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    return [path, *(p for key, child in items for p in places(child, (*path, key)))]


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(sorted(VALID)))
def test_mutated_files_are_converted_or_refused(tmp_path: Path, data, name: str):
    content = copy.deepcopy(VALID[name])
    for _ in range(data.draw(st.integers(1, 3))):
        *keys, last = data.draw(st.sampled_from(places(content)[1:] or [("x",)]))
        parent = content
        for key in keys:
            parent = parent[key]
        parent[last] = copy.deepcopy(data.draw(st.sampled_from(ODD)))
    root = (tmp_path / name).parent
    label = yolo(1, BOX) if name.startswith("yolo") else ""
    write(tmp_path, **{name: content})
    write(root, **{"images/a.jpg": None, "labels/a.txt": label})
    before, message = sorted(tmp_path.rglob("*")), ""
    try:
        convert(root)
    except PerpixelError as error:
        message = str(error)
    if message:
        assert str(root) in message
        assert sorted(tmp_path.rglob("*")) == before
    else:
        assert all(open_folder(root, s).label(0).shape == SIZE for s in splits_of_folder(root))
    shutil.rmtree(root)
