"""The command, from file to file."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

import perpixel
from perpixel.checkpoints.format import Checkpoint, read_checkpoint, write_checkpoint
from perpixel.cli.convert import convert
from perpixel.conversion import from_state_dict, to_state_dict
from perpixel.conversion.detect import TOOLKITS
from perpixel.conversion.import_ import import_checkpoint
from perpixel.conversion.names import to_toolkit_names
from perpixel.data.datasets.synthetic import CLASSES
from perpixel.errors import PerpixelError, UsageError
from perpixel.inference.predictor import Predictor
from perpixel.models.build import build
from perpixel.recipes import recipe
from perpixel.recipes.models import FCN as FCNHead
from perpixel.recipes.models import Model, ResNet, SemanticFPN

FCN = recipe("scenes/fcn_r18-d8")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ours") / "ours.safetensors"
    model = build(FCN.model, num_classes=len(CLASSES))
    write_checkpoint(path, Checkpoint(FCN, CLASSES.names, CLASSES.palette, model.state_dict()))
    return path


@pytest.fixture
def theirs(ours: Path, tmp_path: Path) -> Path:
    convert(ours, tmp_path / "theirs.pth", toolkit="mmseg")
    return tmp_path / "theirs.pth"


def test_there_and_back(ours: Path, theirs: Path, tmp_path: Path, capsys):
    meta = torch.load(theirs, weights_only=True)["meta"]
    assert tuple(meta["CLASSES"]) == tuple(meta["dataset_meta"]["classes"]) == CLASSES.names
    convert(theirs, tmp_path / "back.safetensors")
    assert "Classes and colors: the file's" in capsys.readouterr().out
    before, after = read_checkpoint(ours), read_checkpoint(tmp_path / "back.safetensors")
    assert (after.class_names, after.palette) == (before.class_names, before.palette)
    assert after.recipe.name == "mmseg/theirs"
    assert after.recipe.model == before.recipe.model
    assert after.recipe.inference.resize_logits_twice
    assert after.weights.keys() == before.weights.keys()
    assert all(torch.equal(after.weights[name], before.weights[name]) for name in before.weights)


def test_classes_are_renamed(ours: Path, theirs: Path, tmp_path: Path):
    out = tmp_path / "renamed.safetensors"
    names = [f"n{index}" for index in range(len(CLASSES))]
    convert(ours, out, names=",".join(names))
    renamed = read_checkpoint(out)
    assert renamed.class_names == (*names,)
    assert renamed.palette == CLASSES.palette
    assert perpixel.load(out).predict(np.zeros((8, 8, 3), np.uint8)).class_names == (*names,)
    (tmp_path / "labels.csv").write_text("".join(f"{7 - i},n{7 - i}\n" for i in range(1, 8)))
    convert(ours, out, names=str(tmp_path / "labels.csv"))
    assert read_checkpoint(out).class_names == (*names,)
    for wrong in ("a,b", ",".join(["a"] * len(names))):
        with pytest.raises(UsageError, match=r"--names has \d different names, and the model 7"):
            convert(ours, tmp_path / "x.safetensors", names=wrong)
    with pytest.raises(UsageError, match="--names are for perpixel checkpoints: convert"):
        convert(theirs, tmp_path / "x.safetensors", names="a,b")


def test_half_as_large_it_predicts_the_same(ours: Path, tmp_path: Path):
    out = tmp_path / "half.safetensors"
    convert(ours, out, half=True)
    assert out.stat().st_size < 0.52 * ours.stat().st_size
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    full, half = perpixel.load(ours).predict(image), perpixel.load(out).predict(image)
    assert len(np.unique(full.mask)) > 1  # or agreeing would mean nothing
    assert (full.mask == half.mask).mean() > 0.99
    with pytest.raises(UsageError, match="either --toolkit mmseg, torchvision or caffe, or --half"):
        convert(ours, out, half=True, toolkit="mmseg")


def test_what_float16_cannot_hold_is_named(ours: Path, tmp_path: Path):
    checkpoint = read_checkpoint(ours)
    weights = dict(checkpoint.weights)
    weights["head.classifier.weight"] = weights["head.classifier.weight"] + 1e5
    write_checkpoint(tmp_path / "large.safetensors", replace(checkpoint, weights=weights))
    with pytest.raises(PerpixelError, match=r"head\.classifier\.weight holds numbers beyond"):
        convert(tmp_path / "large.safetensors", tmp_path / "half.safetensors", half=True)
    assert not (tmp_path / "half.safetensors").exists()


def test_a_runs_own_weights_are_not_written_over(ours: Path, tmp_path: Path):
    model = tmp_path / "run/checkpoints/model.safetensors"
    model.parent.mkdir(parents=True)
    shutil.copy(ours, model)
    for options in ({"half": True}, {"toolkit": "mmseg"}):
        with pytest.raises(UsageError, match="is the file to convert"):
            convert(tmp_path / "run", model, **options)
    assert model.read_bytes() == ours.read_bytes()


def test_the_recipe_is_checked(theirs: Path, tmp_path: Path):
    out = tmp_path / "out.safetensors"
    convert(theirs, out, recipe=FCN.name)
    assert read_checkpoint(out).recipe == FCN
    with pytest.raises(PerpixelError, match=r"head\.type: semantic_fpn -> fcn"):
        convert(theirs, tmp_path / "other.safetensors", recipe="scenes/semantic_fpn_r18")
    with pytest.raises(PerpixelError, match="output_stride: 8 -> 16"):
        convert(theirs, tmp_path / "other.safetensors", recipe=FCN.name, output_stride=16)
    assert not (tmp_path / "other.safetensors").exists()


def test_a_files_own_mean_and_std_are_its_checkpoints(tmp_path: Path):
    """They go before the toolkit's, and must not be other than a recipe's."""
    backbone = ResNet(depth=18, stride_in_1x1=True, frozen_bn=True)
    head = SemanticFPN(fpn_channels=8, channels=32, norm="group", dropout=0.0)
    weights = build(Model(backbone=backbone, head=head), num_classes=3).state_dict()
    names = to_toolkit_names(TOOLKITS["detectron2"].name_map, weights)
    state = {names[name]: tensor for name, tensor in weights.items()}
    state["pixel_mean"] = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
    state["pixel_std"] = torch.tensor([4.0, 5.0, 6.0]).view(3, 1, 1)
    torch.save({"model": state}, tmp_path / "old.pth")
    recipe = import_checkpoint(tmp_path / "old.pth").checkpoint.recipe
    assert (recipe.input.mean, recipe.input.std) == ((1, 2, 3), (4, 5, 6))
    assert recipe.input.channel_order == "bgr"
    other = recipe.model_copy(update={"input": TOOLKITS["detectron2"].input})
    with pytest.raises(PerpixelError, match=r"input\.mean: .*103\.53.* -> .*1\.0, 2\.0, 3\.0"):
        import_checkpoint(tmp_path / "old.pth", recipe=other)


@pytest.mark.parametrize("toolkit", ["mmseg", "sssegmentation"])
def test_flips_average_what_the_toolkit_averages(toolkit: str, tmp_path: Path):
    """mmsegmentation class probabilities, sssegmentation logits (its base.py, inference)."""
    spec = Model(
        backbone=ResNet(depth=18, output_stride=8), head=FCNHead(channels=8, concat_input=True)
    )
    if toolkit == "sssegmentation":
        spec = spec.model_copy(update={"head": FCNHead(channels=8)})
    model = build(spec, num_classes=3).eval()
    torch.nn.init.normal_(model.head.classifier.weight)
    weights = model.state_dict()
    names = to_toolkit_names(TOOLKITS[toolkit].name_map, weights)
    torch.save({names[name]: tensor for name, tensor in weights.items()}, tmp_path / "a.pth")
    checkpoint = import_checkpoint(tmp_path / "a.pth", output_stride=8).checkpoint
    flipped = checkpoint.recipe.inference.model_copy(update={"flip": True})
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    averaged = Predictor.from_checkpoint(checkpoint, inference=flipped).probabilities(image)

    images = (image - np.array([123.675, 116.28, 103.53])) / np.array([58.395, 57.12, 57.375])
    images = torch.from_numpy(images).float().permute(2, 0, 1)[None]
    with torch.inference_mode():
        plain, mirrored = (
            interpolate(model(batch).logits, size=(32, 48), mode="bilinear")
            for batch in (images, images.flip(3))
        )
    passes = torch.stack([plain[0], mirrored[0].flip(2)])
    of_logits, of_probabilities = passes.mean(0).softmax(0), passes.softmax(1).mean(0)
    assert (of_logits - of_probabilities).abs().max() > 0.01
    expected = of_logits if toolkit == "sssegmentation" else of_probabilities
    np.testing.assert_allclose(averaged, expected.permute(1, 2, 0), atol=1e-3)


def test_classes_from_the_data_set_or_from_nowhere(ours: Path, tmp_path: Path, capsys):
    source, out = tmp_path / "flat.pth", tmp_path / "out.safetensors"
    convert(ours, source, toolkit="mmseg")
    torch.save(torch.load(source)["state_dict"], source)
    convert(source, out, recipe=FCN.name)
    assert read_checkpoint(out).class_names == CLASSES.names
    capsys.readouterr()
    convert(source, out)
    assert "class_0 to class_6" in capsys.readouterr().out
    checkpoint = read_checkpoint(out)
    assert checkpoint.class_names[:2] == ("class_0", "class_1")
    assert len(set(checkpoint.palette)) == len(CLASSES)


def test_class_names_and_colors_that_no_checkpoint_holds(theirs: Path, tmp_path: Path, capsys):
    content = torch.load(theirs)
    twins = [*CLASSES.names[:-2], CLASSES.names[0], CLASSES.names[0]]
    content["meta"] = {"CLASSES": twins, "PALETTE": [[0, 0, 300]] * len(twins)}
    torch.save(content, theirs)
    convert(theirs, tmp_path / "out.safetensors")
    assert "Classes: the file's; colors: made up." in capsys.readouterr().out
    first = CLASSES.names[0]
    names = read_checkpoint(tmp_path / "out.safetensors").class_names
    assert names == (*CLASSES.names[:-2], f"{first}_2", f"{first}_3")


def test_torchvision_without_auxiliary_head_is_said_to_be_a_guess(tmp_path: Path, capsys):
    model = FCN.model.model_copy(
        update={"backbone": FCN.model.backbone.model_copy(update={"output_stride": 32})}
    )
    state = to_state_dict(build(model, num_classes=3), toolkit="torchvision")
    torch.save(state, tmp_path / "flat.pth")
    convert(tmp_path / "flat.pth", tmp_path / "out.safetensors", output_stride=32)
    assert "torchvision's names too" in capsys.readouterr().out
    assert from_state_dict(state, toolkit="torchvision").spec.align_corners is False


def _averaged(state: dict) -> dict:
    """AveragedModel's, of torch's own."""
    model = build(FCN.model, num_classes=len(CLASSES))
    averaged = torch.optim.swa_utils.AveragedModel(model).state_dict()
    return {"n_averaged": averaged["n_averaged"]} | {f"module.{n}": v for n, v in state.items()}


@pytest.mark.parametrize(
    ("wrap", "left_out"),
    [
        (lambda s: {f"model.{n}": v for n, v in s.items()}, None),
        (lambda s: {"net": {f"module.net.{n}": v for n, v in s.items()}}, None),
        (lambda s: {f"module._orig_mod.{n}": v for n, v in s.items()}, None),
        (lambda s: {n.replace("layer1.", "layer1._checkpoint_wrapped_module."): v
                    for n, v in s.items()}, None),
        (_averaged, "n_averaged"),
        (lambda s: {"state_dict": {f"model.{n}": v for n, v in s.items()}
                    | {"criterion.weight": torch.ones(7), "val_iou.total": torch.tensor(3)},
                    "pytorch-lightning_version": "2.4.0", "optimizer_states": [{}]},
         "criterion.weight, val_iou.total"),
        (lambda s: s | {f"ema_{n.replace('.', '_')}": v for n, v in s.items()},
         "ema_backbone_conv1"),
    ],
    ids=["lightning", "nested", "ddp-compile", "fsdp", "averaged", "metrics", "mmcv-ema"],
)  # fmt: skip
def test_what_stands_before_all_names_is_ignored(
    theirs: Path, tmp_path: Path, wrap, left_out, capsys
):
    convert(theirs, tmp_path / "plain.safetensors")
    assert "Left out" not in capsys.readouterr().out
    torch.save(wrap(torch.load(theirs)["state_dict"]), theirs)
    convert(theirs, tmp_path / "wrapped.safetensors")
    plain, wrapped = (read_checkpoint(tmp_path / f"{n}.safetensors") for n in ("plain", "wrapped"))
    assert wrapped.recipe.model == plain.recipe.model
    assert wrapped.weights.keys() == plain.weights.keys()
    assert all(torch.equal(wrapped.weights[n], plain.weights[n]) for n in plain.weights)
    out = capsys.readouterr().out
    assert ("Left out" in out) == (left_out is not None)
    assert (left_out or "") in out


def test_one_output_is_converted_to_two_classes(tmp_path: Path):
    single = build(FCN.model, num_classes=1).eval()
    with torch.no_grad():
        single.head.classifier.bias.fill_(0.1)  # sigmoid(0.1) is 0.52
        single.head.classifier.weight.zero_()
    state = to_state_dict(single, toolkit="mmseg")
    torch.save({"meta": {"CLASSES": ("crack",)}, "state_dict": state}, tmp_path / "one.pth")
    out = tmp_path / "two.safetensors"
    with pytest.raises(PerpixelError, match=r"one\.pth: a model of one output x.*--threshold 0\.3"):
        convert(tmp_path / "one.pth", out)
    for threshold in (0.51, 0.53):
        convert(tmp_path / "one.pth", out, threshold=threshold)
        model = perpixel.load(out)
        assert model.class_names == ("background", "crack")
        mask = model.predict(np.zeros((32, 32, 3), np.uint8)).mask
        assert (mask == (threshold == 0.51)).all()


def test_a_file_that_does_not_fit_leaves_nothing(theirs: Path, tmp_path: Path):
    content = torch.load(theirs)
    content["state_dict"]["backbone.bn1.weight"] = torch.ones(3)
    torch.save(content, theirs)
    out = tmp_path / "out" / "out.safetensors"
    with pytest.raises(PerpixelError, match=r"(?s)theirs\.pth: .*bn1\.weight is \[3\]"):
        convert(theirs, out)
    theirs.write_bytes(theirs.read_bytes()[:1000])
    with pytest.raises(PerpixelError, match=r"theirs\.pth: a corrupt file"):
        convert(theirs, out)
    assert not out.parent.exists()


def test_wrong_commands(ours: Path, tmp_path: Path):
    out = tmp_path / "out.pth"
    with pytest.raises(UsageError, match="either --toolkit mmseg, torchvision or caffe, or --half"):
        convert(ours, out)
    with pytest.raises(UsageError, match="not for 'detectron2'"):
        convert(ours, out, toolkit="detectron2")
    with pytest.raises(UsageError, match="either --toolkit mmseg, torchvision or caffe, or --half"):
        convert(ours, out, toolkit="mmseg", trust=True)
    assert not out.exists()


def test_what_weights_do_not_tell_can_be_said(theirs: Path, tmp_path: Path):
    out = tmp_path / "out.safetensors"
    convert(theirs, out, align_corners=True, dataset="scenes")
    recipe = read_checkpoint(out).recipe
    assert recipe.model.align_corners
    assert recipe.data.name == "scenes"
