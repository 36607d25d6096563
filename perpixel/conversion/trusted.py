"""Loads one pickled checkpoint, running whatever code it brings, and writes its plain contents.

    python -m perpixel.conversion.trusted CHECKPOINT OUT.pth

Only `perpixel convert --trust` starts this, in a process of its own. Classes that are not installed
here (a toolkit's loggers, say) are stood in for by empty ones: the weights do not need them.
"""

import pickle
import sys
from pathlib import Path
from typing import IO, Any

import torch

from perpixel.conversion.detect import plain_tensors
from perpixel.conversion.files import file_kind, unpack
from perpixel.errors import PerpixelError


class MissingGlobal:
    """Stands in for an object of a class that is not installed."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...

    def __setitem__(self, *_: object) -> None: ...

    def append(self, _: object) -> None:
        """As if it were a list."""

    def extend(self, _: object) -> None:
        """As if it were a list."""


class Unpickler(pickle.Unpickler):
    """pickle's Unpickler, with MissingGlobal for what cannot be imported (torch.load's name)."""

    def find_class(self, module: str, name: str) -> Any:
        """The named object, or MissingGlobal."""
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError):
            return MissingGlobal


def load(file: IO[bytes], **options: Any) -> Any:
    """pickle.load, with the Unpickler above; torch.load takes it by this name."""
    return Unpickler(file, **options).load()


def main(path: Path, out: Path) -> None:
    """Reads `path`, trusting it, and writes a file like mmsegmentation's that brings no code."""
    if file_kind(path) == "torch":
        module = sys.modules[__name__]
        content = torch.load(path, map_location="cpu", weights_only=False, pickle_module=module)
    else:
        with path.open("rb") as file:
            content = load(file, encoding="latin1")
    source = unpack(content)
    meta = {"CLASSES": source.names, "PALETTE": source.palette}
    torch.save({"meta": meta, "state_dict": plain_tensors(source.state)}, out)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except Exception as error:  # a file can make its own code raise anything
        sys.exit(str(error) if isinstance(error, PerpixelError) else repr(error))
