"""What a run needs to go on: weights, optimizer and a few numbers, in one safetensors file.

The newest state of a run is `last.safetensors`, older ones are `last-1`, `last-2` and so on. A new
one is written as `next` before the others move up, so that at any moment a whole one is there.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from perpixel.checkpoint import load_strictly, read_tensors, write_tensors
from perpixel.errors import DamagedFile, PerpixelError, UsageError
from perpixel.recipes import settings
from perpixel.recipes.base import Spec
from perpixel.recipes.spec import Recipe
from perpixel.training.step import TrainState
from perpixel.writing import sync_folder, writing

_HEADER = "perpixel-run"
_EARLIER = "model-earlier.safetensors"
_STATE = re.compile(r"next|last(-\d+)?")
_Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    `step` counts the steps done, `skipped` those of them at the end, in a row, that changed
    nothing, `damaged` the pictures replaced so far; `best_miou` is that of all evaluations so far,
    the last of which was after step `scored`.
    """

    step: int = 0
    best_miou: float | None = None
    skipped: int = 0
    damaged: int = 0
    scored: int = 0

    @property
    def is_scored(self) -> bool:
        """Whether the step at hand has been evaluated."""
        return self.scored == self.step


class Course(Spec):
    """What decides every step of a run: the recipe, and the training set it draws from."""

    recipe: Recipe
    pictures: int
    classes: tuple[str, ...]


class _Header(Spec):
    course: Course
    step: _Count
    best_miou: float | None
    skipped: _Count = 0
    damaged: _Count = 0
    scored: _Count = 0
    scaler: dict[str, float | int] = Field(default_factory=dict)


@dataclass(frozen=True)
class Start:
    """Where a run begins: its progress, lines that say why, and files that were found damaged."""

    progress: Progress = Progress()
    lines: tuple[str, ...] = ()
    damaged: tuple[Path, ...] = ()


def write_state(
    folder: Path, train_state: TrainState, course: Course, *, progress: Progress, again: bool
) -> None:
    """Saves the run as the newest state in `folder`, beside the recipe's number of older ones.

    `again` puts it in the place of the newest, which is of the same step.
    Order and augmentation are functions of the step and need no saving. Raises PerpixelError when
    it cannot be written; the older states are whole then. An earlier end of the run, which now goes
    on, is taken away once a state from beyond it is there.
    """
    network, model = train_state.model, train_state.ema_model
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    if model is not network:
        tensors |= {f"ema.{name}": tensor for name, tensor in model.state_dict().items()}
    for name, parameter in network.named_parameters():
        for key, value in train_state.optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{key}.{name}"] = value
    header = _Header(course=course, scaler=train_state.scaler.state_dict(), **asdict(progress))
    fresh = folder / "next.safetensors"
    write_tensors(fresh, tensors, {_HEADER: header.model_dump_json()})
    ages = range(1, course.recipe.train.keep)
    places = [folder / "last.safetensors", *(folder / f"last-{age}.safetensors" for age in ages)]
    with writing(folder):
        for newer, older in reversed(list(pairwise(places))):
            if newer.exists() and not again:
                newer.replace(older)
        fresh.replace(places[0])
        sync_folder(folder)
        for path in set(states(folder)) - set(places):
            path.unlink()
        if progress.step < course.recipe.train.steps:
            _reopen(folder)


def _reopen(folder: Path) -> None:
    """Puts the final weights aside and their scores away; the best stand for the run again."""
    final, best = folder / "model.safetensors", folder / "best.safetensors"
    if not final.exists():
        return
    for name in ("evaluate.json", "confusion.csv", "pictures.csv"):
        (folder.parent / name).unlink(missing_ok=True)
    if not best.exists():  # as where a user removed it
        best.write_bytes(final.read_bytes())
    final.replace(folder / _EARLIER)


def states(folder: Path) -> list[Path]:
    """The states in a run's folder of checkpoints, the newest first.

    A copy that a user calls last-good is none of them.
    """
    found = (path for path in folder.glob("*.safetensors") if _STATE.fullmatch(path.stem))
    return sorted(found, key=lambda path: (path.stem != "next", len(path.stem), path.stem))


def read_state(
    folder: Path, train_state: TrainState, course: Course, *, allow_changes: bool
) -> Start:
    """Puts the newest state that is whole into `train_state`.

    Raises PerpixelError when there is none, or when it belongs to another recipe or training set
    and changes are not allowed; UsageError when it is past the recipe's last step.
    """
    damaged: dict[Path, str] = {}
    for path in states(folder):
        try:
            header, tensors = _read(path)
        except DamagedFile as error:
            damaged[path] = str(error)
            continue
        break
    else:
        raise PerpixelError("\n".join([f"{folder}: no whole state is left", *damaged.values()]))
    changed = settings.differences(header.course, course)
    if changed and not allow_changes:
        raise PerpixelError(
            f"{path} was made by another recipe or from other data; resume with the same, add "
            f"--allow-changes, or start a new run. Changed: " + "; ".join(changed)
        )
    if header.step > course.recipe.train.steps:
        raise UsageError(
            f"{path}: {header.step} steps are done, train.steps={course.recipe.train.steps} is "
            f"below that: give {header.step} or more"
        )
    network, model = train_state.model, train_state.ema_model
    load_strictly(network, below("network.", tensors))
    if model is not network:  # where averaging was added to the recipe, it begins here
        load_strictly(model, below("ema.", tensors) or below("network.", tensors))
    parameters = dict(network.named_parameters())
    same = header.course.recipe.optimizer.algorithm == course.recipe.optimizer.algorithm
    for key, tensor in below("optimizer.", tensors).items() if same else ():
        kind, _, name = key.partition(".")
        parameter = parameters[name]
        scalar = kind == "step"  # AdamW's
        like = parameter.new_empty(()) if scalar else torch.empty_like(parameter)
        train_state.optimizer.state[parameter][kind] = like.copy_(tensor)
    if header.scaler and train_state.scaler.is_enabled():
        train_state.scaler.load_state_dict(header.scaler)
    lines = [f"{complaint}; going on from an older state" for complaint in damaged.values()]
    lines.append(f"resumed after step {header.step}")
    lines += [f"changed: {change}" for change in changed]
    if (folder / "model.safetensors").exists() and header.step < course.recipe.train.steps:
        lines.append(f"the final weights of its earlier end are kept as {_EARLIER}")
    lines += [] if same else ["the optimizer, another one, starts anew"]
    progress = Progress(**header.model_dump(exclude={"course", "scaler"}))
    return Start(progress, tuple(lines), tuple(damaged))


def put_aside(damaged: tuple[Path, ...]) -> None:
    """Renames damaged states, so that they never take a whole one's place."""
    for path in damaged:
        with writing(path):
            path.replace(path.with_suffix(".damaged"))


def _read(path: Path) -> tuple[_Header, dict[str, Tensor]]:
    said, tensors = read_tensors(path)
    try:
        return _Header.model_validate_json(said.get(_HEADER, "")), tensors
    except ValidationError as error:
        raise DamagedFile(f"{path}: not a run's state: {settings.readable(error)}") from None


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, under the rest of their names."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
