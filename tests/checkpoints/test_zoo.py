"""Fetching published weights: small stand-ins, served from a folder and on loopback."""

import functools
import hashlib
import http.server
import io
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import perpixel
from perpixel.checkpoints import zoo
from perpixel.cli import zoo as command
from perpixel.conversion import to_state_dict
from perpixel.data.datasets.camvid import CLASSES
from perpixel.errors import PerpixelError, UsageError
from perpixel.recipes import _ALL

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


@pytest.mark.parametrize("prefix", ["", "backbone.", "module.backbone.", "_orig_mod.backbone."])
@pytest.mark.parametrize("classifier", [None, "fc", "head.fc"])
def test_imagenet_files_start_a_training(tmp_path, prefix, classifier):
    """mmpretrain's, which say backbone., and those of torchvision and older mmcls, which do not."""
    path, recipe = tmp_path / "resnet.pth", stand_in()
    model = perpixel.build(recipe, num_classes=len(CLASSES))
    backbone = {f"backbone.{name}": value for name, value in model.backbone.state_dict().items()}
    state = {prefix + name.removeprefix("backbone."): value for name, value in backbone.items()}
    if classifier is not None:
        state[f"{classifier}.weight"] = torch.zeros(10, 512)
        state[f"{classifier}.bias"] = torch.zeros(10)
    torch.save({"meta": {}, "state_dict": state}, path)
    weights = zoo.initial_weights(recipe, path)
    assert weights is not None
    assert weights.keys() == backbone.keys()
    assert all(torch.equal(weights[name], backbone[name]) for name in backbone)


def test_caffes_imagenet_files_do_not(tmp_path):
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"model": {"conv1_w": np.ones(3), "fc1000_w": np.ones(3)}}))
    with pytest.raises(PerpixelError, match=r"R-50\.pkl: .*torchvision's or open-mmlab's names"):
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


def test_the_table_prints_what_the_sources_print(capsys):
    command.zoo(["mmseg/*"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 27
    first = "mmseg/fcn_r50-d8_512x1024_40k_cityscapes FCN R-50-D8 deep 512x1024 40000 x 8"
    assert " ".join(lines[1].split()) == f"{first} 5.7 4.17 72.25 73.36"
