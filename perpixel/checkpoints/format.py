"""Our checkpoint: one safetensors file with everything that prediction needs.

The tensors carry the model's own key names. The header's "perpixel" entry is JSON: the recipe,
the classes' names and colors, and the step. No pickle is read or written anywhere.

Every file that is written here holds the sha256 of itself, taken while 64 zeros stood in its
place. A checksum in a file of its own could be from before or after the file it belongs to.
"""

import hashlib
import json
import mmap
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from torch import Tensor

from perpixel.errors import CorruptFileError, PerpixelError
from perpixel.io.atomic import atomic_write
from perpixel.models.build import build
from perpixel.models.segmenter import Segmenter
from perpixel.recipes import overrides
from perpixel.recipes.base import Color, Spec
from perpixel.recipes.schema import Recipe

_HEADER = "perpixel"
_SHA256 = "perpixel-sha256"
_DIGEST = re.compile(rf'"{_SHA256}":"([0-9a-f]{{64}})"'.encode())
_NO_DIGEST = b"0" * 64
_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


class _Header(Spec):
    version: Literal[1] = 1
    recipe: Recipe
    class_names: tuple[str, ...]
    palette: tuple[Color, ...]
    step: int

    @model_validator(mode="after")
    def _one_color_a_class(self) -> "_Header":
        if len(self.palette) != len(self.class_names) or len(set(self.class_names)) != len(
            self.class_names
        ):
            raise ValueError(
                f"{len(self.class_names)} names and {len(self.palette)} colors, or twins"
            )
        return self


@dataclass(frozen=True)
class Checkpoint:
    """Weights by name, and what they mean. `step` counts the optimization steps behind them.

    `origin` is the file they were read from.
    """

    recipe: Recipe
    class_names: tuple[str, ...]
    palette: tuple[Color, ...]
    weights: Mapping[str, Tensor]
    step: int = 0
    origin: Path | None = None


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes the file as a whole or not at all; raises PerpixelError when it cannot."""
    header = _Header.model_validate(checkpoint, from_attributes=True)
    write_tensors(path, checkpoint.weights, {_HEADER: header.model_dump_json()})


def read_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in `path`; raises PerpixelError that says what is wrong with the file."""
    said, weights = read_tensors(path)
    if _HEADER not in said:
        raise PerpixelError(
            f"{path}: holds tensors, but no perpixel header. Another toolkit's checkpoint is read "
            f"with `perpixel convert`; a run's last.safetensors is for --resume"
        )
    try:
        meaning = _Header.model_validate_json(said[_HEADER])
    except ValidationError as error:
        raise PerpixelError(f"{path}: {overrides.readable(error)}") from None
    return Checkpoint(
        meaning.recipe, meaning.class_names, meaning.palette, weights, meaning.step, origin=path
    )


def model_from_checkpoint(checkpoint: Checkpoint) -> Segmenter:
    """The checkpoint's model, holding its weights, in evaluation mode."""
    model = build(checkpoint.recipe.model, num_classes=len(checkpoint.class_names))
    load_strictly(model, checkpoint.weights)
    return model.eval()


def load_strictly(model: Segmenter, weights: Mapping[str, Tensor]) -> None:
    """Copies weights in by name; raises PerpixelError that lists every mismatch at once."""
    problems = mismatches(model.state_dict(), weights)
    if problems:
        raise PerpixelError(
            f"the weights do not fit the model in {len(problems)} places:\n  "
            + "\n  ".join(problems)
        )
    model.load_state_dict(dict(weights))


def mismatches(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """What is missing in `given`, left over or of another shape than wanted, an item each."""
    problems = [
        f"missing {name} {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name not in given
    ]
    for name, tensor in given.items():
        if name not in wanted:
            problems.append(f"left over {name} {list(tensor.shape)}")
        elif tensor.shape != wanted[name].shape:
            problems.append(
                f"{name} is {list(tensor.shape)} and should be {list(wanted[name].shape)}"
            )
    return problems


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """A safetensors file's header and tensors.

    Raises CorruptFileError naming the file when it is none, or was changed since it was written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if _SHA256 in header and _sha256(path) != header[_SHA256]:
                raise CorruptFileError(f"{path}: corrupt: its content is not what was written")
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise PerpixelError(f"{path}: no such file") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise CorruptFileError(
            f"{path}: not a safetensors file, or a corrupt one ({error})"
        ) from None


def _sha256(path: Path) -> str:
    """The hash of a file in which zeros stand for the hash that it holds."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        header = int.from_bytes(content[:8], "little")
        held = _DIGEST.search(content, 8, 8 + header)
        if held is None:
            return ""
        with memoryview(content) as view:
            found = hashlib.sha256(view[: held.start(1)])
            found.update(_NO_DIGEST)
            found.update(view[held.end(1) :])
        return found.hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Writes a safetensors file as a whole or not at all; raises PerpixelError.

    The format (huggingface/safetensors, README) is a length, JSON and the tensors' bytes. Only what
    is not contiguous in the CPU's memory is copied.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # The widest first, so that each begins at a multiple of its numbers' size.
    order = sorted(plain, key=lambda name: (-plain[name].element_size(), name))
    said: dict[str, object] = {"__metadata__": {**header, _SHA256: _NO_DIGEST.decode()}}
    end = 0
    for name in order:
        begin, end = end, end + plain[name].nbytes
        dtype, shape = _DTYPES[plain[name].dtype], list(plain[name].shape)
        said[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(said, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    front = len(text).to_bytes(8, "little") + text
    flat = (plain[name].as_strided((plain[name].numel(),), (1,)) for name in order)
    parts = [numbers.view(torch.uint8).numpy().data for numbers in flat]
    found = hashlib.sha256(front)
    for part in parts:
        found.update(part)
    held = _DIGEST.search(front)
    assert held is not None
    front = front[: held.start(1)] + found.hexdigest().encode() + front[held.end(1) :]
    atomic_write(path, front, *parts)
