"""The original FCN's files: .caffemodel, pytorch-fcn's and Chainer's, there and back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

import perpixel
from perpixel.checkpoints import zoo
from perpixel.checkpoints.format import Checkpoint, read_checkpoint, write_checkpoint
from perpixel.cli.convert import convert
from perpixel.conversion import find, from_state_dict, to_state_dict
from perpixel.conversion.caffemodel import parse_caffemodel, serialize_caffemodel
from perpixel.data.datasets.pascal_voc import CLASSES
from perpixel.errors import PerpixelError, UsageError
from perpixel.models.build import build
from perpixel.models.segmenter import Segmenter
from perpixel.recipes.models import VGG16, CaffeNet, FCNSkip, Model
from perpixel.training.pretrained import load_pretrained

SMALL = VGG16(base_channels=2, fc_channels=4)
ATONCE = FCNSkip(skip_scales=(0.01, 0.0001))
MODELS = {
    "32s": Model(backbone=SMALL, head=FCNSkip(stride=32)),
    "16s": Model(backbone=SMALL, head=FCNSkip(stride=16)),
    "8s": Model(backbone=SMALL, head=FCNSkip()),
    "atonce": Model(backbone=SMALL, head=ATONCE),
    "alexnet": Model(backbone=CaffeNet(fc_channels=4), head=FCNSkip(stride=32)),
}
NUMBER_OF_KEYS = {"32s": 33, "16s": 36, "8s": 39, "atonce": 39, "alexnet": 17}


def random_model(spec: Model, classes: int = 21) -> Segmenter:
    model = build(spec, num_classes=classes).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.05)
    return model


def small_recipe(model: Model, name: str = "caffe-fcn/voc-fcn8s") -> perpixel.Recipe:
    return perpixel.recipe(name).model_copy(update={"model": model})


def equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture
def classes() -> dict:
    return {"class_names": CLASSES.names, "palette": CLASSES.palette}


@pytest.mark.parametrize("kind", MODELS)
def test_names_and_shapes_tell_the_model(kind: str):
    model = random_model(MODELS[kind], classes=5)
    state = to_state_dict(model, toolkit="caffe")
    assert len(state) == NUMBER_OF_KEYS[kind]
    assert all(name.rpartition(".")[2] in ("weight", "bias") for name in state)
    variant = {"8s": "staged", "atonce": "atonce"}.get(kind)
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    finding = find(wrapped, variant=variant)  # detected by the names
    assert finding.toolkit.name == "caffe"
    assert (finding.model, finding.num_classes) == (MODELS[kind], 5)
    assert equal(dict(finding.weights), model.state_dict())


def test_the_two_kinds_of_fcn_8s_are_told_apart_or_refused():
    state = to_state_dict(random_model(MODELS["8s"]), toolkit="caffe")
    with pytest.raises(UsageError, match="say variant='staged' or 'atonce'"):
        from_state_dict(state, toolkit="caffe")
    with pytest.raises(UsageError, match="FCN-8s is 'staged' or 'atonce'"):
        from_state_dict(state, toolkit="caffe", variant="at once")
    staged = from_state_dict(state, toolkit="caffe", variant="staged")
    atonce = from_state_dict(state, toolkit="caffe", variant="atonce")
    images = torch.randn(1, 3, 30, 40)
    with torch.inference_mode():
        difference = (staged(images).logits - atonce(images).logits).abs().max()
    assert difference > 0.01
    with pytest.raises(UsageError, match="two kinds of FCN-8s apart, and this net is none"):
        from_state_dict(
            to_state_dict(random_model(MODELS["16s"]), toolkit="caffe"), variant="staged"
        )
    resnet = build(perpixel.recipe("scenes/fcn_r18-d8").model, num_classes=3)
    with pytest.raises(UsageError, match="variant='staged' is of caffe's FCN-8s"):
        from_state_dict(to_state_dict(resnet, toolkit="mmseg"), variant="staged")


def test_what_is_missing_or_misshapen_is_named():
    state = to_state_dict(random_model(MODELS["8s"]), toolkit="caffe")
    del state["score_pool3.bias"]
    state["fc7.weight"] = state["fc7.weight"][:, :2]
    with pytest.raises(PerpixelError, match=r"FCN-8s on VGG-16 \(2 mismatches\)") as error:
        from_state_dict(state, toolkit="caffe", variant="staged")
    assert "score_pool3.bias" in str(error.value)
    assert "fc7.weight" in str(error.value)
    with pytest.raises(UsageError, match="not for the original FCN"):
        from_state_dict(state, toolkit="caffe", variant="staged", output_stride=8)


def test_a_caffemodel_and_back(tmp_path: Path, classes, capsys):
    """The scales of FCN-8s at once are layers of their own there, so that nobody has to say."""
    for kind in ("atonce", "8s", "alexnet"):
        model = random_model(MODELS[kind])
        ours, theirs = tmp_path / f"{kind}.safetensors", tmp_path / f"{kind}.caffemodel"
        recipe = small_recipe(MODELS[kind])
        write_checkpoint(ours, Checkpoint(recipe, **classes, weights=model.state_dict()))
        convert(ours, theirs, toolkit="caffe")
        blobs = parse_caffemodel(theirs.read_bytes())
        assert ("scale_pool4.weight" in blobs) == (kind == "atonce")
        back = tmp_path / f"{kind}_back.safetensors"
        convert(theirs, back, dataset="pascal_voc")
        assert "a mean of 104.01, 116.67, 122.68" in capsys.readouterr().out
        checkpoint = read_checkpoint(back)
        assert checkpoint.recipe.model == MODELS[kind]
        assert checkpoint.recipe.input == recipe.input
        assert checkpoint.class_names == CLASSES.names
        assert equal(dict(checkpoint.weights), model.state_dict())


def test_pytorch_fcns_file_needs_a_variant_or_a_recipe(tmp_path: Path, classes, capsys):
    model = random_model(MODELS["atonce"])
    ours = tmp_path / "ours.safetensors"
    recipe = small_recipe(MODELS["atonce"])
    write_checkpoint(ours, Checkpoint(recipe, **classes, weights=model.state_dict()))
    convert(ours, tmp_path / "atonce.pth", toolkit="caffe")
    assert "FCN8sAtOnce takes it" in capsys.readouterr().out
    out = tmp_path / "out.safetensors"
    with pytest.raises(UsageError, match="--variant"):
        convert(tmp_path / "atonce.pth", out)
    assert not out.exists()
    convert(tmp_path / "atonce.pth", out, variant="atonce")
    assert read_checkpoint(out).recipe.model == MODELS["atonce"]
    with pytest.raises(PerpixelError, match="is not a model of caffe-fcn/voc-fcn8s"):
        convert(tmp_path / "atonce.pth", out, recipe="caffe-fcn/voc-fcn8s-atonce")  # as it is small


def test_chainers_and_plain_npz(tmp_path: Path):
    state = to_state_dict(random_model(MODELS["16s"]), toolkit="caffe")
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    np.savez(tmp_path / "plain.npz", **arrays)
    renamed = {
        name.replace(".weight", "/W").replace(".bias", "/b"): array
        for name, array in arrays.items()
    }
    np.savez(tmp_path / "chainer.npz", **renamed)
    for name in ("plain", "chainer"):
        convert(tmp_path / f"{name}.npz", tmp_path / f"{name}.safetensors")
        assert read_checkpoint(tmp_path / f"{name}.safetensors").recipe.model == MODELS["16s"]
    content = (tmp_path / "plain.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(PerpixelError, match=r"cut\.npz: a corrupt file"):
        convert(tmp_path / "cut.npz", tmp_path / "x.safetensors")


def test_two_heads_and_names_of_2015():
    state = to_state_dict(random_model(MODELS["8s"]), toolkit="caffe")
    layers = ("score_fr", "score_pool", "upscore")
    siftflow = {}
    for name, tensor in state.items():
        layer, _, kind = name.rpartition(".")
        if layer.startswith(layers):
            siftflow[f"{layer}_sem.{kind}"] = tensor
            siftflow[f"{layer}_geo.{kind}"] = tensor[:3]
        else:
            siftflow[name] = tensor
    finding = find(siftflow, variant="staged")
    assert finding.model == MODELS["8s"]
    assert len(finding.left_out) == 9
    assert all("_geo." in name for name in finding.left_out)
    new = {"score_fr": "score59", "score_pool4": "score-pool4", "score_pool3": "score-pool3",
           "upscore_pool4": "upsample-fused-16", "upscore8": "upsample"}  # fmt: skip
    zoo_2015 = {
        f"{new.get(layer, layer)}.{kind}": state[f"{layer}.{kind}"]
        for layer, _, kind in (name.rpartition(".") for name in state)
    }
    assert find(zoo_2015, variant="staged").model == MODELS["8s"]


def protobuf_net() -> type:
    """Caffe's messages as the protobuf library has them, of the fields that matter."""
    field, file = descriptor_pb2.FieldDescriptorProto, descriptor_pb2.FileDescriptorProto()
    file.name, file.package, file.syntax = "caffe_test.proto", "caffe_test", "proto2"
    tables = {
        "BlobShape": [("dim", 1, field.TYPE_INT64, None, True)],
        "BlobProto": [
            ("num", 1, field.TYPE_INT32, None, False),
            ("channels", 2, field.TYPE_INT32, None, False),
            ("height", 3, field.TYPE_INT32, None, False),
            ("width", 4, field.TYPE_INT32, None, False),
            ("data", 5, field.TYPE_FLOAT, None, True),
            ("shape", 7, field.TYPE_MESSAGE, "BlobShape", False),
        ],
        "LayerParameter": [
            ("name", 1, field.TYPE_STRING, None, False),
            ("type", 2, field.TYPE_STRING, None, False),
            ("blobs", 7, field.TYPE_MESSAGE, "BlobProto", True),
        ],
        "V1LayerParameter": [
            ("name", 4, field.TYPE_STRING, None, False),
            ("type", 5, field.TYPE_INT32, None, False),
            ("blobs", 6, field.TYPE_MESSAGE, "BlobProto", True),
            ("blobs_lr", 7, field.TYPE_FLOAT, None, True),
        ],
        "NetParameter": [
            ("name", 1, field.TYPE_STRING, None, False),
            ("layers", 2, field.TYPE_MESSAGE, "V1LayerParameter", True),
            ("layer", 100, field.TYPE_MESSAGE, "LayerParameter", True),
        ],
    }
    for message, fields in tables.items():
        entry = file.message_type.add(name=message)
        for name, number, kind, type_name, repeated in fields:
            made = entry.field.add(name=name, number=number, type=kind)
            made.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            if type_name:
                made.type_name = f".caffe_test.{type_name}"
            elif repeated and name in ("dim", "data"):
                made.options.packed = True
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe_test.NetParameter"))


def test_protobuf_reads_what_is_written():
    weight = np.random.default_rng(0).normal(size=(300, 2, 3, 3)).astype(np.float32)
    scale = np.full(5, 0.01, np.float32)
    blobs = {"conv1_1.weight": weight, "conv1_1.bias": np.arange(300, dtype=np.float32),
             "upscore2.weight": weight[:2], "scale_pool4.weight": scale}  # fmt: skip
    net = protobuf_net().FromString(serialize_caffemodel("caffe-fcn/x", blobs))
    assert net.name == "caffe-fcn/x"
    assert [(layer.name, layer.type) for layer in net.layer] == [
        ("conv1_1", "Convolution"), ("upscore2", "Deconvolution"), ("scale_pool4", "Scale"),
    ]  # fmt: skip
    first, bias = net.layer[0].blobs
    assert list(first.shape.dim) == [300, 2, 3, 3]
    assert list(bias.shape.dim) == [300]
    np.testing.assert_array_equal(np.array(first.data, np.float32), weight.ravel())


def test_what_protobuf_writes_is_read():
    """Of 2014, too: layers of the first kind, and four numbers for a shape."""
    net = protobuf_net()()
    net.name = "VGG_ILSVRC_16_layers"
    layer = net.layers.add(name="fc6", type=14)
    layer.blobs_lr.extend([1, 2])
    layer.blobs.add(num=1, channels=1, height=4, width=6, data=range(24))
    layer.blobs.add(num=1, channels=1, height=1, width=4, data=range(4))
    net.layers.add(name="relu6", type=18)
    conv = net.layers.add(name="conv1_1", type=4)
    conv.blobs.add(num=2, channels=1, height=1, width=1, data=[5, 6])
    blobs = parse_caffemodel(net.SerializeToString())
    shapes = {name: blob.shape for name, blob in blobs.items()}
    assert shapes == {"fc6.weight": (4, 6), "fc6.bias": (4,), "conv1_1.weight": (2, 1, 1, 1)}
    np.testing.assert_array_equal(blobs["fc6.weight"].ravel(), np.arange(24))


CONTENT = serialize_caffemodel(
    "net", {"fc6.weight": np.ones((4, 6), np.float32), "fc6.bias": np.zeros(4, np.float32)}
)


@given(st.integers(0, len(CONTENT) - 1), st.binary(max_size=3))
def test_a_cut_or_changed_file_is_read_or_refused(position: int, replacement: bytes):
    for content in (
        CONTENT[:position],
        CONTENT[:position] + replacement + CONTENT[position + len(replacement) :],
        replacement + CONTENT,
    ):
        try:
            blobs = parse_caffemodel(content)
        except PerpixelError:
            continue
        assert all(blob.dtype == np.float32 for blob in blobs.values())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (CONTENT[:-3], "cut short"),
        (b"", "empty"),
        (b"\n\x03net", "no layer with weights"),
        (b"\xff" * 40, "corrupt"),
    ],
)
def test_a_broken_caffemodel_is_named(tmp_path: Path, content: bytes, says: str):
    (tmp_path / "net.caffemodel").write_bytes(content)
    with pytest.raises(PerpixelError, match=rf"net\.caffemodel: .*{says}"):
        convert(tmp_path / "net.caffemodel", tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


def test_initial_weights_from_vgg_16(tmp_path: Path):
    """Fully connected layers become convolutions; by Caffe's names and by torchvision's."""
    spec = MODELS["32s"]
    state = to_state_dict(random_model(spec), toolkit="caffe")
    blobs = {name: tensor.numpy() for name, tensor in state.items() if name.startswith("conv")}
    blobs |= {
        "fc6.weight": state["fc6.weight"].flatten(1).numpy(), "fc6.bias": state["fc6.bias"].numpy(),
        "fc7.weight": state["fc7.weight"].flatten(1).numpy(), "fc7.bias": state["fc7.bias"].numpy(),
        "fc8.weight": np.ones((10, 4), np.float32),
    }  # fmt: skip
    (tmp_path / "vgg.caffemodel").write_bytes(serialize_caffemodel("VGG", blobs))
    indices = iter((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28))
    theirs = {}
    for name in blobs:
        if name.startswith("conv") and name.endswith("weight"):
            index = next(indices)
            for kind in ("weight", "bias"):
                theirs[f"features.{index}.{kind}"] = state[f"{name.rpartition('.')[0]}.{kind}"]
    for index, layer in ((0, "fc6"), (3, "fc7")):
        for kind in ("weight", "bias"):
            theirs[f"classifier.{index}.{kind}"] = torch.from_numpy(blobs[f"{layer}.{kind}"])
    torch.save(theirs, tmp_path / "vgg.pth")
    for file in ("vgg.caffemodel", "vgg.pth"):
        model = build(spec, num_classes=21)
        initial = zoo.initial_weights(small_recipe(spec), tmp_path / file)
        lines = load_pretrained(model, initial, class_names=CLASSES.names)
        assert "30 of 33 tensors" in lines[0]
        assert ("fc8.weight" in " ".join(lines)) == (file == "vgg.caffemodel")
        again = to_state_dict(model, toolkit="caffe")
        assert all(
            torch.equal(again[name], state[name])
            for name in state
            if name.startswith(("conv", "fc"))
        )


def test_a_stage_starts_from_the_one_before(tmp_path: Path, classes):
    fcn32s = random_model(MODELS["32s"])
    path = tmp_path / "fcn32s.safetensors"
    recipe = small_recipe(MODELS["32s"])
    write_checkpoint(path, Checkpoint(recipe, **classes, weights=fcn32s.state_dict()))
    fcn16s = build(MODELS["16s"], num_classes=21).eval()
    initial = zoo.initial_weights(small_recipe(MODELS["16s"]), path)
    lines = load_pretrained(fcn16s, initial, class_names=CLASSES.names)
    assert "32 of 36 tensors" in lines[0]
    assert "freshly initialized, 4 tensors: head.skips.0.weight" in lines[1]
    images = torch.randn(1, 3, 50, 70)
    with torch.inference_mode():  # pool4's scores are 0 as yet: the same but for the upsampling
        before, after = fcn32s(images).logits, fcn16s(images).logits
    assert before.abs().max() > 0.05
    assert (before - after).abs().max() < 0.5 * before.abs().max()


def test_a_stage_starts_from_a_published_file(tmp_path: Path):
    """Which names no classes: as many outputs as the recipe's data set has are taken for its."""
    state = to_state_dict(random_model(MODELS["32s"]), toolkit="caffe")
    blobs = {name: tensor.numpy() for name, tensor in state.items()}
    (tmp_path / "fcn32s.caffemodel").write_bytes(serialize_caffemodel("fcn32s", blobs))
    torch.save(state, tmp_path / "fcn32s.pth")
    for file in ("fcn32s.caffemodel", "fcn32s.pth"):
        model = build(MODELS["16s"], num_classes=21)
        initial = zoo.initial_weights(small_recipe(MODELS["16s"]), tmp_path / file)
        lines = " ".join(load_pretrained(model, initial, class_names=CLASSES.names))
        assert torch.equal(model.head.classifier.weight, state["score_fr.weight"])
        assert "input is another" not in lines
    nyud = small_recipe(MODELS["16s"], "caffe-fcn/nyud-fcn32s-color")
    initial = zoo.initial_weights(nyud, tmp_path / "fcn32s.pth")  # 21 outputs, and 40 classes there
    model = build(MODELS["16s"], num_classes=40)
    assert "starts anew" in " ".join(load_pretrained(model, initial, class_names=("a",) * 40))


def test_what_is_no_vgg_16(tmp_path: Path):
    state = to_state_dict(random_model(MODELS["32s"]), toolkit="caffe")
    trunk = {name: tensor for name, tensor in state.items() if name.startswith(("conv", "fc"))}
    vgg19 = {**trunk, "conv3_4.weight": torch.zeros(8, 8, 3, 3), "conv3_4.bias": torch.zeros(8)}
    keras = {
        name: tensor.permute(2, 3, 1, 0).contiguous() if tensor.ndim == 4 else tensor
        for name, tensor in trunk.items()
    }
    for name, weights in (("vgg19", vgg19), ("keras", keras)):
        torch.save(weights, tmp_path / f"{name}.pth")
        initial = zoo.initial_weights(small_recipe(MODELS["32s"]), tmp_path / f"{name}.pth")
        model = build(MODELS["32s"], num_classes=21)
        with pytest.raises(PerpixelError, match=r"do not fit the recipe's backbone in \d+ places"):
            load_pretrained(model, initial, class_names=CLASSES.names)


def test_contradictions_are_refused(tmp_path: Path):
    state = to_state_dict(random_model(MODELS["8s"]), toolkit="caffe")
    blobs = {name: tensor.numpy() for name, tensor in state.items()}
    (tmp_path / "8s.caffemodel").write_bytes(serialize_caffemodel("x" * 60, blobs))
    out = tmp_path / "out.safetensors"
    with pytest.raises(UsageError, match="holds the layers of a staged FCN-8s"):
        convert(tmp_path / "8s.caffemodel", out, variant="atonce")
    convert(tmp_path / "8s.caffemodel", out, dataset="pascal_voc")  # a name of 60 bytes, "<"
    with pytest.raises(UsageError, match="a threshold is not for the original FCN"):
        convert(tmp_path / "8s.caffemodel", out, threshold=0.5)
    odd = Model(backbone=SMALL, head=FCNSkip(skip_scales=(0.5, 0.25)))
    with pytest.raises(PerpixelError, match="scales of its own"):
        to_state_dict(random_model(odd), toolkit="caffe")
    with pytest.raises(UsageError, match="models with a ResNet, and this model's backbone is VGG"):
        to_state_dict(random_model(MODELS["8s"]), toolkit="mmseg")


def test_the_mean_is_that_of_the_data_set(tmp_path: Path):
    state = to_state_dict(random_model(MODELS["32s"], classes=33), toolkit="caffe")
    torch.save(state, tmp_path / "siftflow.pth")
    convert(tmp_path / "siftflow.pth", tmp_path / "out.safetensors", dataset="siftflow")
    recipe = read_checkpoint(tmp_path / "out.safetensors").recipe
    assert recipe.input == perpixel.recipe("caffe-fcn/siftflow-fcn32s").input


@pytest.mark.parametrize("name", ["voc-fcn16s", "voc-fcn8s", "pascalcontext-fcn8s"])
def test_a_stage_without_the_one_before_is_refused(name: str):
    with pytest.raises(UsageError, match=r"starts from a run or checkpoint of FCN-(32|16)s"):
        zoo.initial_weights(perpixel.recipe(f"caffe-fcn/{name}"), None)
    assert zoo.initial_weights(perpixel.recipe(f"caffe-fcn/{name}"), "none") is None


@pytest.mark.parametrize("name", ["voc-fcn32s", "voc-fcn8s-atonce", "voc-fcn-alexnet"])
def test_imagenet_weights_without_a_hash_are_not_downloaded(name: str):
    with pytest.raises(
        UsageError, match=r"no published sha256.*get http\S+caffemodel.*--init none"
    ):
        zoo.initial_weights(perpixel.recipe(f"caffe-fcn/{name}"), None)


def test_published_files_are_fetched_and_checked(tmp_path: Path, monkeypatch):
    """Of the recipe's own size: weights of a hundredth fit it not, and that is said."""
    state = to_state_dict(random_model(MODELS["8s"]), toolkit="caffe")
    blobs = {name: tensor.numpy() for name, tensor in state.items()}
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    content = serialize_caffemodel("fcn", blobs)
    for name in ("fcn8s-heavy-pascal", "fcn32s-heavy-pascal"):
        (mirror / f"{name}.caffemodel").write_bytes(content)
    monkeypatch.setenv("PERPIXEL_MIRROR", str(mirror))
    monkeypatch.setenv("PERPIXEL_CACHE", str(tmp_path / "cache"))
    with pytest.raises(PerpixelError, match="sha1"):
        zoo.fetch("caffe-fcn/voc-fcn8s")
    with pytest.raises(PerpixelError, match=r"stride: 32 -> 8(.|\n)*publishes no hash"):
        zoo.fetch("caffe-fcn/voc-fcn32s")
