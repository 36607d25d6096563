"""Fetching published weights: small stand-ins, served from a folder and on loopback."""

import functools
import hashlib
import http.server
import io
import json
import pickle
import threading
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

import perpixel
from perpixel.checkpoints import zoo
from perpixel.cli import zoo as command
from perpixel.conversion import to_state_dict
from perpixel.data.datasets.camvid import CLASSES
from perpixel.errors import PerpixelError, UsageError
from perpixel.recipes import _ALL, shipped
from perpixel.recipes.models import CustomBackbone
from perpixel.recipes.shipped import SHIPPED
from perpixel.training.pretrained import load_pretrained

NAME = "mmseg/small"


def stand_in(*settings: str) -> perpixel.Recipe:
    small = (
        f"name={NAME}",
        "data.name=camvid",
        "inference.base_size=null",
        "model.head.channels=8",
        "model.aux_head.channels=8",
        "model.align_corners=true",
    )
    source = perpixel.recipe("mmseg/fcn_r18-d8_512x1024_80k_cityscapes")
    return perpixel.override(source, [*small, *settings])


def content(recipe: perpixel.Recipe) -> bytes:
    """A file as mmsegmentation writes it, with names of its own and a wrong auxiliary head."""
    wrong = perpixel.override(recipe, ["model.aux_head.num_classes=19"])
    state = to_state_dict(perpixel.build(wrong, num_classes=len(CLASSES)), toolkit="mmseg")
    names = [f"class {index}" for index in range(len(CLASSES))]
    buffer = io.BytesIO()
    torch.save({"meta": {"CLASSES": names}, "state_dict": state}, buffer)
    return buffer.getvalue()


@pytest.fixture
def mirror(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("PERPIXEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PERPIXEL_MIRROR", str(tmp_path / "mirror"))
    (tmp_path / "mirror").mkdir()
    return tmp_path / "mirror"


def publish(mirror: Path, monkeypatch, *, hashed: bool = True, corrupt: bool = False) -> Path:
    """Puts the stand-in's file into the mirror, and its recipe among the others."""
    data = content(stand_in())
    sha8 = hashlib.sha256(data).hexdigest()[:8]
    file = mirror / (f"small_20201225-{sha8}.pth" if hashed else "small_train.pth")
    file.write_bytes(data[:5000] if corrupt else data)
    url = f"https://far.invalid/v0.5/{file.name}"
    monkeypatch.setitem(_ALL, NAME, stand_in(f"published.weights_url={url}"))
    return file


def test_a_fetched_recipe_is_a_model(mirror, monkeypatch, mini, capsys):
    publish(mirror, monkeypatch)
    with pytest.raises(PerpixelError, match=f"perpixel zoo fetch {NAME}"):
        perpixel.load(NAME)
    command.zoo(["fetch", NAME])
    assert "Verified by the sha256" in capsys.readouterr().out
    model = perpixel.load(NAME)
    assert model.class_names == CLASSES.names  # the data set's, not the file's
    assert model.recipe.model.align_corners
    assert model.recipe.model.aux_head.num_classes == 19
    assert perpixel.evaluate(NAME, data=mini).images == 3


def test_without_a_published_hash_it_is_said(mirror, monkeypatch, capsys):
    file = publish(mirror, monkeypatch, hashed=False)
    command.zoo(["fetch", NAME])
    output = capsys.readouterr().out
    assert "Not verified" in output
    assert hashlib.sha256(file.read_bytes()).hexdigest() in output


def test_it_can_be_written_elsewhere(mirror, monkeypatch, tmp_path):
    publish(mirror, monkeypatch)
    out = tmp_path / "here.safetensors"
    command.zoo(["fetch", NAME], out=out)
    assert perpixel.load(out).class_names == CLASSES.names
    assert not zoo.fetched_path(NAME).exists()


@pytest.mark.parametrize(
    ("hashed", "says"), [(True, "corrupt on the way"), (False, "delete it to download it again")]
)
def test_a_damaged_file_is_no_model(mirror, monkeypatch, hashed, says):
    publish(mirror, monkeypatch, hashed=hashed, corrupt=True)
    with pytest.raises(PerpixelError, match=says):
        zoo.fetch(NAME)
    assert not zoo.fetched_path(NAME).exists()


def test_another_network_is_refused(mirror, monkeypatch):
    publish(mirror, monkeypatch)
    wider = perpixel.override(_ALL[NAME], ["model.head.channels=16"])
    monkeypatch.setitem(_ALL, NAME, wider)
    with pytest.raises(PerpixelError, match=r"model\.head\.channels: 16 -> 8"):
        zoo.fetch(NAME)
    assert not zoo.fetched_path(NAME).exists()


def test_from_a_server(mirror, monkeypatch):
    file = publish(mirror, monkeypatch)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=mirror)
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *words: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.delenv("PERPIXEL_MIRROR")
        url = f"http://127.0.0.1:{server.server_port}/{file.name}"
        monkeypatch.setitem(_ALL, NAME, stand_in(f"published.weights_url={url}"))
        fetched = zoo.fetch(NAME)
        server.shutdown()
    assert fetched.verified
    assert zoo.find(NAME).recipe == perpixel.override(_ALL[NAME], ["model.aux_head.num_classes=19"])


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "backbone.",
        "module.backbone.",
        "_orig_mod.backbone.",
        "encoder.",  # segmentation_models_pytorch
        "model._fsdp_wrapped_module.",
    ],
)
@pytest.mark.parametrize("classifier", [None, "fc", "head.fc", "decoder.blocks.0.conv1"])
def test_imagenet_files_start_a_training(tmp_path, prefix, classifier):
    """mmpretrain's, which say backbone., and those of torchvision, timm and older mmcls."""
    path, recipe = tmp_path / "resnet.pth", stand_in()
    model = perpixel.build(recipe, num_classes=len(CLASSES))
    backbone = {f"backbone.{name}": value for name, value in model.backbone.state_dict().items()}
    state = {prefix + name.removeprefix("backbone."): value for name, value in backbone.items()}
    if classifier is not None:
        state[f"{classifier}.weight"] = torch.zeros(10, 512)
        state[f"{classifier}.bias"] = torch.zeros(10)
    torch.save({"meta": {}, "state_dict": state}, path)
    initial = zoo.initial_weights(recipe, path)
    assert initial is not None
    assert initial.weights.keys() == backbone.keys()
    assert all(torch.equal(initial.weights[name], backbone[name]) for name in backbone)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert initial.origin == f"resnet.pth (sha256 {digest})"
    said = f"left out of it, 2 tensors: {classifier}.weight, {classifier}.bias"
    assert list(initial.lines) == ([] if classifier is None else [said])


def test_a_state_dict_of_our_own_names_starts_a_backbone(tmp_path):
    """As a training loop of one's own saves it."""
    recipe = stand_in()
    state = perpixel.build(recipe, num_classes=11).state_dict()
    torch.save({"epoch": 3, "model_state_dict": state, "optimizer": {}}, tmp_path / "own.pt")
    initial = zoo.initial_weights(recipe, tmp_path / "own.pt")
    assert initial is not None
    assert initial.weights.keys() == {name for name in state if name.startswith("backbone.")}
    assert "left out of it, 28 tensors: head.convs.0.0.weight" in initial.lines[0]


def test_another_toolkits_file_is_no_model_yet(tmp_path):
    torch.save({}, tmp_path / "theirs.pth")
    with pytest.raises(UsageError, match=r"theirs\.pth: .*`perpixel convert .*theirs\.pth OUT"):
        perpixel.load(tmp_path / "theirs.pth")


class Stages(torch.nn.Module):
    """Named as timm's ConvNeXt is, when it gives features."""

    out_channels = (4, 4)

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.ModuleDict(
            {"stem_0": torch.nn.Conv2d(3, 4, 3, 4), "stages_0": torch.nn.Conv2d(4, 4, 3, 2, 1)}
        )

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        first = self.body["stem_0"](images)
        return [first, self.body["stages_0"](first)]


class Staged(CustomBackbone):
    type: Literal["staged"] = "staged"

    def build(self) -> torch.nn.Module:
        return Stages()


@pytest.mark.parametrize("prefix", ["", "module.", "net.encoder."])
def test_a_plain_file_of_another_backbone_starts_a_training(tmp_path, prefix):
    """timm's files say stem.0 and stages.0, and have a classifier."""
    model = stand_in().model.model_copy(update={"backbone": Staged(), "aux_head": None})
    recipe = stand_in().model_copy(update={"model": model})
    names = ("stem.0.weight", "stem.0.bias", "stages.0.weight", "stages.0.bias")
    shapes = ((4, 3, 3, 3), (4,), (4, 4, 3, 3), (4,))
    state = {
        f"{prefix}{name}": torch.rand(shape) for name, shape in zip(names, shapes, strict=True)
    }
    torch.save(state | {"head.fc.weight": torch.zeros(9, 4)}, tmp_path / "convnext.pth")
    initial = zoo.initial_weights(recipe, tmp_path / "convnext.pth")
    assert initial is not None
    assert initial.lines == ("left out of it, 1 tensor: head.fc.weight",)
    lines = load_pretrained(
        built := perpixel.build(recipe, num_classes=3), initial, class_names=("a", "b", "c")
    )
    assert torch.equal(built.backbone.body["stages_0"].weight, state[f"{prefix}stages.0.weight"])
    assert "4 of " in lines[0]
    del state[f"{prefix}stages.0.bias"]
    torch.save(state, tmp_path / "cut.pth")
    initial = zoo.initial_weights(recipe, tmp_path / "cut.pth")
    with pytest.raises(
        PerpixelError, match=r"cut\.pth .*do not fit .*\n  missing body\.stages_0\.bias"
    ):
        load_pretrained(built, initial, class_names=("a", "b", "c"))
    twice = {f"{ema}{name}": value for name, value in state.items() for ema in ("", "ema.")}
    torch.save(twice, tmp_path / "twice.pth")
    with pytest.raises(PerpixelError, match=r"twice\.pth: its names are those of 2 models"):
        zoo.initial_weights(recipe, tmp_path / "twice.pth")
    torch.save({"conv.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(PerpixelError, match=r"other\.pth: no weights of the backbone in it"):
        zoo.initial_weights(recipe, tmp_path / "other.pth")


def test_caffes_imagenet_files_do_not(tmp_path):
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"model": {"conv1_w": np.ones(3), "fc1000_w": np.ones(3)}}))
    with pytest.raises(
        PerpixelError, match=r"R-50\.pkl: no weights .* begin with conv1_w, fc1000_w"
    ):
        zoo.initial_weights(stand_in(), path)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("pytorch-auto-drive/fcn_resnet101_cityscapes_256x512", "Open https://drive.google.com"),
        ("sssegmentation-legacy/fcn_resnet50os8_voc", "publishes no weights"),
        ("camvid/fcn_r18-d8", "publishes no weights"),
    ],
)
def test_what_cannot_be_fetched(mirror, name, says):
    with pytest.raises(PerpixelError, match=says):
        zoo.fetch(name)


def test_wrong_commands(mirror):
    with pytest.raises(UsageError, match="Did you mean"):
        command.zoo(["fetch", "mmseg/fcn_r50-d8_512x1024_40k_cityscape"])
    with pytest.raises(UsageError, match="zoo fetch NAME --out"):
        command.zoo(["mmseg/*"], out=Path("x"))


def test_the_table_prints_what_the_sources_print(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    command.zoo(["mmseg/*"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 26 + 37  # on ResNets, on backbones of timm
    first = "mmseg/fcn_r50-d8_512x1024_40k_cityscapes FCN R-50-D8 deep 512x1024 40000 x 8 published"
    assert " ".join(lines[1].split()) == f"{first} 5.7 4.17 72.25 73.36"


@pytest.mark.parametrize(
    ("name", "backbone"),
    [
        ("camvid/fcn_mobilenetv2-d8", "mobilenetv2_100-D8"),
        ("mmseg/fcn_hr18_512x512_20k_voc12aug", "hrnet_w18.ms_aug_in1k"),
        ("caffe-fcn/siftflow-fcn8s", "VGG-16"),
        ("camvid/semantic_fpn_r18", "R-18-D32"),
    ],
)
def test_the_table_leaves_the_usual_output_stride_out_of_names(name, backbone, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    command.zoo([name])
    assert backbone in capsys.readouterr().out.split()


SHIPPED_NAME = "camvid/fast"


def test_shipped_weights_are_the_repositorys_in_a_checkout(mirror, capsys, tmp_path):
    """Nothing is downloaded: the mirror is empty."""
    found = zoo.find(SHIPPED_NAME)
    assert found.origin == Path(__file__).parents[2] / SHIPPED[SHIPPED_NAME].path
    assert found.class_names == CLASSES.names
    command.zoo(["fetch", SHIPPED_NAME], out=tmp_path / "copy.safetensors")
    assert "started from ImageNet weights" in capsys.readouterr().out
    assert zoo.find(tmp_path / "copy.safetensors").recipe == found.recipe
    command.zoo([SHIPPED_NAME], as_json=True)
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["shipped"], row["weights_url"]) == (True, SHIPPED[SHIPPED_NAME].url)


def test_weights_that_shipped_once_are_replaced_and_that_is_said(mirror, capsys):
    assert zoo.find("camvid/semantic_fpn_r18").recipe == zoo.find(SHIPPED_NAME).recipe
    assert "camvid/fast, which has, is used" in capsys.readouterr().err


def test_an_installed_package_downloads_shipped_weights_once(mirror, monkeypatch, tmp_path):
    requests = []

    class Release(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            content = (Path(__file__).parents[2] / SHIPPED[SHIPPED_NAME].path).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    monkeypatch.setattr(zoo, "_REPOSITORY", tmp_path / "site-packages")
    monkeypatch.delenv("PERPIXEL_MIRROR")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Release) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(shipped, "RELEASES", f"http://127.0.0.1:{server.server_port}/download")
        first, second = zoo.find(SHIPPED_NAME), zoo.find(SHIPPED_NAME)
        server.shutdown()
    assert requests == ["/download/v0.3.0/camvid_fast.safetensors"]
    assert first.origin == second.origin == tmp_path / "cache/camvid_fast.safetensors"


def test_shipped_weights_that_differ_are_no_model(mirror, monkeypatch, tmp_path):
    own = tmp_path / "site-packages" / SHIPPED[SHIPPED_NAME].path
    for path in (own, mirror / SHIPPED[SHIPPED_NAME].file):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    monkeypatch.setattr(zoo, "_REPOSITORY", tmp_path / "site-packages")
    with pytest.raises(
        PerpixelError, match=r"v0\.3\.0/camvid_\S+: the downloaded file has the sha"
    ):
        zoo.find(SHIPPED_NAME)
