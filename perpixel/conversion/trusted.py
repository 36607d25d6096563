"""Loads one pickled checkpoint, running any code that it contains, and writes its plain contents.

    python -m perpixel.conversion.trusted CHECKPOINT OUT.pth

Only `perpixel convert --trust` starts this, in a separate process. MissingGlobal replaces classes
that are not installed (a toolkit's loggers, for example): the weights do not need them.
"""

import pickle
import sys
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn

from perpixel.conversion.files import file_kind, unpack
from perpixel.errors import PerpixelError


class MissingGlobal:
    """Replaces an object whose class is not installed; ignores its pickled content."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...

    def __setitem__(self, *_: object) -> None: ...

    def append(self, _: object) -> None:
        """Ignores an item."""

    def extend(self, _: object) -> None:
        """Ignores items."""


class Unpickler(pickle.Unpickler):
    """pickle's Unpickler, with MissingGlobal for what cannot be imported (torch.load's name)."""

    def find_class(self, module: str, name: str) -> Any:
        """Returns the named object, or a MissingGlobal of that name."""
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError):
            return type(name, (MissingGlobal,), {})


def load(file: IO[bytes], **options: Any) -> Any:
    """Does what pickle.load does, with the Unpickler above; torch.load calls it by this name."""
    return Unpickler(file, **options).load()


def main(path: Path, out: Path) -> None:
    """Reads `path`, trusting it, and writes its Source's fields; a module is its state dict."""
    if file_kind(path) == "torch":
        module = sys.modules[__name__]
        content = torch.load(path, map_location="cpu", weights_only=False, pickle_module=module)
    else:
        with path.open("rb") as file:
            content = load(file, encoding="latin1")
    if isinstance(content, nn.Module):
        content = {"state_dict": content}
    if isinstance(content, dict):
        content = {
            key: value.state_dict() if isinstance(value, nn.Module) else value
            for key, value in content.items()
        }
    torch.save(dict(vars(unpack(content))), out)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except Exception as error:  # a file can make its own code raise anything
        sys.exit(str(error) if isinstance(error, PerpixelError) else repr(error))
