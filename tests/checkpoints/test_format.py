import json
import os
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import perpixel
from perpixel.checkpoints import format, zoo
from perpixel.checkpoints.format import (
    Checkpoint,
    load_strictly,
    model_from_checkpoint,
    read_checkpoint,
    read_tensors,
    write_checkpoint,
    write_tensors,
)
from perpixel.errors import CorruptFileError, PerpixelError, UsageError

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
    loaded = read_checkpoint(path)
    assert (loaded.recipe, loaded.class_names) == (RECIPE, NAMES)
    assert (loaded.palette, loaded.step) == (PALETTE, 7)
    assert loaded.weights.keys() == checkpoint.weights.keys()
    for name, tensor in checkpoint.weights.items():
        assert torch.equal(loaded.weights[name], tensor)
        assert loaded.weights[name].dtype == tensor.dtype
    assert not model_from_checkpoint(loaded).training
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
    tensors["tied"] = tensors["strided"]
    write_tensors(path, tensors, {"key": '"as\u00e9"'})
    metadata, tensors_read = read_tensors(path)
    assert metadata["key"] == '"as\u00e9"'
    for loaded in (load_file(path), tensors_read):
        assert loaded.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert loaded[name].dtype == tensor.dtype
            assert torch.equal(loaded[name], tensor)


def test_every_flipped_bit_is_refused_or_changes_nothing(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(3, dtype=torch.int64)}
    write_tensors(path, tensors, {"perpixel-run": '{"step": 12}'})
    content = path.read_bytes()
    refused = 0
    for index in range(len(content)):
        flipped = bytearray(content)
        flipped[index] ^= 1 << index % 8
        path.write_bytes(flipped)
        try:
            metadata, loaded = read_tensors(path)
        except CorruptFileError:
            refused += 1
        else:  # padding between words of JSON, or the name of the checksum itself
            assert metadata["perpixel-run"] == '{"step": 12}'
            assert loaded.keys() == tensors.keys()
            assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    tensor_bytes = 6 * 4 + 3 * 8
    assert refused > len(content) - 40 > tensor_bytes
    path.write_bytes(content)
    assert read_tensors(path)[1].keys() == tensors.keys()


def test_checkpoints_of_version_0_1_are_read(tmp_path):
    path = tmp_path / "old.safetensors"
    save_file({"a": torch.ones(3)}, path, {"perpixel-sha256": "0" * 64, "perpixel-run": "{}"})
    metadata, tensors = read_tensors(path)
    assert metadata["perpixel-run"] == "{}"
    assert torch.equal(tensors["a"], torch.ones(3))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no such permissions")
def test_others_may_read_a_checkpoint(checkpoint: Checkpoint, tmp_path):
    before = os.umask(0o022)
    try:
        write_checkpoint(tmp_path / "model.safetensors", checkpoint)
    finally:
        os.umask(before)
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o644


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on files' sizes there")
def test_a_full_disk_leaves_the_old_checkpoint(checkpoint: Checkpoint, tmp_path):
    import resource

    path = tmp_path / "model.safetensors"
    write_tensors(path, {"a": torch.ones(3)}, {})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(
            PerpixelError, match=r"model\.safetensors: cannot be written \(File too"
        ):
            write_checkpoint(path, checkpoint)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert torch.equal(read_tensors(path)[1]["a"], torch.ones(3))


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


@pytest.mark.parametrize("size", [0, 5, 100, 100_000])
def test_a_truncated_file_is_named(checkpoint: Checkpoint, tmp_path, size: int):
    path = tmp_path / "model.safetensors"
    write_checkpoint(path, checkpoint)
    path.write_bytes(path.read_bytes()[:size])
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


def test_too_little_memory_is_no_corrupt_file(tmp_path, monkeypatch):
    """A checkpoint that is whole must not be put aside for it."""
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.ones(2)}, {})

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(format, "safe_open", fails)
    with pytest.raises(RuntimeError, match="allocate"):
        read_tensors(path)
