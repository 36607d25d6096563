"""The files that toolkits keep their weights in.

Unpickling runs whatever code a file brings along. So files of torch.save are read with
weights_only=True and pickles of NumPy arrays with an unpickler that knows nothing else; a file
that needs more is refused, or loaded in a process of its own when the caller trusts it. NumPy's own
classes believe what a pickle says of them, pointers included: stand-ins take their place.
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

from perpixel.errors import PerpixelError
from perpixel.recipes.base import Color

Palette = tuple[Color, ...]

_LEGACY = pickle.dumps(MAGIC_NUMBER, protocol=2)  # torch.save before 1.6


@dataclass(frozen=True)
class Source:
    """What a file holds: weights by the toolkit's own names, and the classes if it names them."""

    state: Mapping[str, Any]
    names: tuple[str, ...] | None = None
    palette: Palette | None = None


def read_source(path: Path, *, trust: bool = False) -> Source:
    """The state dict of a toolkit's file and what else the file says.

    Layouts: mmsegmentation `{meta, state_dict}`; sssegmentation, pytorch-auto-drive and detectron2
    `{model, ...}`, of torch.save or as a pickle of NumPy arrays; torchvision's bare state dict; a
    safetensors file of any of their names. A file that brings code along is loaded only with
    `trust`, in a separate process. Raises PerpixelError naming the file.
    """
    try:
        match file_kind(path):
            case "safetensors":
                return Source(load_file(path))
            case "torch":
                with torch.serialization.safe_globals(_SAFE):  # a score or a palette in its meta
                    return unpack(torch.load(path, map_location="cpu", weights_only=True))
            case "pickle":
                return unpack(_ArrayUnpickler(io.BytesIO(path.read_bytes())).load())
    except PerpixelError as error:
        raise PerpixelError(f"{path}: {error}") from None
    except Exception as error:  # corrupt bytes can make an unpickler raise anything
        wanted = _foreign_code(error)
        if wanted is None:
            raise PerpixelError(
                f"{path}: a corrupt file, perhaps cut short in a download ({_brief(error)})"
            ) from None
    if trust:
        return _read_apart(path)
    raise PerpixelError(
        f"{path}: this file holds more than tensors and plain values ({wanted}), and loading it "
        f"could run any code it brings. If you trust where it comes from, `perpixel convert "
        f"--trust` loads it in a separate process"
    )


def is_ours(path: Path) -> bool:
    """Whether this is a perpixel checkpoint or a folder, which can only be a run's."""
    if path.is_dir():
        return True
    try:
        with safe_open(path, framework="pt") as file:
            return "perpixel" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def file_kind(path: Path) -> Literal["safetensors", "torch", "pickle"]:
    """The format, by the first bytes. Raises PerpixelError for anything else."""
    try:
        with path.open("rb") as file:
            head = file.read(256)
    except OSError as error:
        raise PerpixelError(f"cannot be read ({error.strerror})") from None
    if not head:
        raise PerpixelError("the file is empty")
    if head[7:9] == b"\0{":  # a header's length, which may begin as a page does
        return "safetensors"
    if head.lstrip().startswith(b"<"):
        raise PerpixelError("a web page, not a checkpoint; the link leads to a page about the file")
    if head.startswith((b"PK\x03\x04", _LEGACY)):
        return "torch"
    if head.startswith(b"\x80"):
        return "pickle"
    raise PerpixelError("neither a file of torch.save nor a pickle nor safetensors")


def unpack(content: object) -> Source:
    """The state dict within what a file held. Raises PerpixelError where there is none."""
    match content:
        case {"state_dict": dict() as state, "meta": dict() as meta}:
            return Source(state, *_classes(meta))
        case {"state_dict": dict() as state}:
            return Source(state)
        case {"model": dict() as state}:  # not model_ema: the published figures are model's
            return Source(state)
        case dict() if content and all(
            isinstance(v, Tensor | np.ndarray) for v in content.values()
        ):
            return Source(content)
        case dict():
            keys = ", ".join(str(key) for key in list(content)[:8]) or "nothing"
            raise PerpixelError(f"no state dict in it, but {keys}")
    raise PerpixelError(f"holds {type(content).__name__}, not a dict of tensors")


def _read_apart(path: Path) -> Source:
    """Has another process load the file and write a plain one in its place, and reads that."""
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.pth"
        command = [sys.executable, "-m", "perpixel.conversion.trusted", str(path), str(plain)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not plain.exists():  # its code may end the process early
            said = done.stderr.strip() or f"exit code {done.returncode}"
            raise PerpixelError(f"{path}: cannot be loaded, trusted or not: {said}")
        return read_source(plain)


def _classes(meta: Mapping[str, Any]) -> tuple[tuple[str, ...] | None, Palette | None]:
    """Names and colors of mmsegmentation's meta: CLASSES and PALETTE, or 1.x's dataset_meta."""
    said = {str(key).lower(): value for key, value in meta.items()}
    inner = said.get("dataset_meta")
    if isinstance(inner, dict):
        said |= {str(key).lower(): value for key, value in inner.items()}
    names = said.get("classes")
    return (
        tuple(str(name).strip() for name in names) if isinstance(names, list | tuple) else None,
        _palette(said.get("palette")),
    )


def _palette(said: object) -> Palette | None:
    """The colors, if each is three whole numbers of 0 to 255."""
    try:
        return TypeAdapter(Palette).validate_python(np.array(said).tolist())
    except ValueError:  # pydantic's is one, and NumPy's for rows of several lengths
        return None


class _Foreign(pickle.UnpicklingError):
    """A pickle that asks for something other than NumPy arrays."""


class _ArrayUnpickler(pickle.Unpickler):
    """Loads NumPy arrays, numbers, text, lists and dicts; nothing it can look up runs code."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, encoding="latin1")  # detectron2's model files are Python 2's

    def find_class(self, module: str, name: str) -> Any:
        found = _ARRAYS.get((module.replace("numpy.core.", "numpy._core."), name))
        if found is None:
            raise _Foreign(f"{module}.{name}")
        return found


def _bytes(text: str, encoding: str) -> bytes:
    """What Python 3 stores in place of bytes in protocol 2, for _codecs.encode."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes stored as {encoding}")
    return text.encode("latin1")


class _Kind:
    """Stands in for numpy.dtype: plain numbers, of whose state the byte order alone is taken."""

    def __init__(self, name: str, *_: object) -> None:
        if not re.fullmatch(r"[fiub]\d{1,2}", name):
            raise pickle.UnpicklingError(f"Unsupported kind of array: {name}")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """Stands in for numpy.ndarray: empty, until its state has proved to be an array's."""

    def __new__(cls, *_: object) -> "_Array":
        return super().__new__(cls, 0)

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, columns_first, content = state
        whole = _frombuffer(content, kind, shape, "F" if columns_first else "C")
        super().__setstate__(whole.__reduce__()[2])


def _frombuffer(content: Any, kind: _Kind, shape: Any, order: Any, axes: Any = None) -> Any:
    """As NumPy's, but of a copy: an array that a view is of could be given another content."""
    if isinstance(content, str):  # Python 2's bytes
        content = content.encode("latin1")
    flat = np.frombuffer(memoryview(content).tobytes(), kind.dtype)
    if axes is None:
        return flat.reshape(shape, order=order)
    return flat.reshape(shape).transpose(axes)


def _scalar(kind: _Kind, content: Any) -> Any:
    return _frombuffer(content, kind, (), "C")[()]


# Under the names that any of NumPy's versions pickles them by.
_NUMPY: dict[tuple[str, str], Any] = {
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Kind,
}
_ARRAYS = {**_NUMPY, ("collections", "OrderedDict"): dict, ("_codecs", "encode"): _bytes}
_SAFE: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (found, f"{module}.{name}")
    for (newer, name), found in _NUMPY.items()
    for module in (newer, newer.replace("._core.", ".core."))
]


def _foreign_code(error: Exception) -> str | None:
    """What a file asked for beyond plain data, where that is why it was not loaded."""
    if isinstance(error, _Foreign):
        return str(error)
    if not isinstance(error, pickle.UnpicklingError):
        return None
    text = str(error)
    asked = re.search(r"GLOBAL (\S+)", text) or re.search(r"(Unsupported [^\n]*)", text)
    return None if asked is None else asked[1]


def _brief(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0].partition(". ")[0]
    return text or type(error).__name__
