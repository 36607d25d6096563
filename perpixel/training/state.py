"""What a run needs to go on: weights, optimizer and a few numbers, in one safetensors file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from perpixel.checkpoint import load_strictly, read_tensors, write_tensors
from perpixel.errors import PerpixelError
from perpixel.models.segmenter import Segmenter
from perpixel.recipes import settings
from perpixel.recipes.spec import Recipe, Spec

_HEADER = "perpixel-run"


@dataclass(frozen=True)
class Progress:
    """How far a run is: steps done, and the best mIoU of its evaluations so far."""

    step: int = 0
    best_miou: float | None = None


class Course(Spec):
    """What decides every step of a run: the recipe, and the training set it draws from."""

    recipe: Recipe
    pictures: int
    classes: tuple[str, ...]


class _Header(Spec):
    course: Course
    step: int
    best_miou: float | None


def write_state(
    path: Path,
    network: Segmenter,
    *,
    optimizer: torch.optim.Optimizer,
    course: Course,
    progress: Progress,
) -> None:
    """Saves the run; order and augmentation are functions of the step and need no saving."""
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{key}.{name}"] = value
    header = _Header(course=course, step=progress.step, best_miou=progress.best_miou)
    write_tensors(path, tensors, {_HEADER: header.model_dump_json()})


def read_state(
    path: Path, network: Segmenter, *, optimizer: torch.optim.Optimizer, course: Course
) -> Progress:
    """Puts a saved run's tensors into `network` and `optimizer`; returns how far it was.

    Raises PerpixelError when the file is damaged or belongs to another recipe or training set.
    """
    if not path.exists():
        raise PerpixelError(f"{path}: nothing to resume from; leave out --resume")
    said, tensors = read_tensors(path)
    try:
        header = _Header.model_validate_json(said.get(_HEADER, ""))
    except ValidationError as error:
        raise PerpixelError(f"{path}: not a run's state: {settings.readable(error)}") from None
    changed = settings.differences(header.course, course)
    if changed:
        raise PerpixelError(
            f"{path} was made by another recipe or from other data; resume with the same, or "
            f"start a new run. Changed: " + "; ".join(changed)
        )
    load_strictly(network, below("network.", tensors))
    names = dict(network.named_parameters())
    for key, tensor in below("optimizer.", tensors).items():
        kind, _, name = key.partition(".")
        parameter = names[name]
        optimizer.state[parameter][kind] = torch.empty_like(parameter).copy_(tensor)
    return Progress(step=header.step, best_miou=header.best_miou)


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, under the rest of their names."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
