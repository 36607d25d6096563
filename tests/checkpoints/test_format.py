import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import perpixel
from perpixel.checkpoints import zoo
from perpixel.checkpoints.format import (
    Checkpoint,
    load_strictly,
    model_from_checkpoint,
    read_checkpoint,
    read_tensors,
    write_checkpoint,
    write_tensors,
)
from perpixel.errors import PerpixelError, UsageError
from perpixel.io.atomic import atomic_write

RECIPE = perpixel.override(
    perpixel.recipe("camvid/fcn_r18-d8"),
    ["model.head.channels=8", "input.mean=[103.53, 116.28, 123.675]", "input.std=[1, 1, 1]",
     "input.channel_order=bgr"],
)  # fmt: skip
NAMES, PALETTE = ("a", "b"), ((1, 2, 3), (4, 5, 6))


@pytest.fixture
def checkpoint() -> Checkpoint:
    model = perpixel.build(RECIPE, num_classes=2)
    return Checkpoint(RECIPE, NAMES, PALETTE, model.state_dict(), step=7)


def test_what_is_written_is_read(checkpoint: Checkpoint, tmp_path):
    path = tmp_path / "deep" / "model.safetensors"
    write_checkpoint(path, checkpoint)
    found = read_checkpoint(path)
    assert (found.recipe, found.class_names, found.palette, found.step) == (
        RECIPE,
        NAMES,
        PALETTE,
        7,
    )
    assert found.weights.keys() == checkpoint.weights.keys()
    for name, tensor in checkpoint.weights.items():
        assert torch.equal(found.weights[name], tensor)
        assert found.weights[name].dtype == tensor.dtype
    assert not model_from_checkpoint(found).training
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]


def test_every_kind_of_tensor_is_what_the_library_reads(tmp_path):
    path = tmp_path / "all.safetensors"
    tensors = {
        str(dtype): torch.arange(6).reshape(2, 3).to(dtype)
        for dtype in (
            torch.bool, torch.uint8, torch.int32, torch.int64,
            torch.float16, torch.bfloat16, torch.float32, torch.float64,
        )
    }  # fmt: skip
    tensors |= {"scalar": torch.tensor(0.5), "none": torch.empty(0, 3), "Maß": torch.ones(5).bool()}
    tensors |= {"strided": torch.randn(5)[::5], "of one": torch.zeros(()).expand(1)}
    tensors["channels last"] = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    write_tensors(path, tensors, {"said": '"as\u00e9"'})
    found = load_file(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    header, _ = read_tensors(path)
    assert header["said"] == '"as\u00e9"'


def test_a_pipe_is_written_to():
    reading, writing = os.pipe()
    atomic_write(Path(f"/proc/self/fd/{writing}"), b"one ", b"two")
    assert os.read(reading, 100) == b"one two"
    os.close(reading)
    os.close(writing)


def test_every_mismatch_is_listed_at_once(checkpoint: Checkpoint):
    weights = dict(checkpoint.weights)
    weights["extra.weight"] = torch.zeros(2)
    del weights["head.classifier.bias"]
    weights["head.classifier.weight"] = torch.zeros(3, 8, 1, 1)
    with pytest.raises(PerpixelError) as caught:
        load_strictly(perpixel.build(RECIPE, num_classes=2), weights)
    for part in (
        "extra.weight [2]",
        "missing head.classifier.bias [2]",
        "[3, 8, 1, 1]",
        "3 places",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize("kept", [0, 5, 100, 100_000])
def test_a_truncated_file_is_named(checkpoint: Checkpoint, tmp_path, kept: int):
    path = tmp_path / "model.safetensors"
    write_checkpoint(path, checkpoint)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(PerpixelError, match=r"model\.safetensors: not a safetensors file"):
        read_checkpoint(path)


def test_foreign_files_are_explained(tmp_path):
    page = tmp_path / "page.safetensors"
    page.write_text("<html>Not found</html>")
    with pytest.raises(PerpixelError, match="not a safetensors file"):
        read_checkpoint(page)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"conv1.weight": torch.zeros(1)}, foreign)
    with pytest.raises(PerpixelError, match="perpixel convert"):
        read_checkpoint(foreign)
    newer = tmp_path / "newer.safetensors"
    save_file({}, newer, {"perpixel": json.dumps({"version": 99})})
    with pytest.raises(PerpixelError, match="version=99"):
        read_checkpoint(newer)
    for header in ("{", "[]", '{"version": 1}'):
        save_file({}, newer, {"perpixel": header})
        with pytest.raises(PerpixelError, match=r"newer\.safetensors"):
            read_checkpoint(newer)


def test_an_unwritable_place_is_named_and_nothing_is_left(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PerpixelError, match="cannot be written"):
        atomic_write(tmp_path / "file" / "below", b"x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(PerpixelError, match="cannot be written"):
        atomic_write(tmp_path / "folder", b"x")
    assert {p.name for p in tmp_path.iterdir()} == {"file", "folder"}


def test_models_are_found_by_folder_file_or_not_at_all(checkpoint: Checkpoint, tmp_path):
    best = tmp_path / "run" / "checkpoints" / "best.safetensors"
    write_checkpoint(best, checkpoint)
    assert zoo.find(best).step == zoo.find(tmp_path / "run").step == 7
    with pytest.raises(PerpixelError, match="is it a run folder"):
        zoo.find(tmp_path)
    with pytest.raises(PerpixelError, match="perpixel train"):
        zoo.find("camvid/fcn_r18-d8")
    with pytest.raises(UsageError, match="Did you mean camvid/fcn_r18-d8"):
        zoo.find("camvid/fcn_r18")
