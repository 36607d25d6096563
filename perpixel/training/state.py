"""What a run needs to go on: weights, optimizer and a few numbers, in one safetensors file."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from perpixel.checkpoint import load_strictly, write_whole
from perpixel.errors import PerpixelError
from perpixel.models.segmenter import Segmenter
from perpixel.recipes import settings
from perpixel.recipes.spec import Recipe


@dataclass(frozen=True)
class Progress:
    """How far a run is: steps done, and the best mIoU of its evaluations so far."""

    step: int = 0
    best_miou: float | None = None


def write_state(
    path: Path,
    network: Segmenter,
    optimizer: torch.optim.Optimizer,
    *,
    recipe: Recipe,
    progress: Progress,
) -> None:
    """Saves the run; order and augmentation are functions of the step and need no saving."""
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{key}.{name}"] = value
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {
        "recipe": settings.dump(recipe),
        "step": str(progress.step),
        "best_miou": json.dumps(progress.best_miou),
    }
    write_whole(path, save(tensors, header))


def read_state(
    path: Path, network: Segmenter, optimizer: torch.optim.Optimizer, *, recipe: Recipe
) -> Progress:
    """Puts a saved run's tensors into `network` and `optimizer`; returns how far it was.

    Raises PerpixelError when the file is damaged or belongs to another recipe.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise PerpixelError(f"{path}: nothing to resume from; leave out --resume") from None
    except (SafetensorError, OSError) as error:
        raise PerpixelError(f"{path}: damaged, cannot resume ({error})") from None
    saved = settings.load(header["recipe"], origin=str(path))
    changed = settings.differences(saved, recipe)
    if changed:
        raise PerpixelError(
            f"{path} was made by another recipe; resume with the same settings, or start a new "
            f"run. Changed: " + "; ".join(changed)
        )
    load_strictly(network, _below("network.", tensors))
    names = dict(network.named_parameters())
    for key, tensor in _below("optimizer.", tensors).items():
        kind, _, name = key.partition(".")
        parameter = names[name]
        optimizer.state[parameter][kind] = tensor.to(
            parameter.device, memory_format=torch.preserve_format
        )
    return Progress(step=int(header["step"]), best_miou=json.loads(header["best_miou"]))


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
