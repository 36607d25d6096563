"""Reads the weight files of other toolkits without running code from them.

Unpickling runs any code that a file contains. So files of torch.save are read with
weights_only=True and pickles of NumPy arrays with an unpickler that knows nothing else; a file
that needs more is refused, or loaded in a separate process when the caller trusts it. NumPy's own
classes take any state from a pickle, pointers included: safe classes replace them.
"""

import io
import pickle
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import MAGIC_NUMBER

from perpixel.conversion.caffe import variant_of_caffemodel
from perpixel.conversion.caffemodel import parse_caffemodel
from perpixel.data.paths import first_few
from perpixel.errors import PerpixelError
from perpixel.recipes.base import Color

Palette = tuple[Color, ...]

_LEGACY = pickle.dumps(MAGIC_NUMBER, protocol=2)  # torch.save before 1.6


@dataclass(frozen=True)
class Source:
    """A file's weights by the toolkit's names, and the classes' names and colors if it has them.

    `note` says which state dict was taken where the file holds several, `variant` how an FCN-8s was
    trained where the file's kind shows it.
    """

    state: Mapping[str, Any]
    names: tuple[str, ...] | None = None
    palette: Palette | None = None
    note: str = ""
    variant: str | None = None


def read_source(path: Path, *, trust: bool = False) -> Source:
    """Reads the state dict of a toolkit's file, and its classes.

    It is a file of torch.save, a pickle of NumPy arrays, .npz, safetensors or .caffemodel. One that
    contains code, as a pickled module, is loaded only with `trust`, in a separate process. Raises
    PerpixelError naming the file.
    """
    try:
        match file_kind(path):
            case "safetensors":
                return Source(load_file(path))
            case "npz":
                with np.load(path, allow_pickle=False) as arrays:
                    return Source({_chainer_to_torch(name): arrays[name] for name in arrays})
            case "caffemodel":
                blobs = parse_caffemodel(path.read_bytes())
                return Source(blobs, variant=variant_of_caffemodel(blobs))
            case "torch":
                with torch.serialization.safe_globals(_SAFE):  # a score or a palette in its meta
                    return unpack(torch.load(path, map_location="cpu", weights_only=True))
            case "pickle":
                content = io.BytesIO(path.read_bytes())
                # Python 2 wrote detectron2's files.
                return unpack(_ArrayUnpickler(content, encoding="latin1").load())
    except PerpixelError as error:
        raise PerpixelError(f"{path}: {error}") from None
    except Exception as error:  # corrupt bytes can make an unpickler raise anything
        code = _foreign_code(error)
        if code is None:
            reason = str(error).strip().partition("\n")[0].partition(". ")[0]
            raise PerpixelError(
                f"{path}: a corrupt file, perhaps cut short in a download "
                f"({reason or type(error).__name__})"
            ) from None
    if trust:
        return _read_in_subprocess(path)
    raise PerpixelError(
        f"{path}: this file holds more than tensors and plain values ({code}), and loading it "
        f"could run any code it contains. If you trust its source, `perpixel convert --trust` "
        f"loads it in a separate process; or save its state dict alone where it was written"
    )


def _chainer_to_torch(name: str) -> str:
    """Returns the name of an array of chainer.serializers.save_npz as PyTorch has it."""
    layer, _, parameter = name.rpartition("/")
    return f"{layer}.{ {'W': 'weight', 'b': 'bias'}.get(parameter, parameter) }" if layer else name


def is_ours(path: Path) -> bool:
    """Returns whether the path is a perpixel checkpoint, or a folder, as a run's is."""
    if path.is_dir():
        return True
    try:
        with safe_open(path, framework="pt") as file:
            return "perpixel" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def file_kind(path: Path) -> Literal["safetensors", "torch", "npz", "pickle", "caffemodel"]:
    """Detects the format by the first bytes; raises PerpixelError for any other."""
    try:
        with path.open("rb") as file:
            head = file.read(256)
    except OSError as error:
        raise PerpixelError(f"cannot be read ({error.strerror})") from None
    if not head:
        raise PerpixelError("the file is empty")
    if path.suffix in {".onnx", ".pt2"}:
        raise PerpixelError(
            "an exported file; name the run or checkpoint that it was exported from"
        )
    if head[7:9] == b"\0{":  # after the header's length, whose first byte may be "<"
        return "safetensors"
    is_net = path.suffix == ".caffemodel" and b"<html" not in head.lower()
    if head.lstrip().startswith(b"<") and not is_net:  # whose name may be of 60 characters, "<"
        raise PerpixelError("a web page, not a checkpoint; the link leads to a page about the file")
    if head.startswith(b"PK\x03\x04"):  # a zip file: its first entry's name tells
        name = head[30 : 30 + int.from_bytes(head[26:28], "little")]
        return "npz" if name.endswith(b".npy") else "torch"
    if head.startswith(_LEGACY):
        return "torch"
    if head.startswith(b"\x80"):
        return "pickle"
    if is_net:
        return "caffemodel"
    raise PerpixelError(
        "neither a file of torch.save nor a pickle, .npz, safetensors or .caffemodel"
    )


def unpack(content: object) -> Source:
    """Finds the state dict in a file's content, which is it, or has it under some key.

    Of several the one under a usual key is taken, such as "state_dict" (mmsegmentation, Lightning,
    timm) or "model" (detectron2, sssegmentation), not its average ("model_ema", "ema_state_dict"),
    and the note says so. Raises PerpixelError where there is none, or it is not clear which of
    several is meant.
    """
    if not isinstance(content, dict):
        raise PerpixelError(f"holds {type(content).__name__}, not a dict of tensors")
    states = {str(key): value for key, value in content.items() if _is_state_dict(value, key)}
    if _is_state_dict(content):
        states = {"": content}
    if not states:
        raise PerpixelError(f"no state dict in it, but {first_few(content)}")
    keys = [key for key in states if len(states) == 1 or key in _USUAL_KEYS]
    if len(keys) != 1:
        raise PerpixelError(
            f"it holds {len(states)} state dicts: {', '.join(states)}. Save the one to use by "
            f"itself: torch.save(torch.load(FILE)[...], 'weights.pth')"
        )
    left = ", ".join(key for key in states if key != keys[0])
    note = f"The weights are the file's {keys[0]!r}; it also holds {left}." if left else ""
    meta = content.get("meta")
    names, palette = _classes(meta) if isinstance(meta, dict) else (None, None)
    return Source(states[keys[0]], names, palette, note)


_USUAL_KEYS = (
    "state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "weights",
)  # fmt: skip


def _is_state_dict(value: object, key: object = None) -> bool:
    """Returns whether a dict holds tensors under names with dots, or under any in a usual key.

    The state of an optimizer has neither.
    """
    if not isinstance(value, dict):
        return False
    tensors = [k for k, v in value.items() if isinstance(v, Tensor | np.ndarray | np.generic)]
    return bool(tensors) and (key in _USUAL_KEYS or any("." in str(name) for name in tensors))


def _read_in_subprocess(path: Path) -> Source:
    """Lets another process load the file and write a Source's fields to a safe one; reads that."""
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.pth"
        command = [sys.executable, "-m", "perpixel.conversion.trusted", str(path), str(plain)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        try:
            with torch.serialization.safe_globals(_SAFE):
                return Source(**torch.load(plain, weights_only=True))
        except (OSError, pickle.UnpicklingError) as error:  # the file's code may end the process
            reason = done.stderr.strip() or _foreign_code(error) or f"exit code {done.returncode}"
            raise PerpixelError(
                f"{path}: cannot be loaded even with --trust: {reason}. A module's class has to be "
                f"importable here; or save its state_dict() alone where it was written"
            ) from None


def _classes(meta: Mapping[str, Any]) -> tuple[tuple[str, ...] | None, Palette | None]:
    """Reads classes of mmsegmentation's meta: CLASSES and PALETTE, or 1.x's dataset_meta."""
    values = {str(key).lower(): value for key, value in meta.items()}
    dataset_meta = values.get("dataset_meta")
    if isinstance(dataset_meta, dict):
        values |= {str(key).lower(): value for key, value in dataset_meta.items()}
    names = values.get("classes")
    return (
        tuple(str(name).strip() for name in names) if isinstance(names, list | tuple) else None,
        _palette(values.get("palette")),
    )


def _palette(colors: object) -> Palette | None:
    """Returns the colors if each is three integers of 0 to 255, else None."""
    try:
        return TypeAdapter(Palette).validate_python(np.array(colors).tolist())
    except ValueError:  # of pydantic, and of NumPy for rows of several lengths
        return None


class _ForeignError(pickle.UnpicklingError):
    """Raised for a pickle that needs more than NumPy arrays and plain values."""


class _ArrayUnpickler(pickle.Unpickler):
    """Loads NumPy arrays, numbers, text, lists and dicts, and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        replacement = _ARRAYS.get((module.replace("numpy.core.", "numpy._core."), name))
        if replacement is None:
            raise _ForeignError(f"{module}.{name}")
        return replacement


def _encode(text: str, encoding: str) -> bytes:
    """Replaces _codecs.encode, by which protocol 2 stores Python 3's bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes stored as {encoding}")
    return text.encode("latin1")


class _DType:
    """Replaces numpy.dtype: numbers only, and only the byte order of the pickled state is used."""

    def __init__(self, name: str, *_: object) -> None:
        if not re.fullmatch(r"[fiub]\d{1,2}", name):
            raise pickle.UnpicklingError(f"Unsupported array dtype: {name}")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """Replaces numpy.ndarray: empty until its pickled state has been checked."""

    def __new__(cls, *_: object) -> "_Array":
        return super().__new__(cls, 0)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, content = state
        array = _frombuffer(content, dtype, shape, "F" if is_fortran else "C")
        super().__setstate__(array.__reduce__()[2])


def _frombuffer(content: Any, dtype: _DType, shape: Any, order: Any, axes: Any = None) -> Any:
    """Replaces NumPy's; copies the content, as a pickle could change that of a view later."""
    if isinstance(content, str):  # Python 2's bytes
        content = content.encode("latin1")
    flat = np.frombuffer(memoryview(content).tobytes(), dtype.dtype)
    if axes is None:
        return flat.reshape(shape, order=order)
    return flat.reshape(shape).transpose(axes)


def _scalar(dtype: _DType, content: Any) -> Any:
    return _frombuffer(content, dtype, (), "C")[()]


# By the names of NumPy 2; NumPy 1 has "core" in place of "_core".
_NUMPY: dict[tuple[str, str], Any] = {
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
}
_ARRAYS = {**_NUMPY, ("collections", "OrderedDict"): dict, ("_codecs", "encode"): _encode}
_SAFE: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (replacement, f"{module}.{name}")
    for (numpy_2, name), replacement in _NUMPY.items()
    for module in (numpy_2, numpy_2.replace("._core.", ".core."))
]


def _foreign_code(error: Exception) -> str | None:
    """Returns what a file needs beyond plain data, None if it was not loaded for another reason."""
    if isinstance(error, _ForeignError):
        return str(error)
    if "TorchScript" in str(error):
        return "a TorchScript program"
    if not isinstance(error, pickle.UnpicklingError):
        return None
    text = str(error)
    match = re.search(r"GLOBAL (\S+)", text) or re.search(r"(Unsupported [^\n]*)", text)
    return None if match is None else match[1]
