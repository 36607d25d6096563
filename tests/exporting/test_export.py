"""Files that are exported, run by ONNX Runtime and by PyTorch, against `predict`."""

import io
import json
import os
import runpy
import shutil
import subprocess
import sys
import zipfile
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import perpixel
from perpixel.checkpoints.format import Checkpoint, read_checkpoint, write_checkpoint
from perpixel.data.datasets.camvid import CLASSES
from perpixel.data.datasets.synthetic import SyntheticStreets
from perpixel.errors import PerpixelError, UsageError
from perpixel.exporting import graph as graphs
from perpixel.exporting.check import EXACT, HALF, Comparison, MIoU, onnx_runner
from perpixel.exporting.export import MIOU_TOLERANCE, ExportResult, _require_miou, export
from perpixel.exporting.quantize import _gather_doublings, halve_weights
from perpixel.inference.predictor import Predictor
from perpixel.io.images import read_image, read_mask, resize_image, write_image
from perpixel.models.normalize import normalize
from perpixel.recipes.schema import Inference, Recipe

onnx = pytest.importorskip("onnx", reason="the extra [export] is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra [export] is not installed")

EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx_predict.py"
LIVELY = "model.backbone.zero_init_residual=false"  # random weights of every branch count
FPN = perpixel.override(
    perpixel.recipe("camvid/semantic_fpn_r18"),
    [
        "model.backbone.base_channels=8",
        LIVELY,
        "model.head.fpn_channels=32",
        "model.head.channels=32",
    ],
)
FCN = perpixel.override(perpixel.recipe("camvid/fcn_r18-d8"), LIVELY)
SMALL = ["model.head.channels=16", "model.aux_head=null"]


def checkpoint_of(recipe: Recipe) -> Checkpoint:
    """Random weights, and batch-norm statistics of real enough images, so that classes vary."""
    torch.manual_seed(0)
    model = perpixel.build(recipe, num_classes=11).train()
    scenes = SyntheticStreets("train", count=4, size=(96, 128))
    images = torch.from_numpy(np.stack([scenes.image(index) for index in range(4)]))
    with torch.no_grad():
        torch.nn.init.normal_(model.head.classifier.weight)
        for _ in range(20):
            model(normalize(images, recipe.input))
    return Checkpoint(recipe, CLASSES.names, CLASSES.palette, model.state_dict())


@pytest.fixture(scope="module")
def fpn(tmp_path_factory) -> tuple[Checkpoint, ExportResult]:
    """Semantic FPN R-18 for any size."""
    checkpoint = checkpoint_of(FPN)
    out = tmp_path_factory.mktemp("fpn") / "fpn.onnx"
    return checkpoint, export(checkpoint, out, size=(64, 96), dynamic=True, seconds=0)


@pytest.fixture(scope="module")
def fcn(tmp_path_factory) -> tuple[Checkpoint, ExportResult]:
    """FCN R-50-D8 for any size, with every padding there is, and all that is not the default."""
    changes = [
        "model.head.channels=16", "model.aux_head.channels=16",
        "model.backbone.depth=50", "input.size_divisor=32", "inference.pad_to=70x80",
        "model.align_corners=true", "input.mean=[103.53, 116.28, 123.675]",
        "input.std=[50, 60, 70]", "input.channel_order=bgr",
    ]  # fmt: skip
    checkpoint = checkpoint_of(perpixel.override(FCN, changes))
    out = tmp_path_factory.mktemp("fcn") / "fcn.onnx"
    return checkpoint, export(checkpoint, out, size=(64, 96), dynamic=True, seconds=0)


def agreements(checkpoint: Checkpoint, path: Path, images: list[np.ndarray]) -> list[float]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    predictor = Predictor.from_checkpoint(checkpoint)
    shares = []
    for image in images:
        (classes,) = session.run(["mask"], {"images": image[None]})
        assert classes.dtype == np.uint8
        expected = predictor.predict(image).mask
        assert len(np.unique(expected)) > 1  # or agreeing would mean nothing
        shares.append(float((classes[0] == expected).mean()))
    return shares


@pytest.mark.parametrize("exported", ["fcn", "fpn"])
def test_masks_of_any_size_are_those_of_predict(exported, request):
    checkpoint, done = request.getfixturevalue(exported)
    images = [
        SyntheticStreets("val", count=1, size=s).image(0) for s in ((64, 96), (97, 131), (33, 200))
    ]
    assert min(agreements(checkpoint, done.path, images)) >= 0.999
    assert {comparison.size for comparison in done.comparisons} == {(64, 96), (49, 73), (81, 121)}
    assert all(0 <= c.difference < 1e-4 * c.largest for c in done.comparisons)
    assert [timing.size for timing in done.timings] == [(64, 96), (49, 73), (81, 121)]
    assert min(timing.file.best for timing in done.timings) > 0
    assert min(timing.torch.best for timing in done.timings) > 0


@pytest.mark.parametrize("exported", ["fcn", "fpn"])
def test_camvid_images_agree_at_three_sizes(exported, request, camvid):
    checkpoint, done = request.getfixturevalue(exported)
    images = []
    for path in sorted((camvid / "val").glob("*.png"))[:1]:
        full = Image.fromarray(read_image(path))
        for width, height in ((480, 360), (361, 271), (256, 192)):
            images.append(np.array(full.resize((width, height))))
    assert min(agreements(checkpoint, done.path, images)) >= 0.999


def test_several_images_at_once(fpn):
    checkpoint, done = fpn
    scenes = SyntheticStreets("val", count=3, size=(50, 70))
    images = np.stack([scenes.image(index) for index in range(3)])
    run = onnx_runner(done.path.read_bytes(), graphs.make_graph(checkpoint, logits=False))
    together, logits = run(torch.from_numpy(images))
    assert logits.shape == (3, 11, 13, 18)
    apart = [run(torch.from_numpy(image[None]))[0][0] for image in images]
    assert (together == np.stack(apart)).mean() >= 0.999


def test_the_file_says_what_its_classes_are(fpn):
    checkpoint, done = fpn
    model = onnx.load(done.path)
    onnx.checker.check_model(model)
    about = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert tuple(about["class_names"]) == CLASSES.names
    assert [tuple(color) for color in about["palette"]] == list(CLASSES.palette)
    assert about["recipe"] == "camvid/semantic_fpn_r18"
    assert about["input"]["mean"] == list(checkpoint.recipe.input.mean)
    names = [[d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
             for value in (*model.graph.input, *model.graph.output)]  # fmt: skip
    assert names == [
        ["batch", "height", "width", 3],
        ["batch", "height", "width"],
        ["batch", 11, "logits_height", "logits_width"],
    ]
    assert not any(node.op_type == "BatchNormalization" for node in model.graph.node)


def test_the_file_says_how_images_are_preprocessed(fcn):
    about = {entry.key: json.loads(entry.value) for entry in onnx.load(fcn[1].path).metadata_props}
    assert about["input"] == {
        "mean": [103.53, 116.28, 123.675], "std": [50, 60, 70], "channel_order": "bgr",
        "size_divisor": 32,
    }  # fmt: skip
    assert about["inference"]["pad_to"] == [70, 80]
    assert about["align_corners"] is True


def test_the_example_needs_neither_perpixel_nor_torch(fpn, tmp_path):
    checkpoint, done = fpn
    images = [tmp_path / "wide.png", tmp_path / "tall.png"]
    for path, size in zip(images, ((60, 90), (101, 77)), strict=True):
        write_image(path, SyntheticStreets("val", count=1, size=size).image(0))
    blocked = (
        "import runpy, sys\n"
        "sys.modules.update(dict.fromkeys(['perpixel', 'torch', 'cv2', 'onnx']))\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    command = [
        sys.executable,
        "-c",
        blocked,
        EXAMPLE,
        done.path,
        *images,
        "--out",
        tmp_path / "o",
    ]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for path in images:
        expected = Predictor.from_checkpoint(checkpoint).predict(path)
        assert (read_mask(tmp_path / "o" / path.name) == expected.mask).mean() >= 0.999
        with Image.open(tmp_path / "o" / path.name) as mask:
            assert mask.getpalette()[:33] == [v for color in CLASSES.palette for v in color]
        largest = max(expected.class_fractions, key=expected.class_fractions.__getitem__)
        assert f"{path.name}: {largest} " in printed


def test_a_fixed_size_through_the_example(tmp_path, monkeypatch, capsys):
    checkpoint = checkpoint_of(perpixel.override(FCN, SMALL))
    done = export(checkpoint, tmp_path / "fixed.onnx", size=(40, 56), seconds=0)
    assert [comparison.size for comparison in done.comparisons] == [(40, 56)] * 2
    write_image(tmp_path / "a.png", SyntheticStreets("val", count=1, size=(80, 112)).image(0))
    words = ["onnx_predict.py", done.path, tmp_path / "a.png", "--out", tmp_path]
    monkeypatch.setattr(sys, "argv", [*map(str, words)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert read_mask(tmp_path / "a.png").shape == (80, 112)
    assert "a.png: " in capsys.readouterr().out


def test_a_pt2_file_with_logits(tmp_path):
    checkpoint = checkpoint_of(perpixel.override(FCN, SMALL))
    done = export(
        checkpoint, tmp_path / "f.pt2", size=(64, 64), dynamic=True, logits=True, seconds=0
    )
    assert max(comparison.difference for comparison in done.comparisons) < 1e-4
    about = {"metadata.json": ""}
    program = torch.export.load(io.BytesIO(done.path.read_bytes()), extra_files=about)
    assert json.loads(json.loads(about["metadata.json"])["class_names"]) == list(CLASSES.names)
    images = torch.rand(3, 3, 45, 67)
    (logits,) = program.module()(images)
    expected = Predictor.from_checkpoint(checkpoint).model(images).logits
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)


def test_a_file_that_disagrees_is_not_kept(tmp_path, monkeypatch):
    out = tmp_path / "wrong.pt2"
    checkpoint = checkpoint_of(perpixel.override(FCN, SMALL))
    monkeypatch.setattr(graphs, "normalize", lambda p, spec: p.permute(0, 3, 1, 2).float())
    with pytest.raises(PerpixelError, match=r"wrong.pt2: not written.*of the pixels agree"):
        export(checkpoint, out, size=(48, 64))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("logits", [True, False])
def test_a_file_of_other_weights_is_not_kept(logits: bool, tmp_path, monkeypatch):
    """Half a percent more in every logit moves no class: only the logits tell."""
    checkpoint = checkpoint_of(perpixel.override(FCN, SMALL))

    def trace_changed(graph, size, *, dynamic):
        changed = deepcopy(graph)
        with torch.no_grad():
            changed.model.head.classifier.weight.mul_(1.005)
            changed.model.head.classifier.bias.mul_(1.005)
        return graphs.trace(changed, size, dynamic=dynamic)

    monkeypatch.setattr("perpixel.exporting.export.trace", trace_changed)
    with pytest.raises(PerpixelError, match=r"wrong.pt2: not written.*a logit is off by"):
        export(checkpoint, tmp_path / "wrong.pt2", size=(48, 64), logits=logits)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("backbone", "least"),
    [("tf_efficientnet_lite0", 33), ("convnext_atto", 65)],
)
def test_masks_of_any_size_of_the_recipes_for_own_images(backbone: str, least: int, tmp_path):
    """TensorFlow's padding depends on the size; ConvNeXt rounds sizes down."""
    settings = [f"model.backbone.name={backbone}", "inference.base_size=null"]
    checkpoint = checkpoint_of(perpixel.override(perpixel.recipe("folder/fast"), settings))
    out = tmp_path / "any.onnx"
    export(checkpoint, out, size=(64, 96), dynamic=True, seconds=0)
    scenes = SyntheticStreets("val", count=1, size=(150, 200)).image(0)
    sizes = [(least, least + 1), (71, 90), (128, 97)]
    assert min(agreements(checkpoint, out, [resize_image(scenes, size) for size in sizes])) > 0.999
    with pytest.raises(PerpixelError, match=f"sides of {least} pixels or more"):
        perpixel.load(out).predict(np.zeros((least - 1, 80, 3), np.uint8))


def test_files_hold_no_paths_of_this_machine(fpn, tmp_path):
    checkpoint, done = fpn
    folder = str(Path(perpixel.__file__).parent).encode()
    program = export(checkpoint, tmp_path / "m.pt2", size=(48, 64), seconds=0).path
    with zipfile.ZipFile(program) as archive:
        parts = [archive.read(name) for name in archive.namelist()]
    assert not any(folder in part for part in [*parts, done.path.read_bytes()])
    assert not any(b"site-packages" in part for part in parts)


@pytest.mark.parametrize(
    ("difference", "agreement", "agrees"),
    [(0.009, 0.9991, True), (0.011, 1.0, False), (0, 0.998, False), (float("nan"), 1.0, False)],
)
def test_agreement_has_limits(difference, agreement, agrees):
    comparison = Comparison("a", (1, 1), difference=difference, largest=10, agreement=agreement)
    assert comparison.agrees(EXACT) == agrees
    assert comparison.agrees(HALF) == (agreement >= 0.99 and difference < 0.1)


def test_check_on_names_the_images_to_compare(tmp_path):
    checkpoint = checkpoint_of(perpixel.override(FCN, SMALL))
    for name in ("b.png", "a.jpg"):
        write_image(
            tmp_path / "in" / name, SyntheticStreets("val", count=1, size=(70, 90)).image(0)
        )
    words = {"size": (48, 64), "seconds": 0}
    done = export(checkpoint, tmp_path / "o.pt2", check_on=tmp_path / "in", **words)
    assert [(comparison.image, comparison.size) for comparison in done.comparisons] == [
        ("a.jpg", (48, 64)),
        ("b.png", (48, 64)),
    ]
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match="no images there"):
        export(checkpoint, tmp_path / "o.pt2", check_on=tmp_path / "none", **words)


@pytest.mark.parametrize(
    "changes",
    [
        ["inference.scales=[1.5]"],
        ["inference.base_size=160x100", "inference.scales=[1.25]"],
        ["data.resize=80x100", "inference.resize_logits_twice=true"],
        ["inference.scales=[1.25]", "input.size_divisor=32", "inference.pad_to=70x80"],
    ],
)
def test_what_predict_does_to_an_image_is_in_the_graph(changes, tmp_path):
    checkpoint = checkpoint_of(perpixel.override(FPN, changes))
    done = export(checkpoint, tmp_path / "scaled.onnx", size=(64, 96), seconds=0)
    image = SyntheticStreets("val", count=1, size=(64, 96)).image(0)
    assert agreements(checkpoint, done.path, [image])[0] >= 0.999


def test_the_shipped_weights_are_exported_as_they_are_evaluated(camvid, tmp_path):
    weights = Path(__file__).parents[2] / "benchmarks/results/camvid/fast.safetensors"
    checkpoint = read_checkpoint(weights)
    assert checkpoint.recipe.inference.base_size == (640, 640)
    path = sorted((camvid / "val").glob("*.png"))[0]
    out = tmp_path / "camvid.onnx"
    done = export(checkpoint, out, size=(360, 480), check_on=path, seconds=0)
    assert agreements(checkpoint, done.path, [read_image(path)])[0] >= 0.999
    assert [comparison.agreement >= 0.999 for comparison in done.comparisons] == [True]


@pytest.mark.parametrize(
    "size", [(31, 57), (90, 41), (48, 64), (36, 48), (1, 300), (54, 72), (72, 96)]
)
def test_the_graph_resizes_bit_for_bit_as_opencv(size):
    image = np.random.default_rng(0).integers(0, 256, (36, 48, 3), np.uint8)
    resized = graphs.resize_as_opencv(torch.from_numpy(image)[None], size)
    assert np.array_equal(resized[0].numpy(), resize_image(image, size))


@pytest.mark.parametrize(
    ("changes", "words", "message"),
    [
        (["inference.scales=[1,1.5]"], {}, r"scales=\[1.0, 1.5\].*--set inference.scales=\[1.0\]"),
        (["inference.flip=true"], {}, "flip=true.*--set inference.flip=false"),
        (["inference.mode=slide"], {}, 'mode="slide".*--set inference.mode="whole"'),
        (["inference.scales=[1.5]"], {"logits": True}, r"scales=\[1.5\].*--set inference.scales"),
        (["inference.scales=[1.5]"], {"dynamic": True}, "resizing images only without --dynamic"),
        (["inference.base_size=90x60"], {"dynamic": True}, "--set inference.base_size=null"),
        (["data.resize=90x60"], {"logits": True}, r"resizes images to \[90, 60\] \(data"),
        (["input.size_divisor=32"], {"logits": True, "size": (50, 64)}, "pads .* to 64x64; give"),
    ],
)
def test_what_no_graph_can_do_is_refused(changes, words, message, tmp_path):
    checkpoint = checkpoint_of(perpixel.override(FCN, [*SMALL, *changes]))
    with pytest.raises(UsageError, match=message):
        export(checkpoint, tmp_path / "m.pt2", **{"size": (64, 64), **words})
    assert not any(tmp_path.iterdir())


def test_settings_name_the_predict_to_export(tmp_path):
    changes = ["inference.scales=[1,1.5]", "inference.flip=true", "inference.mode=slide"]
    checkpoint = checkpoint_of(perpixel.override(FCN, [*SMALL, *changes]))
    plain = ["inference.scales=[1]", "inference.flip=false", "inference.mode=whole"]
    export(checkpoint, tmp_path / "m.pt2", size=(48, 64), settings=plain, seconds=0)
    about = {"metadata.json": ""}
    torch.export.load(tmp_path / "m.pt2", extra_files=about)
    assert json.loads(json.loads(about["metadata.json"])["inference"])["scales"] == [1.0]
    with pytest.raises(UsageError, match="are those of inference"):
        export(checkpoint, tmp_path / "n.pt2", settings=["train.steps=3"])


def test_wrong_names_and_sizes_are_refused(tmp_path, monkeypatch):
    checkpoint = checkpoint_of(perpixel.override(FCN, SMALL))
    with pytest.raises(UsageError, match=r"m\.tflite: .*\.onnx or \.pt2"):
        export(checkpoint, tmp_path / "m.tflite")
    with pytest.raises(UsageError, match="20x64: with --dynamic, sides must be 33 pixels or more"):
        export(checkpoint, tmp_path / "m.onnx", size=(20, 64), dynamic=True)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(PerpixelError, match=r'pip install "perpixel\[export\]"'):
        export(checkpoint, tmp_path / "m.onnx")
    assert not any(tmp_path.iterdir())


def test_the_original_fcn_8s(tmp_path):
    """Its logits are at the image's own size, cropped from larger ones."""
    recipe = perpixel.override(
        perpixel.recipe("caffe-fcn/voc-fcn8s"),
        ["model.backbone.base_channels=8", "model.backbone.fc_channels=16", "input.std=[58,58,58]"],
    )
    model = perpixel.build(recipe, num_classes=11)
    for score in (model.head.classifier, *model.head.skips):
        torch.nn.init.normal_(score.weight)
    checkpoint = Checkpoint(recipe, CLASSES.names, CLASSES.palette, model.state_dict())
    out = tmp_path / "fcn8s.onnx"
    export(checkpoint, out, size=(72, 100), seconds=0)
    scenes = SyntheticStreets("val", count=2, size=(72, 100))
    images = [scenes.image(index) for index in range(2)]
    masks = [Predictor.from_checkpoint(checkpoint).predict(image).mask for image in images]
    assert len(np.unique(masks)) > 2
    assert min(agreements(checkpoint, out, images)) > 0.999
    with pytest.raises(UsageError, match="exported for one size: leave out --dynamic"):
        export(checkpoint, out, size=(72, 100), dynamic=True, seconds=0)


class OwnMasks:
    """Scenes whose labels are what a model predicts, so that its mIoU is 100."""

    def __init__(self, checkpoint: Checkpoint, count: int, size: tuple[int, int]) -> None:
        self.classes = CLASSES
        self._scenes = SyntheticStreets("val", count=count, size=size)
        self._predictor = Predictor.from_checkpoint(checkpoint)

    def __len__(self) -> int:
        return len(self._scenes)

    def sample_id(self, index: int) -> str:
        return self._scenes.sample_id(index)

    def image(self, index: int, *, rows: object = None) -> np.ndarray:
        return self._scenes.image(index)

    def label(self, index: int) -> np.ndarray:
        return self._predictor.predict(self.image(index)).mask


CALIBRATION = SyntheticStreets("train", count=4, size=(64, 96))


@pytest.fixture(scope="module")
def int8(tmp_path_factory) -> tuple[Checkpoint, ExportResult]:
    """The float file's own model, smaller than its scenes, in INT8."""
    checkpoint = checkpoint_of(perpixel.override(FPN, ["inference.scales=[1.5]"]))
    out = tmp_path_factory.mktemp("int8") / "fpn.onnx"
    done = export(
        checkpoint, out, size=(64, 96), labeled=OwnMasks(checkpoint, 2, (64, 96)),
        calibration=CALIBRATION, miou_tolerance=60, seconds=0,
    )  # fmt: skip
    return checkpoint, done


def test_an_int8_file_predicts_nearly_the_same(int8):
    checkpoint, done = int8
    scenes = SyntheticStreets("val", count=3, size=(64, 96))
    assert (
        min(agreements(checkpoint, done.path, [scenes.image(i) for i in range(3)])) > 0.8
    )  # trained weights do better
    assert done.miou.predict == 100
    assert 40 < done.miou.file < 100
    assert done.miou.images == 2
    assert all(comparison.difference > 0.001 for comparison in done.comparisons)


def test_the_network_alone_is_in_int8(int8, tmp_path):
    checkpoint, done = int8
    model = onnx.load(done.path)
    onnx.checker.check_model(model)
    by_output = {output: node for node in model.graph.node for output in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    in_int8 = [
        all(by_output[name].op_type == "DequantizeLinear" for name in node.input[:2])
        for node in convolutions
        if node.input[1] in by_output
    ]
    assert all(in_int8)
    assert len(in_int8) == len(convolutions) - 1  # the first is not
    assert by_output["mask"].op_type == "Cast"
    about = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert tuple(about["class_names"]) == CLASSES.names
    single = export(checkpoint, tmp_path / "f.onnx", size=(64, 96), seconds=0)
    assert done.path.stat().st_size < 0.5 * single.path.stat().st_size


def test_int8_gathers_what_doubles(int8, fpn):
    """The pyramid of 96x144 pixels, as the file resizes to, has sides of 3x5, 6x9, 12x18, 24x36."""
    checkpoint = int8[0]
    graph = graphs.make_graph(checkpoint, logits=False)
    content = graphs.onnx_file(graphs.trace(graph, (64, 96), dynamic=False), graph, metadata={})
    model = onnx.load_from_string(content)
    _gather_doublings(model)
    onnx.checker.check_model(model)
    modes = [
        attribute.s for node in model.graph.node if node.op_type == "Resize"
        for attribute in node.attribute if attribute.name == "mode"
    ]  # fmt: skip
    assert modes.count(b"nearest") == 1
    image = graph.preprocess(SyntheticStreets("val", count=1, size=(64, 96)).image(0))
    before, after = (
        onnx_runner(file, graph)(image) for file in (content, model.SerializeToString())
    )
    assert all(np.allclose(*pair, atol=1e-4) for pair in zip(before, after, strict=True))
    kinds = [node.op_type for node in onnx.load(int8[1].path).graph.node]
    assert kinds.count("Resize") == sum(node.op_type == "Resize" for node in model.graph.node)
    dynamic = onnx.load(fpn[1].path)
    count = len(dynamic.graph.node)
    _gather_doublings(dynamic)
    assert len(dynamic.graph.node) == count


def test_int8_of_any_size_and_of_the_model_alone(tmp_path):
    checkpoint = checkpoint_of(FPN)
    for logits in (False, True):
        done = export(
            checkpoint, tmp_path / "m.onnx", size=(64, 96), dynamic=True, logits=logits,
            labeled=OwnMasks(checkpoint, 2, (50, 70)), calibration=CALIBRATION,
            miou_tolerance=60, seconds=0,
        )  # fmt: skip
        assert 40 < done.miou.file < 100
        assert min(comparison.agreement for comparison in done.comparisons) > 0.7


def test_an_int8_file_of_too_low_miou_is_not_written(tmp_path):
    checkpoint = checkpoint_of(perpixel.override(FCN, SMALL))
    with pytest.raises(PerpixelError, match=r"m.onnx: not written, as its mIoU is .* is 100\.00"):
        export(
            checkpoint, tmp_path / "m.onnx", size=(64, 96), calibration=CALIBRATION,
            labeled=OwnMasks(checkpoint, 2, (64, 96)), miou_tolerance=0, seconds=0,
        )  # fmt: skip
    assert not any(tmp_path.iterdir())


def test_int8_is_calibrated_on_the_training_split(mini, tmp_path, monkeypatch):
    saved = tmp_path / "model.safetensors"
    write_checkpoint(saved, checkpoint_of(perpixel.override(FCN, SMALL)))
    seen = []

    def quantize(content, graph, images):
        seen.extend(images)
        return content

    monkeypatch.setattr("perpixel.exporting.export.quantize", quantize)
    steps = []
    done = perpixel.export(
        saved, tmp_path / "m.onnx", size=(48, 64), data=mini, int8=True, seconds=0,
        progress=lambda *step: steps.append(step),
    )  # fmt: skip
    expected = [read_image(path) for path in sorted((mini / "train").glob("*.png"))]
    assert len(seen) == len(expected) == 12
    assert all(np.array_equal(*pair) for pair in zip(seen, expected, strict=True))
    assert [comparison.image for comparison in done.comparisons] == [
        "val/00.png", "val/01.png", "val/02.png",
    ]  # fmt: skip
    assert done.miou.predict == pytest.approx(perpixel.evaluate(saved, data=mini).miou)
    assert done.miou.file == pytest.approx(done.miou.predict, abs=0.1)
    assert {(12, 12, "calibrate"), (3, 3, "compare mIoU")} <= set(steps)


def test_int8_needs_onnx_labels_and_training_images(mini, tmp_path):
    checkpoint = checkpoint_of(perpixel.override(FCN, SMALL))
    saved, out = tmp_path / "model.safetensors", tmp_path / "m.onnx"
    write_checkpoint(saved, checkpoint)
    with pytest.raises(UsageError, match=r"m\.pt2: INT8 needs ONNX"):
        perpixel.export(saved, tmp_path / "m.pt2", int8=True, data=mini)
    with pytest.raises(UsageError, match="'camvid' needs the folder that holds it: --data"):
        perpixel.export(saved, out, int8=True)
    with pytest.raises(UsageError, match="INT8 needs a labeled data set"):
        export(checkpoint, out, calibration=CALIBRATION)
    for missing in ("train", "valannot"):
        part = tmp_path / f"without {len(missing)}"
        shutil.copytree(mini, part)
        shutil.rmtree(part / missing)
        with pytest.raises(PerpixelError, match=f"/{missing}/"):
            perpixel.export(saved, out, int8=True, data=part)
    empty = SyntheticStreets("train", count=0, size=(64, 96))
    with pytest.raises(PerpixelError, match="training split holds no images"):
        export(checkpoint, out, calibration=empty, labeled=CALIBRATION)
    assert not out.exists()


def test_weights_in_float16_halve_the_file(tmp_path):
    checkpoint = checkpoint_of(FPN)
    checkpoint.weights["head.output.0.weight"][0, 0] = 1e5  # beyond float16, of a channel that
    checkpoint.weights["head.scales.0.0.0.weight"][:, 0] = 0  # nothing reads
    single, half = (
        export(checkpoint, tmp_path / name, size=(64, 96), half=half, seconds=0)
        for name, half in (("single.onnx", False), ("half.onnx", True))
    )
    assert half.path.stat().st_size < 0.65 * single.path.stat().st_size
    assert max(comparison.difference for comparison in single.comparisons) < min(
        comparison.difference for comparison in half.comparisons
    )
    model = onnx.load(half.path)
    onnx.checker.check_model(model)
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    layers = [node for node in model.graph.node if node.op_type == "Conv"]
    cast = [node.input[1] for node in layers if f"{node.input[1]}_float16" in kinds]
    assert len(cast) == len(layers) - 1
    assert {kinds[f"{name}_float16"] for name in cast} == {onnx.TensorProto.FLOAT16}
    assert onnx.TensorProto.FLOAT in kinds.values()  # biases, normalization, the large weight
    images = [SyntheticStreets("val", count=1, size=(64, 96)).image(0)]
    assert agreements(checkpoint, half.path, images)[0] >= 0.99


def test_float16_that_changes_masks_too_much_is_refused(tmp_path, monkeypatch):
    def halve_and_round(content):
        model = onnx.load_from_string(halve_weights(content))
        for tensor in model.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT16:
                values = onnx.numpy_helper.to_array(tensor)
                rounded = (values * np.float16(1.2)).astype(np.float16)
                tensor.CopyFrom(onnx.numpy_helper.from_array(rounded, tensor.name))
        return model.SerializeToString()

    monkeypatch.setattr("perpixel.exporting.export.halve_weights", halve_and_round)
    with pytest.raises(PerpixelError, match=r"at least 99\.0% must.* \(0\.01 of it is the limit"):
        export(checkpoint_of(FPN), tmp_path / "m.onnx", size=(64, 96), half=True, seconds=0)
    with pytest.raises(UsageError, match=r"m\.pt2: float16 needs ONNX"):
        export(checkpoint_of(FPN), tmp_path / "m.pt2", half=True)
    with pytest.raises(UsageError, match="either INT8 or float16"):
        export(
            checkpoint_of(FPN), tmp_path / "m.onnx", half=True,
            calibration=CALIBRATION, labeled=CALIBRATION,
        )  # fmt: skip
    assert not any(tmp_path.iterdir())


def test_the_command_halves_weights_and_has_int8_alone_calibrated(tmp_path):
    saved, out = tmp_path / "model.safetensors", tmp_path / "m.onnx"
    write_checkpoint(saved, checkpoint_of(perpixel.override(FCN, SMALL)))
    words = ["export", str(saved), str(out), "--size", "48x64", "--seconds", "0"]
    command = [sys.executable, "-m", "perpixel"]
    refused = subprocess.run(
        [*command, *words, "--calibrate", "x"], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert "--calibrate ROOT belongs to --int8" in refused.stderr
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [*command, *words, "--half"], check=True, env={**os.environ, "HOME": str(home)}
    )
    assert done.returncode == 0
    kinds = {tensor.data_type for tensor in onnx.load(out).graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds
    assert not (home / ".cache/Microsoft").exists()  # ONNX Runtime's telemetry


def test_a_file_of_other_masks_than_predict_is_refused_by_its_miou(tmp_path):
    """On images that the comparison by pixel does not see."""
    checkpoint = checkpoint_of(perpixel.override(FCN, SMALL))
    agreeing = OwnMasks(checkpoint, 2, (64, 96))
    done = export(checkpoint, tmp_path / "m.pt2", size=(64, 96), labeled=agreeing, seconds=0)
    assert done.miou.file == pytest.approx(100, abs=0.1)
    with pytest.raises(PerpixelError, match=r"its mIoU is 99\.80 .* 100\.00 \(2 images\): 0\.20"):
        _require_miou(tmp_path / "m.pt2", MIoU(100, 99.8, 2), MIOU_TOLERANCE)


def test_every_inference_setting_is_in_the_graph_or_refused(tmp_path):
    """Settings that change masks of `predict`; the other tests show which a file follows."""
    refused = {"mode": '"slide"', "flip": "true", "scales": "[1,1.5]"}
    in_the_graph = {"base_size", "resize_to_multiple", "pad_to", "resize_logits_twice"}
    of_windows_and_averages = {"window_size", "stride", "tta_average"}
    assert {*refused, *in_the_graph, *of_windows_and_averages} == set(Inference.model_fields)
    checkpoint = checkpoint_of(perpixel.override(FCN, SMALL))
    for name, value in refused.items():
        with pytest.raises(UsageError, match=f"with inference.{name}="):
            export(checkpoint, tmp_path / "m.pt2", settings=[f"inference.{name}={value}"])
    changes = ["resize_to_multiple=32", "pad_to=70x130", "resize_logits_twice=true"]
    for change in [changes[:1], changes[1:], ["base_size=90x60", changes[2]]]:
        settings = [f"inference.{setting}" for setting in change]
        export(checkpoint, tmp_path / "m.pt2", size=(60, 90), settings=settings, seconds=0)
