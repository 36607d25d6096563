"""The checkpoint format: one safetensors file with everything that prediction needs.

The tensors have the names of the model's state dict. The metadata's "perpixel" entry is JSON: the
recipe, the classes' names and colors, the step, and where the training started from. No pickle is
read or written.

The metadata's "perpixel-content-sha256" is a hash of the other metadata and all tensors, which
reading checks. A checksum in a second file could be from before or after the file it belongs to.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import ValidationError, model_validator
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from perpixel.errors import CorruptFileError, PerpixelError, plural
from perpixel.io.atomic import atomic_write
from perpixel.models.build import build
from perpixel.models.segmenter import Segmenter
from perpixel.recipes import overrides
from perpixel.recipes.base import Color, Spec
from perpixel.recipes.schema import Recipe

_HEADER = "perpixel"
_SHA256 = "perpixel-content-sha256"


class _Header(Spec):
    version: Literal[1] = 1
    recipe: Recipe
    class_names: tuple[str, ...]
    palette: tuple[Color, ...]
    step: int
    initial_weights: str | None = None

    @model_validator(mode="after")
    def _one_color_per_class(self) -> "_Header":
        names, colors = self.class_names, self.palette
        if len(colors) != len(names):
            raise ValueError(
                f"palette has {plural(len(colors), 'color')} for {len(names)} class_names"
            )
        if len(set(names)) != len(names):
            raise ValueError(f"class_names holds a name twice: {', '.join(names)}")
        return self


@dataclass(frozen=True)
class Checkpoint:
    """A model's weights by name, with the recipe, classes and colors that prediction needs.

    `step` counts the optimization steps behind the weights; `origin` is the file they were read
    from. `initial_weights` says where they started from, a name and the file's sha256 or "random";
    None where that is not known.
    """

    recipe: Recipe
    class_names: tuple[str, ...]
    palette: tuple[Color, ...]
    weights: Mapping[str, Tensor]
    step: int = 0
    origin: Path | None = None
    initial_weights: str | None = None


@dataclass(frozen=True)
class InitialWeights:
    """Weights by our names to start a training from, and where they are from, as a checkpoint says.

    `class_names` are None for a backbone alone; `lines` are for the log.
    """

    weights: Mapping[str, Tensor]
    origin: str
    class_names: tuple[str, ...] | None = None
    lines: tuple[str, ...] = ()


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes the checkpoint atomically; raises PerpixelError when that fails."""
    header = _Header.model_validate(checkpoint, from_attributes=True)
    write_tensors(path, checkpoint.weights, {_HEADER: header.model_dump_json()})


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads the checkpoint in `path`; raises PerpixelError that says what is wrong with it."""
    metadata, weights = read_tensors(path)
    if _HEADER not in metadata:
        raise PerpixelError(
            f"{path}: holds tensors, but no perpixel metadata. Another toolkit's checkpoint is "
            f"read with `perpixel convert`; a run's last.safetensors is for --resume"
        )
    try:
        header = _Header.model_validate_json(metadata[_HEADER])
    except ValidationError as error:
        raise PerpixelError(f"{path}: {overrides.readable(error)}") from None
    initial = header.initial_weights
    return Checkpoint(
        header.recipe, header.class_names, header.palette, weights, header.step, path, initial
    )


def model_from_checkpoint(checkpoint: Checkpoint) -> Segmenter:
    """Builds the checkpoint's model with its weights, in evaluation mode."""
    model = build(checkpoint.recipe.model, num_classes=len(checkpoint.class_names))
    load_strictly(model, checkpoint.weights)
    return model.eval()


def load_strictly(model: Segmenter, weights: Mapping[str, Tensor]) -> None:
    """Loads weights by name; raises PerpixelError that lists all mismatches."""
    problems = mismatches(model.state_dict(), weights)
    if problems:
        raise PerpixelError(
            f"the weights do not fit the model in {len(problems)} places:\n  "
            + "\n  ".join(problems)
        )
    model.load_state_dict(dict(weights))


def mismatches(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[str]:
    """Lists the weights that are missing, unexpected or of another shape than expected."""
    problems = [
        f"missing {name} {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name not in weights
    ]
    for name, tensor in weights.items():
        shape = list(tensor.shape)
        if name not in expected:
            problems.append(f"unexpected {name} {shape}")
        elif tensor.shape != expected[name].shape:
            problems.append(f"{name} is {shape} and should be {list(expected[name].shape)}")
    return problems


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Reads a safetensors file's metadata and tensors.

    Raises CorruptFileError naming the file when it is no safetensors file, or differs from what
    `write_tensors` wrote. The hash of files of version 0.1, and files without one, go unchecked.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise PerpixelError(f"{path}: no such file") from None
    except Exception as error:  # a corrupt header can make safetensors and torch raise anything
        if isinstance(error, MemoryError) or "allocat" in str(error):
            raise
        raise CorruptFileError(
            f"{path}: not a safetensors file, or a corrupt one ({error})"
        ) from None
    if _SHA256 in metadata and metadata[_SHA256] != content_sha256(metadata, tensors):
        raise CorruptFileError(f"{path}: corrupt: its content does not match its sha256")
    return metadata, tensors


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file atomically; raises PerpixelError."""
    # Copies, as safetensors takes no views and no two tensors that share memory. Not its save_file,
    # which makes files that only their owner may read.
    plain = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    atomic_write(path, save(plain, {**metadata, _SHA256: content_sha256(metadata, plain)}))


def content_sha256(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """Hashes metadata, and every tensor's name, dtype, shape and bytes; in hex digits."""
    described = {name: [str(t.dtype), list(t.shape)] for name, t in tensors.items()}
    texts = {key: text for key, text in metadata.items() if key != _SHA256}
    digest = hashlib.sha256(json.dumps([texts, described], sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
