"""Toolkits' real file layouts, and files that are no checkpoint or a dangerous one."""

import os
import pickle
import subprocess
import sys
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from perpixel.conversion.files import read_source
from perpixel.errors import PerpixelError

STATE = OrderedDict({"a.weight": torch.arange(20_000.0).view(100, 200), "a.bias": torch.ones(2)})
ARRAYS = {name: tensor.numpy() for name, tensor in STATE.items()}
OPTIMIZER = {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}
NAMES, COLORS = ("road", "bed "), [[128, 64, 128], [0, 1, 2]]


class Poison:
    """Leaves the number of the process that unpickles it in a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return exec, (f"import os, pathlib; pathlib.Path({str(self.marker)!r}).write_text(str(os.getpid()))",)  # noqa: E501  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE, "meta": {"epoch": 3, "mmseg_version": "0.11.0"}},
        {"epoch": 60, "model": STATE, "optimizer": OPTIMIZER},
        {"cur_epoch": 1, "cur_iter": 2, "model": STATE, "model_ema": {}, "optimizer": OPTIMIZER},
        {"model": STATE, "optimizer": None, "lr_scheduler": None},
        {"model": STATE, "optimizer": OPTIMIZER, "scheduler": {}, "iteration": 89999},
    ],
    ids=["torchvision", "mmseg", "sssegmentation", "its newer", "auto-drive", "detectron2"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_layouts_of_torch_save(tmp_path: Path, content: dict, zipped: bool):
    path = tmp_path / "file.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    _holds_the_state(read_source(path).state)


@pytest.mark.parametrize(
    "meta",
    [
        {"CLASSES": NAMES, "PALETTE": COLORS},
        {"dataset_meta": {"classes": NAMES, "palette": COLORS}, "cfg": "model = dict()"},
    ],
    ids=["0.x", "1.x"],
)
def test_classes_of_mmseg(tmp_path: Path, meta: dict):
    path = tmp_path / "file.pth"
    torch.save({"meta": meta, "state_dict": STATE}, path)
    source = read_source(path)
    assert source.names == ("road", "bed")
    assert source.palette == ((128, 64, 128), (0, 1, 2))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickled_arrays(tmp_path: Path, protocol: int):
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": ARRAYS, "__author__": "x"}, protocol=protocol))
    _holds_the_state(read_source(path).state)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "value",
    [
        np.arange(6, dtype="f4").reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype="f8").reshape(2, 3)),
        np.arange(24, dtype="i8").reshape(2, 3, 4).transpose(1, 0, 2)[:, ::2],
        np.arange(6, dtype=">f8").reshape(2, 3),
        np.array([True, False]),
        np.zeros((), "f2"),
        np.float32(3),
        np.int64(-3),
    ],
    ids=["rows", "columns", "parts", "big-endian", "bool", "point", "float32", "int64"],
)
def test_every_pickled_array_is_what_numpy_reads(tmp_path: Path, value, protocol: int):
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": {"a": value, "b": value}}, protocol=protocol))
    expected = pickle.loads(pickle.dumps(value, protocol=protocol))
    for array in read_source(path).state.values():
        assert isinstance(array, type(value))
        assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(array, expected)


class Reduced:
    """Pickled as a call, and a state given to its result: as a forger may write them."""

    def __init__(self, *call: object) -> None:
        self.call = call

    def __reduce__(self):
        return self.call


def test_a_forged_pickle_is_given_no_pointers(tmp_path: Path):
    path = tmp_path / "forged.pkl"
    _, arguments, state = np.dtype([("a", "O")]).__reduce__()
    kind = Reduced(np.dtype, arguments, (*state[:-1], 0))  # "no field of this holds an object"
    array = Reduced(np.ndarray, ((1,), kind, b"A" * 8))
    path.write_bytes(pickle.dumps({"model": {"a": array}}, protocol=2))
    done = subprocess.run(  # a process of its own, as the pointer would end it
        [sys.executable, "-m", "perpixel", "convert", path, tmp_path / "out.safetensors"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "forged.pkl: this file holds more than tensors and plain values" in done.stderr


@pytest.mark.parametrize(
    "state",
    [
        (1, (1000,), np.dtype("f4"), False, b"A" * 8),
        (1, (-1, -2), np.dtype("f4"), False, b"A" * 8),
        (1, (2,), np.dtype("f4"), False, [1, 2]),
        (1, (2,), None, False, b"A" * 8),
    ],
)
def test_a_state_that_is_no_arrays_is_refused(tmp_path: Path, state: tuple):
    path = tmp_path / "forged.pkl"
    rebuild, arguments, _ = np.empty(0).__reduce__()
    path.write_bytes(pickle.dumps({"model": {"a": Reduced(rebuild, arguments, state)}}, protocol=2))
    with pytest.raises(PerpixelError, match=r"forged\.pkl: a corrupt file"):
        read_source(path)


def test_numpy_in_the_meta(tmp_path: Path):
    path = tmp_path / "file.pth"
    meta = {"best_score": np.float64(0.7), "PALETTE": np.array(COLORS, np.uint8)}
    torch.save({"meta": meta, "state_dict": STATE}, path)
    before = set(torch.serialization.get_safe_globals())
    source = read_source(path)
    _holds_the_state(source.state)
    assert source.palette == ((128, 64, 128), (0, 1, 2))
    assert set(torch.serialization.get_safe_globals()) == before
    torch.save({"meta": {"CLASSES": np.array(NAMES)}, "state_dict": STATE}, path)
    with pytest.raises(PerpixelError, match=r"Unsupported array dtype: U4.*--trust"):
        read_source(path)
    assert read_source(path, trust=True).state.keys() == STATE.keys()


@pytest.mark.parametrize(
    "palette",
    [None, [1, 2, 3], [[1, 2]] * 2, [[1, 2], [3]], [[1, 2, 300]], [[1, 2, -1]], [[0.5, 0, 0]], "x"],
)
def test_a_palette_that_is_none(tmp_path: Path, palette: object):
    torch.save({"meta": {"PALETTE": palette}, "state_dict": STATE}, tmp_path / "file.pth")
    assert read_source(tmp_path / "file.pth").palette is None


def test_safetensors(tmp_path: Path):
    path = tmp_path / "file.safetensors"
    save_file(dict(STATE), path)
    _holds_the_state(read_source(path).state)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    blanks = -(length - ord("<")) % 256  # so that the file begins as a web page does
    front = (length + blanks).to_bytes(8, "little")
    path.write_bytes(front + content[8 : 8 + length] + b" " * blanks + content[8 + length :])
    assert path.read_bytes().startswith(b"<")
    _holds_the_state(read_source(path).state)


@pytest.fixture
def with_message_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file as mmsegmentation 1.x saves them, read where mmengine is not installed."""
    module = types.ModuleType("mmengine.logging.history_buffer")
    module.HistoryBuffer = type("HistoryBuffer", (), {"__module__": module.__name__})
    for name in ("mmengine", "mmengine.logging", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    buffer = module.HistoryBuffer()
    buffer.history = np.ones(3)
    hub = {"log_scalars": OrderedDict(loss=buffer), "runtime_info": {"iter": 1}}
    meta = {"dataset_meta": {"classes": NAMES, "palette": COLORS}}
    torch.save({"meta": meta, "state_dict": STATE, "message_hub": hub}, tmp_path / "hub.pth")
    return tmp_path / "hub.pth"


def test_message_hub_is_refused_and_trusted(with_message_hub: Path):
    with pytest.raises(PerpixelError, match=r"hub\.pth: .*HistoryBuffer.*--trust"):
        read_source(with_message_hub)
    source = read_source(with_message_hub, trust=True)
    if sys.platform == "linux":  # Windows could not remove the file that was handed over
        assert "plain.pth" not in Path("/proc/self/maps").read_text()
    _holds_the_state(source.state)
    assert source.names == ("road", "bed")
    assert source.palette == ((128, 64, 128), (0, 1, 2))


@pytest.mark.parametrize("kind", ["torch", "pickle"])
def test_poison_never_runs_in_this_process(tmp_path: Path, kind: str):
    marker, path = tmp_path / "ran", tmp_path / "file.pth"
    content = {"model": STATE if kind == "torch" else ARRAYS, "args": Poison(marker)}
    if kind == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(PerpixelError, match=r"file\.pth: .*exec.*--trust"):
        read_source(path)
    assert not marker.exists()
    _holds_the_state(read_source(path, trust=True).state)
    assert int(marker.read_text()) != os.getpid()


def test_trusting_does_not_make_a_checkpoint(tmp_path: Path):
    path = tmp_path / "file.pth"
    torch.save(torch.nn.Linear, path)
    with pytest.raises(PerpixelError, match=r"file\.pth: .*holds type"):
        read_source(path, trust=True)


@pytest.mark.parametrize("key", [None, "model", "net"])
def test_a_whole_module_is_trusted_to_be_its_state_dict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str | None
):
    """Where its class can be imported; a script's own class cannot."""
    path = tmp_path / "file.pth"
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.BatchNorm2d(2))
    torch.save(net if key is None else {key: net, "epoch": 3, "ema": None}, path)
    with pytest.raises(PerpixelError, match=r"file\.pth: .*Sequential.*--trust"):
        read_source(path)
    state = read_source(path, trust=True).state
    assert state.keys() == net.state_dict().keys()
    assert torch.equal(state["0.weight"], net[0].weight)

    script = types.ModuleType("their_script")
    script.Net = type("Net", (torch.nn.Sequential,), {"__module__": script.__name__})
    monkeypatch.setitem(sys.modules, script.__name__, script)
    torch.save(script.Net() if key is None else {key: script.Net()}, path)
    with pytest.raises(PerpixelError, match=r"file\.pth: .*class has to be importable here"):
        read_source(path, trust=True)


def test_a_torchscript_program_is_named_and_trusted(tmp_path: Path):
    path = tmp_path / "file.pt"
    conv = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1))
    torch.jit.save(torch.jit.trace(conv, torch.zeros(1, 3, 2, 2)), path)
    with pytest.raises(PerpixelError, match=r"file\.pt: .*TorchScript.*--trust"):
        read_source(path)
    assert torch.equal(read_source(path, trust=True).state["0.weight"], conv[0].weight)


@pytest.mark.parametrize(
    ("content", "note"),
    [
        ({"state_dict": STATE, "ema_state_dict": {"module.a.weight": torch.ones(1)}}, "ema_state"),
        ({"state_dict_ema": {"a.b": torch.ones(1)}, "state_dict": STATE, "arch": "x"}, "_ema"),
        ({"network": STATE, "optimizer": OPTIMIZER, "amp": {"scale": 1.0}}, None),
        ({"ema": STATE, "model": None, "train_args": {"lr": 0.1}}, None),
        ({"module": STATE, "buffer_names": [], "dp_world_size": 2}, None),
        ({"my_best_weights": STATE}, None),
    ],
    ids=["mmengine", "timm", "network", "ultralytics", "deepspeed", "own"],
)
def test_the_state_dict_is_found_and_others_are_said(tmp_path: Path, content: dict, note):
    torch.save(content, tmp_path / "file.pth")
    source = read_source(tmp_path / "file.pth")
    _holds_the_state(source.state)
    assert bool(source.note) == (note is not None)
    assert (note or "") in source.note


@pytest.mark.parametrize("keys", [("student", "teacher"), ("net", "model"), ("encoder", "decoder")])
def test_of_several_state_dicts_none_is_guessed(tmp_path: Path, keys: tuple[str, str]):
    torch.save(dict.fromkeys(keys, STATE), tmp_path / "file.pth")
    with pytest.raises(
        PerpixelError, match=rf"file\.pth: it holds 2 state dicts: {', '.join(keys)}"
    ):
        read_source(tmp_path / "file.pth")


class Exit:
    """Ends the process that loads it, as if all were well."""

    def __reduce__(self) -> tuple[object, ...]:
        return exec, ("raise SystemExit(0)",)


def test_a_trusted_file_that_ends_its_process(tmp_path: Path):
    path = tmp_path / "file.pth"
    path.write_bytes(pickle.dumps({"model": ARRAYS, "args": Exit()}))
    with pytest.raises(PerpixelError, match=r"file\.pth: cannot be loaded.*: exit code 0"):
        read_source(path, trust=True)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle", "safetensors"])
@pytest.mark.parametrize("share", [0.0003, 0.01, 0.5, 0.999])
def test_a_truncated_file(tmp_path: Path, kind: str, share: float):
    path = tmp_path / "file.pth"
    match kind:
        case "zip":
            torch.save(STATE, path)
        case "legacy":
            torch.save(STATE, path, _use_new_zipfile_serialization=False)
        case "pickle":
            path.write_bytes(pickle.dumps(ARRAYS, protocol=2))
        case "safetensors":
            save_file(dict(STATE), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(PerpixelError, match=r"file\.pth: a corrupt file, perhaps cut short"):
        read_source(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\n<!DOCTYPE html><html></html>", "a web page"),
        (b'{"message": "Not Found"}', "neither a file of torch.save"),
        (b"version https://git-lfs.github.com/spec/v1", "neither a file of torch.save"),
        (pickle.dumps([1, 2]), "holds list"),
        (pickle.dumps({"epoch": 3, "weights": {}}), "no state dict in it, but epoch, weights"),
        (pickle.dumps({"state": {"model": ARRAYS}}), "no state dict in it, but state"),
        (pickle.dumps({}), "no state dict in it, but nothing"),
    ],
)
def test_no_checkpoint(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    with pytest.raises(PerpixelError, match=rf"file\.pth: .*{message}"):
        read_source(path, trust=True)


@pytest.mark.parametrize("name", ["camvid.onnx", "camvid.pt2"])
def test_an_exported_file_is_no_checkpoint(tmp_path: Path, name: str):
    path = tmp_path / name
    path.write_bytes(b"\x08\x0a")
    with pytest.raises(PerpixelError, match=rf"{name}: an exported file; name the run"):
        read_source(path)


def test_no_file(tmp_path: Path):
    with pytest.raises(PerpixelError, match=r"none\.pth: cannot be read \(No such file"):
        read_source(tmp_path / "none.pth")


def _holds_the_state(state: dict) -> None:
    assert set(state) == set(STATE)
    for name, value in state.items():
        np.testing.assert_array_equal(np.asarray(value), ARRAYS[name])
