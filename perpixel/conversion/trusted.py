"""Loads one pickled checkpoint, running any code that it contains, and writes its plain contents.

    python -m perpixel.conversion.trusted CHECKPOINT OUT.pth

Only `perpixel convert --trust` starts this, in a separate process. MissingGlobal replaces classes
that are not installed, such as a toolkit's loggers, or a module's class in a training script: its
weights are in its pickled attributes.
"""

import pickle
import sys
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor, nn

from perpixel.conversion.files import file_kind
from perpixel.errors import PerpixelError


class MissingGlobal:
    """Replaces an object whose class is not installed; keeps its pickled attributes."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)

    def __setitem__(self, *_: object) -> None: ...

    def append(self, _: object) -> None:
        """Ignores an item."""

    def extend(self, _: object) -> None:
        """Ignores items."""


class Unpickler(pickle.Unpickler):
    """pickle's Unpickler, with MissingGlobal for what cannot be imported (torch.load's name)."""

    def find_class(self, module: str, name: str) -> Any:
        """Returns the named object, or MissingGlobal."""
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError):
            return MissingGlobal


def load(file: IO[bytes], **options: Any) -> Any:
    """Does what pickle.load does, with the Unpickler above; torch.load calls it by this name."""
    return Unpickler(file, **options).load()


def plain(value: Any) -> Any:
    """Returns tensors, numbers, text, lists and dicts as they are, a module as its state dict.

    Everything else becomes None.
    """
    match value:
        case torch.jit.ScriptModule():
            return plain(value.state_dict())
        case nn.Module() | MissingGlobal():
            return _state_dict(value) or None
        case Tensor():
            return value.detach().cpu().clone()
        case np.ndarray() | np.generic() if value.dtype.kind in "fiub":
            return torch.from_numpy(np.array(value))
        case np.ndarray():
            return plain(value.tolist())
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case str():
            return str(value)
    return value if type(value) in (bool, int, float) else None


def _state_dict(module: Any, prefix: str = "") -> dict[str, Tensor]:
    """Reads a module's state dict from its attributes, since its class may be missing."""
    attributes = vars(module)
    not_saved = attributes.get("_non_persistent_buffers_set", ())
    buffers = attributes.get("_buffers", {}).items()
    own = attributes.get("_parameters", {}) | {k: v for k, v in buffers if k not in not_saved}
    state = {f"{prefix}{name}": plain(value) for name, value in own.items() if value is not None}
    for name, child in attributes.get("_modules", {}).items():
        if child is not None:
            state |= _state_dict(child, f"{prefix}{name}.")
    return state


def main(path: Path, out: Path) -> None:
    """Reads `path`, trusting it, and writes what is plain in it with torch.save."""
    if file_kind(path) == "torch":
        module = sys.modules[__name__]
        content = torch.load(path, map_location="cpu", weights_only=False, pickle_module=module)
    else:
        with path.open("rb") as file:
            content = load(file, encoding="latin1")
    if not isinstance(content, dict | nn.Module | MissingGlobal):
        raise PerpixelError(f"holds {type(content).__name__}, not a dict of tensors")
    torch.save(plain(content), out)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except Exception as error:  # a file can make its own code raise anything
        sys.exit(str(error) if isinstance(error, PerpixelError) else repr(error))
