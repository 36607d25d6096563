"""`perpixel data convert` on small exports of each format: pixels, description, remarks."""

import base64
import copy
import json
import sys
import tomllib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from perpixel.cli import main
from perpixel.data.convert import convert
from perpixel.data.datasets.folder import open_folder
from perpixel.data.regions import Polygons, Rle, UndrawableError
from perpixel.errors import PerpixelError
from perpixel.io.images import read_image, read_mask, write_image

SIZE = 6, 8
BOX = [2, 1, 6, 1, 6, 4, 2, 4]  # x, y, x, y, ...: columns 2 to 5, rows 1 to 3
TRIANGLE = [0, 0, 3.2, 0, 0, 3.2]


@pytest.fixture
def perpixel(monkeypatch, capsys):
    """Runs a command line; returns its exit code, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["perpixel", *map(str, words)])
        code = 0
        try:
            main.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def converted(perpixel):
    """Converts a folder and checks the result; returns what was printed."""

    def run(root: Path, *options: str) -> str:
        code, out, err = perpixel("data", "convert", root, *options)
        assert (code, err) == (0, "")
        code, check, err = perpixel("data", "check", "folder", root)
        assert code == 0, check + err
        return out

    return run


def write_images(root: Path, *names: str) -> None:
    for name in names:
        noise = np.random.default_rng(len(name) + sum(name.encode())).integers(0, 255, (*SIZE, 3))
        write_image(root / name, noise.astype(np.uint8))


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def mask_of(root: Path, stem: str) -> np.ndarray:
    return read_mask(root / f"perpixel-masks/{stem}.png")


def expected(*areas: tuple, rest: int = 0) -> np.ndarray:
    mask = np.full(SIZE, rest, np.uint8)
    for area, value in areas:
        mask[area] = value
    return mask


def names_in(root: Path) -> list[str]:
    return [item["name"] for item in tomllib.loads((root / "dataset.toml").read_text())["classes"]]


def files_of(root: Path, split: str) -> list[str]:
    return [image for image, _ in open_folder(root, split).files]


BOX_AREA = np.s_[1:4, 2:6]
TRIANGLE_AREA = ([0, 0, 0, 1, 1, 2], [0, 1, 2, 0, 1, 0])


# --- Drawing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "counts"),
    [  # of cocodataset/cocoapi's rleToString
        ("061", [0, 6, 1]),
        ("061M", [0, 6, 1, 3]),
        ("0PP1", [0, 1024]),
        ("011101010", [0, 1, 1, 2, 1, 3, 1, 4, 1]),
    ],
)
def test_compressed_rle_is_that_of_coco(text: str, counts: list[int]):
    size = 1, sum(counts)
    expected = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    for form in (text, counts):
        patch = Rle(size, form).draw(size)
        mask = np.zeros(size, np.bool_)
        mask[:, patch.left : patch.left + patch.mask.shape[1]] = patch.mask
        assert (mask[0] == expected).all()


@pytest.mark.parametrize("counts", ["06", "06P", "0é", "", [5, -1, 3], [], [6, 2]])
def test_rle_that_does_not_fill_the_image_is_refused(counts):
    with pytest.raises(UndrawableError):
        Rle((1, 7), counts).draw((1, 7))


def is_inside(x: float, y: float, corners: list[tuple[float, float]]) -> bool:
    crossings = 0
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        if (y0 <= y) != (y1 <= y) and x < x0 + (y - y0) / (y1 - y0) * (x1 - x0):
            crossings += 1
    return crossings % 2 == 1


def distance(x: float, y: float, corners: list[tuple[float, float]]) -> float:
    """Of a point to the nearest edge."""
    point, edges = np.array((x, y)), []
    for a, b in zip(corners, corners[1:] + corners[:1], strict=True):
        start, step = np.array(a), np.array(b) - np.array(a)
        along = np.clip((point - start) @ step / max(step @ step, 1e-9), 0, 1)
        edges.append(float(np.linalg.norm(point - start - along * step)))
    return min(edges)


@given(st.lists(st.tuples(st.floats(-3, 11), st.floats(-3, 9)), min_size=3, max_size=7))
def test_a_polygon_holds_the_pixels_whose_centers_are_inside(corners):
    patch = Polygons((np.array(corners),)).draw(SIZE)
    mask = np.zeros(SIZE, np.bool_)
    height, width = patch.mask.shape
    mask[patch.top : patch.top + height, patch.left : patch.left + width] = patch.mask
    for row, column in np.ndindex(SIZE):
        center = column + 0.5, row + 0.5
        if distance(*center, corners) > 1e-6:
            assert mask[row, column] == is_inside(*center, corners)


# --- COCO ----------------------------------------------------------------------------------------


def coco(images: list[str], *annotations: dict, names: tuple[str, ...] = ("cat", "dog")) -> dict:
    """COCO's JSON; ids are not in the order of the categories, as in COCO itself."""
    return {
        "images": [
            {"id": 10 + index, "file_name": name, "height": SIZE[0], "width": SIZE[1]}
            for index, name in enumerate(images)
        ],
        "categories": [{"id": 7 * index + 3, "name": name} for index, name in enumerate(names)],
        "annotations": [
            {"id": 100 + index, "image_id": 10, "category_id": 3, "iscrowd": 0} | annotation
            for index, annotation in enumerate(annotations)
        ],
    }


def test_coco(tmp_path: Path, converted):
    write_images(tmp_path, "train2017/a.jpg", "train2017/b.jpg", "val2017/c.jpg")
    # Columns: 2 outside, 4 inside, then the rest.
    rle = {"size": list(SIZE), "counts": [2, 4, 42]}
    write_json(
        tmp_path / "annotations/instances_train2017.json",
        coco(
            ["a.jpg", "b.jpg"],
            {"segmentation": [BOX, TRIANGLE]},
            {"segmentation": rle, "category_id": 10, "image_id": 11, "iscrowd": 1},
        ),
    )
    compressed = {"size": list(SIZE), "counts": "24Z1"}  # the same runs
    write_json(
        tmp_path / "annotations/instances_val2017.json",
        coco(["c.jpg"], {"segmentation": compressed}, {"segmentation": BOX, "category_id": 10}),
    )
    third = {"id": 1, "name": "cat "}
    path = tmp_path / "annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    write_json(path, content | {"categories": [*content["categories"], third]})
    captions = {"images": [], "annotations": [{"caption": "a cat"}]}
    write_json(tmp_path / "annotations/captions_val2017.json", captions)
    out = converted(tmp_path)
    assert "3 images with annotations as COCO: train 2, val 1" in out
    assert "names that several classes have: one class: 1 (cat)" in out
    assert "crowds (iscrowd), drawn as their class: 1" in out
    assert "JSON files without coco annotations, not used: 1 (annotations/captions_val2" in out
    assert names_in(tmp_path) == ["background", "cat", "dog"]
    assert files_of(tmp_path, "train") == ["train2017/a.jpg", "train2017/b.jpg"]
    assert files_of(tmp_path, "val") == ["val2017/c.jpg"]
    both = expected((BOX_AREA, 1), (TRIANGLE_AREA, 1))
    assert (mask_of(tmp_path, "train2017/a") == both).all()
    assert (mask_of(tmp_path, "train2017/b") == expected((np.s_[2:6, 0], 2))).all()
    assert (mask_of(tmp_path, "val2017/c") == expected((BOX_AREA, 2), (np.s_[2:6, 0], 1))).all()


def test_coco_as_roboflow_and_cvat_export_it(tmp_path: Path, converted):
    """A category that nothing shows, images without annotations, and one file for all images."""
    roboflow, cvat = tmp_path / "roboflow", tmp_path / "cvat"
    for split in ("train", "valid"):
        write_images(roboflow, f"{split}/a_{split}.jpg", f"{split}/empty_{split}.jpg")
        content = coco([f"a_{split}.jpg", f"empty_{split}.jpg"], {"segmentation": [BOX]})
        content["categories"].insert(0, {"id": 0, "name": "pets", "supercategory": "none"})
        write_json(roboflow / split / "_annotations.coco.json", content)
    out = converted(roboflow)
    assert "train 2, val 2" in out
    assert "classes without a pixel in any mask: 2 (pets, dog)" in out
    assert "images without an annotation: all background: 2" in out
    assert (mask_of(roboflow, "valid/empty_valid") == 0).all()

    images = [f"images/{index}.png" for index in range(10)]
    write_images(cvat, *images)
    every = [{"segmentation": [BOX], "image_id": 10 + index} for index in range(10)]
    names = [f"{index}.png" for index in range(10)]
    write_json(cvat / "annotations/instances_default.json", coco(names, *every))
    out = converted(cvat, "--unlabeled", "ignore")
    assert "every fifth image is for validation" in out
    assert files_of(cvat, "val") == ["images/4.png", "images/9.png"]
    assert names_in(cvat) == ["cat", "dog"]
    assert (mask_of(cvat, "images/4") == expected((BOX_AREA, 1), rest=255)).all()
    assert set(np.unique(open_folder(cvat, "val").label(0))) == {0, 255}


def test_what_coco_cannot_say_is_named(tmp_path: Path, converted):
    write_images(tmp_path, "a.jpg")
    content = coco(
        ["a.jpg", "gone.jpg"],
        {"segmentation": [BOX]},
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
    write_json(tmp_path / "labels.json", content)
    out = converted(tmp_path)
    for line in (
        "images that annotations name and that are not there, left out: 1 (gone.jpg in",
        "outlines of fewer than 3 points, not drawn: 1 (labels.json: annotation 101)",
        "outlines with NaN or infinite coordinates, not drawn: 1 (labels.json: annotation 102)",
        "outlines with an odd number of coordinates, not drawn: 1 (labels.json: annotation 103)",
        "annotations without a segmentation (a box alone?), not drawn: 1 (labels.json: ann",
        "annotations with a category_id that no category has, not drawn: 1",
        "annotations with an image_id that no image has, not drawn: 1",
        "annotations that reach beyond the image, cut at its edge: 1 (labels.json: annotation 107)",
        "annotations that cover no pixel: 1 (labels.json: annotation 108)",
        "annotations whose RLE does not fill its size, not drawn: 1 (labels.json: annotation 109)",
    ):
        assert line in out
    assert (mask_of(tmp_path, "a") == expected((BOX_AREA, 1), (np.s_[0:3, 0:2], 2))).all()


def test_the_smaller_one_is_on_top_and_the_overlap_is_said(tmp_path: Path, converted):
    write_images(tmp_path, "a.jpg")
    table = [0, 0, 8, 0, 8, 6, 0, 6]
    write_json(
        tmp_path / "x.json",
        coco(["a.jpg"], {"segmentation": [BOX]}, {"segmentation": [table], "category_id": 10}),
    )
    out = converted(tmp_path)
    assert (mask_of(tmp_path, "a") == expected((BOX_AREA, 1), rest=2)).all()
    assert "25.00% of the pixels have annotations of several classes: the smaller one" in out


def turned(path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(path) as image:
        image.load()
        image.save(path, exif=exif)


def test_other_sizes_are_refused_with_both(tmp_path: Path, perpixel):
    write_images(tmp_path, "a.jpg", "b.jpg")
    write_json(tmp_path / "x.json", coco(["a.jpg", "b.jpg"], {"segmentation": [BOX]}))
    turned(tmp_path / "a.jpg", 6)
    code, _, err = perpixel("data", "convert", tmp_path)
    assert code == 1
    assert "a.jpg is 8x6, x.json says 6x8 (its EXIF orientation, 6, turns it" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "b.jpg", "x.json"]
    turned(tmp_path / "a.jpg", 3)
    assert perpixel("data", "convert", tmp_path)[:2] == (0, perpixel_lines(tmp_path))


def perpixel_lines(root: Path) -> str:
    return (
        "2 images with annotations as COCO: train 1, val 1\n"
        "every fifth image is for validation, as no name says which are; frames of one video look "
        "alike: divide those by video instead\n"
        "images turned by their EXIF orientation when read; do the annotations fit that?: 1 "
        "(a.jpg: 3)\n"
        "classes without a pixel in any mask: 1 (dog)\n"
        "images without an annotation: all background: 1 (b.jpg)\n"
        f"written: {root}/dataset.toml, {root}/perpixel-masks\n"
    )


# --- LabelMe -------------------------------------------------------------------------------------


def labelme(image: str, *shapes: tuple, data: bytes | None = None) -> dict:
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": [
            {"label": label, "points": np.reshape(points, (-1, 2)).tolist(), "shape_type": kind,
             "group_id": None, "flags": {}} | extra
            for label, kind, points, *rest in shapes for extra in (rest or [{}])
        ],
        "imagePath": image,
        "imageData": None if data is None else base64.b64encode(data).decode(),
        "imageHeight": SIZE[0],
        "imageWidth": SIZE[1],
    }  # fmt: skip


def png(image: np.ndarray) -> bytes:
    content = BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()


def test_labelme(tmp_path: Path, converted):
    write_images(tmp_path, "train/a.jpg", "train/b.jpg", "val/c.jpg", "val/unlabeled.jpg")
    write_json(
        tmp_path / "train/a.json",
        labelme("a.jpg", ("cat", "polygon", BOX), ("dog", "rectangle", [6, 3, 4, 0])),
    )
    write_json(
        tmp_path / "train/b.json",
        labelme(
            "..\\train\\b.jpg",
            ("dog", "circle", [4, 3, 4, 5]),
            ("cat", "line", [0, 0, 8, 6]),
            ("cat", "point", [1, 1]),
        ),
    )
    bits = np.array([[255, 0, 255], [0, 255, 255]], np.uint8)
    mask = {"mask": base64.b64encode(png(bits)).decode()}
    write_json(
        tmp_path / "val/c.json",
        labelme("c.jpg", ("cat", "mask", [1, 2, 3, 3], mask), ("dog", "rotation", BOX)),
    )
    noise = np.random.default_rng(1).integers(0, 255, (*SIZE, 3)).astype(np.uint8)
    write_json(tmp_path / "val/d.json", labelme("d.png", data=png(noise)))
    out = converted(tmp_path)
    assert "4 images with annotations as LabelMe: train 2, val 2" in out
    assert "the type 'line' with 2 points, which have no known area, not drawn: 1 (train/b" in out
    assert "the type 'point' with 1 points" in out
    assert "images without a LabelMe file, left out: 1 (val/unlabeled.jpg)" in out
    assert "written to perpixel-images/: 1 (perpixel-images/val/d.png)" in out
    assert "the later one covers the earlier one" in out
    assert (read_image(tmp_path / "perpixel-images/val/d.png") == noise).all()
    a = mask_of(tmp_path, "train/a")
    assert (a == expected((BOX_AREA, 1), (np.s_[0:3, 4:6], 2))).all()
    rows, columns = np.indices(SIZE) + 0.5
    circle = (rows - 3) ** 2 + (columns - 4) ** 2 < 2**2
    assert (mask_of(tmp_path, "train/b") == expected((circle, 2))).all()
    bitmap = ([2, 2, 3, 3], [1, 3, 2, 3])
    assert (mask_of(tmp_path, "val/c") == expected((bitmap, 1), (BOX_AREA, 2))).all()


def test_labelme_with_its_list_of_labels(tmp_path: Path, converted):
    write_images(tmp_path, "a.jpg")
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\ndog\nbird\n")
    shapes = ("cat", "polygon", BOX), ("__ignore__", "polygon", TRIANGLE), ("Dog", "line", [1, 2])
    write_json(tmp_path / "a.json", labelme("old.jpg", *shapes))
    out = converted(tmp_path)
    assert "labels that labels.txt does not list, as classes after its own: 2 (Dog, cat)" in out
    assert "upper and lower case alone, as classes of their own: 1 (dog/Dog)" in out
    assert "images found by the name of the LabelMe file" in out
    assert names_in(tmp_path) == ["background", "dog", "bird", "Dog", "cat"]
    assert (mask_of(tmp_path, "a") == expected((BOX_AREA, 4), (TRIANGLE_AREA, 255))).all()


# --- YOLO ----------------------------------------------------------------------------------------


def yolo(class_number: int, points: list[float]) -> str:
    fractions = np.reshape(points, (-1, 2)) / SIZE[::-1]
    return " ".join([str(class_number), *map(repr, fractions.ravel().tolist())]) + "\n"


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_yolo_as_roboflow_exports_it(tmp_path: Path, converted):
    write_images(tmp_path, "train/images/a.jpg", "valid/images/b.jpg", "valid/images/c.jpg")
    write_text(
        tmp_path / "data.yaml",
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\n"
        "nc: 2\nnames: [yes, no]\n",
    )
    write_text(tmp_path / "train/labels/a.txt", yolo(1, BOX))
    lines = ["0 0.5 0.5 0.2 0.2\n", yolo(0, TRIANGLE), "5 0 0 1 0 1 1\n", "0 10 10 90 10 90 90\n"]
    write_text(tmp_path / "valid/labels/b.txt", "".join([*lines, "a b c\n", "0 0.1 0.1\n"]))
    write_text(tmp_path / "valid/labels/other.txt", yolo(1, BOX))
    out = converted(tmp_path)
    assert "3 images with annotations as YOLO: train 1, val 2" in out
    for line in (
        "boxes (four numbers), which are no outlines, not drawn: 1 (valid/labels/b.txt: line 1)",
        "lines with a class that has no name, not drawn: 1 (valid/labels/b.txt: line 3: 5)",
        "outlines in pixels in place of fractions, not drawn: 1 (valid/labels/b.txt: line 4)",
        "lines that hold something else than numbers, not drawn: 1 (valid/labels/b.txt: line 5)",
        "outlines of fewer than 3 points, not drawn: 1 (valid/labels/b.txt: line 6)",
        "images without a label file, all background as in YOLO: 1 (valid/images/c.jpg)",
        "label files without an image, left out: 1 (valid/labels/other.txt)",
        "splits that data.yaml names and that are not there, left out: 1 (test = ../test/images)",
    ):
        assert line in out
    assert names_in(tmp_path) == ["background", "yes", "no"]
    assert (mask_of(tmp_path, "train/images/a") == expected((BOX_AREA, 2))).all()
    assert (mask_of(tmp_path, "valid/images/b") == expected((TRIANGLE_AREA, 1))).all()
    assert (mask_of(tmp_path, "valid/images/c") == 0).all()


YAMLS = {
    "cvat": "path: ./\ntrain: train.txt\nval: val.txt\nnames:\n  0: cat\n  1: dog\n",
    "ultralytics": "path: ../datasets/pets\ntrain: images/train\nval: [images/val]\n"
    "names: {0: cat, 1: dog}\n",
    "absolute": "train: /home/me/images/train\nval: C:\\x\\images\\val\nnames: [cat, dog]\n",
    "names alone": "names: [cat, dog]\n",
    "none": "",
}


@pytest.mark.parametrize("kind", YAMLS)
def test_yolo_with_other_descriptions(tmp_path: Path, converted, kind: str):
    for split, name in (("train", "a"), ("val", "b")):
        write_images(tmp_path, f"images/{split}/{name}.jpg")
        write_text(tmp_path / f"labels/{split}/{name}.txt", yolo(1, BOX))
        write_text(tmp_path / f"{split}.txt", f"images/{split}/{name}.jpg\n")
    if kind == "none":
        write_text(tmp_path / "classes.txt", "cat\ndog\n")  # as Label Studio exports it
    else:
        write_text(tmp_path / "data.yaml", YAMLS[kind])
    converted(tmp_path)
    assert files_of(tmp_path, "train") == ["images/train/a.jpg"]
    assert files_of(tmp_path, "val") == ["images/val/b.jpg"]
    assert names_in(tmp_path) == ["background", "cat", "dog"]
    assert (mask_of(tmp_path, "images/val/b") == expected((BOX_AREA, 2))).all()


# --- A mask per class ----------------------------------------------------------------------------

CLASS_MASKS = {
    "images/{image}.jpg": "masks/{name}/{image}.png",
    "{image}.jpg": "{image}/{name}.png",
    "photos/{image}.jpg": "photos/{image}_{name}.png",
    "img/{image}.png": "gt/{name}/{image}_{name}.png",
    "train/images/{image}.png": "train/masks/{image}/{name}.png",
}


@pytest.mark.parametrize("image", CLASS_MASKS)
def test_a_mask_per_class(tmp_path: Path, converted, image: str):
    for stem in ("a", "a_1", "b"):
        write_images(tmp_path, image.format(image=stem))
        for name, area, white in (("cat", BOX_AREA, 255), ("dog", TRIANGLE_AREA, 1)):
            if (stem, name) != ("b", "cat"):
                path = tmp_path / CLASS_MASKS[image].format(image=stem, name=name)
                write_image(path, expected((area, white)))
    out = converted(tmp_path)
    assert "3 images with annotations as a mask per class" in out
    assert names_in(tmp_path) == ["background", "cat", "dog"]
    folder = image.rpartition("{image}")[0]
    both = expected((BOX_AREA, 1), (TRIANGLE_AREA, 2))
    assert (mask_of(tmp_path, f"{folder}a") == both).all()
    assert (mask_of(tmp_path, f"{folder}a_1") == both).all()
    assert (mask_of(tmp_path, f"{folder}b") == expected((TRIANGLE_AREA, 2))).all()


def write_brush(root: Path) -> None:
    write_images(root, "images/cat.jpg")
    for name, area in (("Dog-0", BOX_AREA), ("Dog-1", np.s_[5, 7]), ("Big cat-0", TRIANGLE_AREA)):
        alpha = expected((area, 200))
        write_image(root / f"masks/task-3-annotation-9-by-1-tag-{name}.png", alpha)


@pytest.mark.parametrize(
    "task",
    [
        {"id": 3, "file_upload": "61148fa2-cat.jpg", "annotations": [{"id": 9}]},
        {"id": 3, "image": "/data/local-files/?d=pets%2Fcat.jpg", "annotation_id": 9},
    ],
    ids=["json", "json-min"],
)
def test_label_studio_brushes(tmp_path: Path, converted, task: dict):
    write_brush(tmp_path)
    write_json(tmp_path / "project-1.json", [task])
    converted(tmp_path)
    assert names_in(tmp_path) == ["background", "Big cat", "Dog"]
    areas = (BOX_AREA, 2), (np.s_[5, 7], 2), (TRIANGLE_AREA, 1)
    assert (mask_of(tmp_path, "images/cat") == expected(*areas)).all()


def test_masks_of_one_class_that_are_none(tmp_path: Path, perpixel, converted):
    """Numbered masks of one class are joined, several values refused."""
    write_images(tmp_path, "x (1).png")
    write_image(tmp_path / "x (1)_mask.png", expected((BOX_AREA, 255)))
    write_image(tmp_path / "x (1)_mask_1.png", expected((np.s_[5, 7], 255)))
    converted(tmp_path)
    assert names_in(tmp_path) == ["background", "mask"]
    assert mask_of(tmp_path, "x (1)").sum() == 13

    other = tmp_path / "other"
    write_images(other, "images/a.png")
    write_image(other / "masks/cat/a.png", expected((BOX_AREA, 2), (TRIANGLE_AREA, 1)))
    code, _, err = perpixel("data", "convert", other)
    assert code == 1
    assert "masks/cat/a.png: holds 3 different values; a mask of one class holds two" in err


# --- Errors --------------------------------------------------------------------------------------


def brush_without_json(root: Path) -> None:
    write_brush(root)


def two_annotations(root: Path) -> None:
    write_brush(root)
    write_image(root / "task-3-annotation-10-by-2-tag-Dog-0.png", expected((BOX_AREA, 255)))
    write_json(root / "x.json", [{"id": 3, "image": "cat.jpg"}])


def coco_with(change):
    def write(root: Path) -> None:
        write_images(root, "a.jpg", "b.jpg")
        content = coco(["a.jpg", "b.jpg"], {"segmentation": [BOX]})
        change(content)
        write_json(root / "x.json", content)

    return write


def two_coco_files(root: Path) -> None:
    coco_with(lambda content: None)(root)
    write_json(root / "keypoints.json", json.loads((root / "x.json").read_text()))


def two_formats(root: Path) -> None:
    coco_with(lambda content: None)(root)
    write_json(root / "a.json", labelme("a.jpg", ("cat", "polygon", BOX)))


def same_names(root: Path) -> None:
    coco_with(lambda content: None)(root / "y")
    for name in ("a.jpg", "b.jpg"):
        (root / "y" / name).unlink()
    write_images(root, "1/a.jpg", "2/a.jpg")


def broken_json(root: Path) -> None:
    write_images(root, "a.jpg")
    (root / "x.json").write_text('{"images": [')


def only_images(root: Path) -> None:
    write_images(root, "a.jpg")
    write_json(root / "via.json", {"a.jpg123": {"filename": "a.jpg", "regions": []}})


def written_already(root: Path) -> None:
    (root / "perpixel-masks").mkdir(parents=True)


def objects(root: Path) -> None:
    write_images(root, *(f"{stem}/images/{stem}.png" for stem in "abc"))
    for index in range(9):
        write_image(root / "abc"[index % 3] / f"masks/9f{index}e.png", expected((BOX_AREA, 255)))


ERRORS = {
    "brush": (brush_without_json, "do not say which image they belong to. Export the project as"),
    "annotators": (two_annotations, "task 3 has 2 annotations (10, 9)"),
    "json": (broken_json, "x.json: not a JSON file that can be read: Expecting"),
    "type": (
        coco_with(lambda content: content["annotations"][0].update(category_id=[])),
        "x.json: annotations[0].category_id: Input should be",
    ),
    "missing": (
        coco_with(lambda content: content["images"][1].pop("file_name")),
        "x.json: images[1].file_name: Field required",
    ),
    "image ids": (
        coco_with(lambda content: content["images"][1].update(id=10)),
        "x.json: the id 10 stands for two things",
    ),
    "category ids": (
        coco_with(lambda content: content["categories"][1].update(id=3)),
        "x.json: the id 3 stands for two things",
    ),
    "no name": (
        coco_with(lambda content: content["categories"][1].update(name=" ")),
        "x.json: ' ' is no name for a class",
    ),
    "boxes": (
        coco_with(lambda content: content["annotations"][0].update(segmentation=[])),
        "no annotation could be drawn: annotations without a segmentation (a box alone?)",
    ),
    "rle size": (
        coco_with(
            lambda content: content["annotations"][0].update(
                segmentation={"size": [8, 6], "counts": [48]}
            )
        ),
        "a.jpg is 6x8, x.json: annotation 100 says 8x6",
    ),
    "many": (
        coco_with(
            lambda content: content["categories"].extend(
                {"id": 1000 + index, "name": f"c{index}"} for index in range(300)
            )
        ),
        "its annotations have 302 classes; at most 253",
    ),
    "no images": (
        coco_with(lambda content: [item.update(file_name="z.jpg") for item in content["images"]]),
        "none of the annotated images is there",
    ),
    "two files": (two_coco_files, "a.jpg: is both 'a.jpg' in keypoints.json and 'a.jpg' in x.json"),
    "two formats": (two_formats, "several formats: coco (x.json), labelme (a.json). Name one"),
    "same names": (same_names, "names the image 'a.jpg', of which there are several (1/a.jpg, 2"),
    "nothing": (only_images, "found no annotations: no COCO, LabelMe or YOLO files"),
    "written": (written_already, "perpixel-masks: exists already; move it away"),
    "objects": (objects, "every mask has its own name (9f0e, 9f1e"),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_say_which_file_and_leave_nothing(tmp_path: Path, perpixel, kind: str):
    write, message = ERRORS[kind]
    write(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    code, out, err = perpixel("data", "convert", tmp_path)
    assert (code, out) == (1, "")
    assert message in err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_format_can_be_named(tmp_path: Path, perpixel, converted):
    two_formats(tmp_path)
    assert "as LabelMe: " in converted(tmp_path, "--format", "labelme")
    assert perpixel("data", "convert", tmp_path / "x", "--format", "voc")[0] == 1
    (tmp_path / "x").mkdir()
    assert perpixel("data", "convert", tmp_path / "x", "--format", "voc")[0] == 2


VALID = {
    "coco/x.json": coco(
        ["a.jpg"],
        {"segmentation": [BOX]},
        {"segmentation": {"size": list(SIZE), "counts": "24Z1"}},
    ),
    "labelme/a.json": labelme(
        "a.jpg",
        ("cat", "polygon", BOX),
        ("dog", "circle", [4, 3, 4, 5]),
        ("dog", "mask", [1, 1, 2, 2], {"mask": base64.b64encode(png(np.eye(2) > 0)).decode()}),
    ),
    "studio/x.json": [{"id": 3, "data": {"image": "a.jpg"}}],
}
ODD = st.sampled_from(
    [None, True, -1, 2.5, 1e308, float("nan"), float("inf"), 10**400, "", "..", "/", "a.jpg", "\0",
     "\ud800", "x" * 300, [], {}, [[]], [None], {"size": [-1, 2**40], "counts": "0"}, 2**63,
     {"size": [6, 8], "counts": [2**70]}, [[1, 2, 3, 4, 1e300, -1e300]], "é" * 3]
)  # fmt: skip


def places(value: object, path: tuple = ()) -> list[tuple]:
    """The keys that lead to every value in a JSON document."""
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    return [path, *(p for key, child in items for p in places(child, (*path, key)))]


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(sorted(VALID)))
def test_mutated_json_is_converted_or_refused(tmp_path: Path, data, name: str):
    content = copy.deepcopy(VALID[name])
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(places(content)[1:] or [()]))
        if not path:
            break
        parent = content
        for key in path[:-1]:
            parent = parent[key]
        parent[path[-1]] = copy.deepcopy(data.draw(ODD))
    file = tmp_path / name
    if not file.parent.exists():
        write_images(file.parent, "a.jpg")
        if name.startswith("studio"):
            brush = file.parent / "task-3-annotation-9-by-1-tag-Dog-0.png"
            write_image(brush, expected((BOX_AREA, 255)))
    before = sorted(file.parent.rglob("*"))
    write_json(file, content)
    try:
        convert(file.parent)
    except PerpixelError as error:
        message = str(error)
    else:
        for split in ("train", "val"):
            label = open_folder(file.parent, split).label(0)
            assert label.shape == SIZE
        message = str(file)
        clean(file.parent)
    file.unlink()
    assert str(file.parent) in message
    assert sorted(file.parent.rglob("*")) == before


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["data.yaml", "labels/a.txt", "classes.txt"]), st.binary(max_size=40))
def test_any_bytes_in_yolo_files_are_converted_or_refused(
    tmp_path: Path, name: str, content: bytes
):
    files = {
        "data.yaml": b"names: [cat, dog]\ntrain: images\n",
        "labels/a.txt": yolo(1, BOX).encode(),
    }
    write_images(tmp_path, "images/a.jpg")
    (tmp_path / "labels").mkdir(exist_ok=True)
    files[name] = files.get(name, b"") + content
    if name == "classes.txt":
        del files["data.yaml"]
    for file, text in files.items():
        (tmp_path / file).write_bytes(text)
    message = str(tmp_path)
    try:
        convert(tmp_path)
        clean(tmp_path)
    except PerpixelError as error:
        message = str(error)
    for file in files:
        (tmp_path / file).unlink()
    assert str(tmp_path) in message


def clean(root: Path) -> None:
    """Takes away what a conversion writes."""
    (root / "dataset.toml").unlink(missing_ok=True)
    for folder in ("perpixel-masks", "perpixel-images"):
        for path in sorted((root / folder).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        if (root / folder).exists():
            (root / folder).rmdir()
