"""Exported files as models: the same masks as the checkpoint's, and what they cannot do refused."""

import json
import sys

import numpy as np
import pytest
import torch

import perpixel
from perpixel.checkpoints.format import Checkpoint, write_checkpoint
from perpixel.data.datasets.camvid import CLASSES
from perpixel.data.datasets.synthetic import SyntheticStreets
from perpixel.errors import CorruptFileError, OutOfMemoryError, PerpixelError, UsageError
from perpixel.exporting.export import export
from perpixel.inference.exported import ExportedPredictor
from perpixel.io.images import read_mask, write_image
from perpixel.models.normalize import normalize

onnx = pytest.importorskip("onnx", reason="the extra [export] is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra [export] is not installed")

SIZE = (64, 96)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A checkpoint, random weights that tell classes apart, and its files: of any size, of one."""
    torch.manual_seed(0)
    recipe = perpixel.override(
        perpixel.recipe("camvid/semantic_fpn_r18"),
        ["model.backbone.base_channels=8", "model.backbone.zero_init_residual=false",
         "model.head.fpn_channels=16", "model.head.channels=16"],
    )  # fmt: skip
    model = perpixel.build(recipe, num_classes=11).train()
    scenes = SyntheticStreets("train", count=4, size=SIZE)
    images = torch.from_numpy(np.stack([scenes.image(index) for index in range(4)]))
    with torch.no_grad():
        torch.nn.init.normal_(model.head.classifier.weight)
        for _ in range(20):
            model(normalize(images, recipe.input))
    checkpoint = Checkpoint(recipe, CLASSES.names, CLASSES.palette, model.state_dict())
    folder = tmp_path_factory.mktemp("files")
    write_checkpoint(folder / "model.safetensors", checkpoint)
    for name, dynamic in (("any", True), ("one", False)):
        export(checkpoint, folder / f"{name}.onnx", size=SIZE, seconds=0, dynamic=dynamic)
    return folder


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """Images of several sizes: three of SIZE, two of 75x101."""
    folder = tmp_path_factory.mktemp("street")
    for count, size in ((3, SIZE), (2, (75, 101))):
        scenes = SyntheticStreets("val", count=count, size=size)
        for index in range(count):
            write_image(folder / f"{size[0]}-{index}.png", scenes.image(index))
    return folder


def agreement(masks, others):
    return min((mask == other).mean() for mask, other in zip(masks, others, strict=True))


def test_predict_gives_the_checkpoints_masks(command, files, street, tmp_path):
    for model, out in ((files / "model.safetensors", "a"), (files / "any.onnx", "b")):
        words = ["--batch", 2, "--overlay"]
        code, printed, _ = command("predict", model, street, "--out", tmp_path / out, *words)
        assert (code, "5 of 5 images" in printed) == (0, True)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == names
    masks = [name for name in names if "overlay" not in name]
    expected = [read_mask(tmp_path / "a" / name) for name in masks]
    assert min(len(np.unique(mask)) for mask in expected) > 1
    assert agreement([read_mask(tmp_path / "b" / name) for name in masks], expected) > 0.999


def test_python_gives_results_as_of_a_checkpoint(files, street):
    model, exported = (perpixel.load(files / name) for name in ("model.safetensors", "any.onnx"))
    paths = sorted(street.iterdir())[::-1]  # sizes are mixed
    paths[1:4] = paths[3:0:-1]
    results = exported.predict_batch(paths)
    expected = model.predict_batch(paths)
    assert agreement([r.mask for r in results], [r.mask for r in expected]) > 0.999
    assert results[0].class_names == expected[0].class_names
    assert results[0].palette == expected[0].palette
    assert results[0].overlay().shape == results[0].image.shape
    assert exported.name == model.name


def test_a_file_of_one_size_refuses_other_images_and_goes_on(command, files, street, tmp_path):
    out = tmp_path / "out"
    code, printed, err = command("predict", files / "one.onnx", street, "--out", out, "--batch", 2)
    said = " ".join(err.split())
    assert (code, "3 of 5 images" in printed) == (1, True)
    assert "75-0.png: an image of 75x101, and the exported file takes 64x96" in said
    assert "export it with --dynamic, or with --size 75x101" in said
    assert sorted(path.name for path in out.iterdir()) == [f"64-{index}.png" for index in range(3)]
    same = perpixel.load(files / "model.safetensors").predict(street / "64-1.png").mask
    assert (read_mask(out / "64-1.png") == same).mean() > 0.999


def test_images_that_the_trace_does_not_cover_are_refused(files):
    with pytest.raises(PerpixelError, match=r"an image of 32x200, and .* 33 pixels or more"):
        perpixel.load(files / "any.onnx").predict(np.zeros((32, 200, 3), np.uint8))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--flip"], "cannot change inference.flip=true"),
        (["--scales", "1,2"], "cannot change inference.scales=[1.0, 2.0]"),
        (["--mode", "slide"], "cannot change inference.mode=slide"),
        (["--compile"], "compiled by no torch.compile"),
        (["--precision", "bfloat16"], "precision 'bfloat16'"),
        (["--device", "cuda"], "device 'cuda': exported files run on the CPU"),
        (["--probabilities"], "For --probabilities, name the run or checkpoint"),
        (["--geo"], "--geo reads windows"),
    ],
)
def test_what_a_file_cannot_do_is_refused_by_name(command, files, street, tmp_path, words, message):
    out = tmp_path / "out"
    code, _, err = command("predict", files / "any.onnx", street, "--out", out, *words)
    assert (code, message in " ".join(err.split()), out.exists()) == (2, True, False)


@pytest.mark.parametrize("words", [["eval"], ["profile", "--size", "64x96"], ["export"]])
def test_other_commands_name_the_checkpoint(command, files, tmp_path, words):
    words = [*words, files / "any.onnx"]
    words += [tmp_path / "out.onnx"] if words[0] == "export" else []
    code, _, err = command(*words)
    assert code == 2
    assert "an exported file" in " ".join(err.split())


def test_python_refuses_logits_and_evaluation(files):
    exported = perpixel.load(files / "any.onnx")
    for refused in (exported.logits, exported.probabilities):
        with pytest.raises(UsageError, match=r"For (logits|probabilities), name the run"):
            refused("image.png")
    with pytest.raises(UsageError, match="For an evaluation, name the run"):
        perpixel.evaluate(files / "any.onnx")


def test_other_files_are_told_apart(files, tmp_path):
    model = onnx.load(files / "any.onnx")
    logits = onnx.ModelProto.FromString(model.SerializeToString())
    logits.graph.input[0].name = "pixel_values"  # as with --logits
    for node in logits.graph.node:
        node.input[:] = ["pixel_values" if name == "images" else name for name in node.input]
    onnx.save(logits, tmp_path / "logits.onnx")
    with pytest.raises(UsageError, match="with --logits, it gives no masks"):
        perpixel.load(tmp_path / "logits.onnx")
    for name, content in (
        ("short.onnx", (files / "any.onnx").read_bytes()[:-1000]),
        ("text.onnx", b"no model"),
        ("empty.onnx", b""),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CorruptFileError, match=rf"{name}: not an ONNX file"):
            perpixel.load(tmp_path / name)
    for change in ("no palette", "other names", "no names"):
        (tmp_path / "other.onnx").unlink(missing_ok=True)
        other = onnx.ModelProto.FromString(model.SerializeToString())
        kept = {entry.key: entry.value for entry in other.metadata_props}
        if change == "no palette":
            del kept["palette"]
        elif change == "other names":
            kept["class_names"] = json.dumps(3)
        else:
            kept["class_names"] = "road, car"
        onnx.helper.set_model_props(other, kept)
        onnx.save(other, tmp_path / "other.onnx")
        with pytest.raises(UsageError, match=r"other\.onnx: not a file of `perpixel export`"):
            perpixel.load(tmp_path / "other.onnx")


def test_bands_of_the_file_are_read(files, tmp_path):
    """Those of the recipe are in the metadata, and images on disk are read in them."""
    model = onnx.load(files / "any.onnx")
    kept = {entry.key: entry.value for entry in model.metadata_props}
    kept["input"] = json.dumps({**json.loads(kept["input"]), "bands": [3, 2, 1]})
    onnx.helper.set_model_props(model, kept)
    onnx.save(model, tmp_path / "bgr.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    write_image(tmp_path / "image.png", pixels)
    result = perpixel.load(tmp_path / "bgr.onnx").predict(tmp_path / "image.png")
    assert (result.image == pixels[..., ::-1]).all()


def test_too_little_memory_is_an_error_of_that_image(files, monkeypatch):
    exported = perpixel.load(files / "any.onnx")

    class Full:
        def run(self, names, inputs):
            raise RuntimeError("Failed to allocate memory for requested buffer of size 4294967296")

    monkeypatch.setattr(exported, "_session", Full())
    with pytest.raises(OutOfMemoryError, match="1 image of 48x64 pixels at once"):
        exported.predict(np.zeros((48, 64, 3), np.uint8))


def test_a_missing_extra_is_named(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(PerpixelError, match=r"perpixel\[export\]"):
        ExportedPredictor(files / "any.onnx")
