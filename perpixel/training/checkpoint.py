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

from perpixel.checkpoints.format import load_strictly, read_tensors, write_tensors
from perpixel.errors import CorruptFileError, PerpixelError, UsageError
from perpixel.io.atomic import reraise_oserror, sync_folder
from perpixel.recipes import overrides
from perpixel.recipes.base import Spec
from perpixel.recipes.schema import Recipe
from perpixel.training.step import TrainState

_HEADER = "perpixel-run"
_EARLIER = "model-earlier.safetensors"
_STATE = re.compile(r"next|last(-\d+)?")
_Count = Annotated[int, Field(ge=0)]


@dataclass
class Progress:
    """How far a run is.

    `step` counts the steps done, `nonfinite_steps` those of them at the end, in a row, that were
    not finite, `corrupt` the images replaced so far; `best_miou` is that of all evaluations so far,
    the last of which was after step `scored`.
    """

    step: int = 0
    best_miou: float | None = None
    nonfinite_steps: int = 0
    corrupt: int = 0
    scored: int = 0

    @property
    def is_scored(self) -> bool:
        """Whether the step at hand has been evaluated."""
        return self.scored == self.step


class RunFingerprint(Spec):
    """What decides every step of a run: the recipe, and the training set it draws from."""

    recipe: Recipe
    images: int
    class_names: tuple[str, ...]


class _Header(Spec):
    fingerprint: RunFingerprint
    step: _Count
    best_miou: float | None
    nonfinite_steps: _Count = 0
    corrupt: _Count = 0
    scored: _Count = 0
    scaler: dict[str, float | int] = Field(default_factory=dict)


@dataclass(frozen=True)
class ResumeInfo:
    """Where a run begins: its progress, lines that say why, and files that were found corrupt."""

    progress: Progress
    lines: tuple[str, ...] = ()
    corrupt: tuple[Path, ...] = ()


def save_checkpoint(
    folder: Path,
    state: TrainState,
    fingerprint: RunFingerprint,
    *,
    progress: Progress,
    overwrite: bool,
) -> None:
    """Saves the run as the newest state in `folder`, beside the recipe's number of older ones.

    `overwrite` puts it in the place of the newest, which is of the same step.
    Order and augmentation are functions of the step and need no saving. Raises PerpixelError when
    it cannot be written; the older states are whole then. An earlier end of the run, which now goes
    on, is taken away once a state from beyond it is there.
    """
    model, ema_model = state.model, state.ema_model
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    if ema_model is not model:
        tensors |= {f"ema.{name}": tensor for name, tensor in ema_model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key, value in state.optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{key}.{name}"] = value
    header = _Header(fingerprint=fingerprint, scaler=state.scaler.state_dict(), **asdict(progress))
    fresh = folder / "next.safetensors"
    write_tensors(fresh, tensors, {_HEADER: header.model_dump_json()})
    ages = range(1, fingerprint.recipe.train.keep_last)
    places = [folder / "last.safetensors", *(folder / f"last-{age}.safetensors" for age in ages)]
    with reraise_oserror(folder):
        for newer, older in reversed(list(pairwise(places))):
            if newer.exists() and not overwrite:
                newer.replace(older)
        fresh.replace(places[0])
        sync_folder(folder)
        for path in set(list_checkpoints(folder)) - set(places):
            path.unlink()
        if progress.step < fingerprint.recipe.train.steps:
            _reopen(folder)


def _reopen(folder: Path) -> None:
    """Puts the final weights aside and their scores away; the best stand for the run again."""
    final, best = folder / "model.safetensors", folder / "best.safetensors"
    if not final.exists():
        return
    for name in ("evaluate.json", "confusion.csv", "images.csv"):
        (folder.parent / name).unlink(missing_ok=True)
    if not best.exists():  # as where a user removed it
        best.write_bytes(final.read_bytes())
    final.replace(folder / _EARLIER)


def list_checkpoints(folder: Path) -> list[Path]:
    """The states in a run's folder of checkpoints, the newest first.

    A copy that a user calls last-good is none of them.
    """
    found = (path for path in folder.glob("*.safetensors") if _STATE.fullmatch(path.stem))
    return sorted(found, key=lambda path: (path.stem != "next", len(path.stem), path.stem))


def load_checkpoint(
    folder: Path, state: TrainState, fingerprint: RunFingerprint, *, allow_config_change: bool
) -> ResumeInfo:
    """Puts the newest state that is whole into `state`.

    Raises PerpixelError when there is none, or when it belongs to another recipe or training set
    and changes are not allowed; UsageError when it is past the recipe's last step.
    """
    corrupt: dict[Path, str] = {}
    for path in list_checkpoints(folder):
        try:
            header, tensors = _read(path)
        except CorruptFileError as error:
            corrupt[path] = str(error)
            continue
        break
    else:
        raise PerpixelError("\n".join([f"{folder}: no whole state is left", *corrupt.values()]))
    changed = overrides.differences(header.fingerprint, fingerprint)
    if changed and not allow_config_change:
        raise PerpixelError(
            f"{path} was made by another recipe or from other data; resume with the same, add "
            f"--allow-config-change, or start a new run. Changed: " + "; ".join(changed)
        )
    if header.step > fingerprint.recipe.train.steps:
        raise UsageError(
            f"{path}: {header.step} steps are done, train.steps="
            f"{fingerprint.recipe.train.steps} is below that: give {header.step} or more"
        )
    model, ema_model = state.model, state.ema_model
    load_strictly(model, strip_prefix("model.", tensors))
    if ema_model is not model:  # where averaging was added to the recipe, it begins here
        load_strictly(ema_model, strip_prefix("ema.", tensors) or strip_prefix("model.", tensors))
    parameters = dict(model.named_parameters())
    same = header.fingerprint.recipe.optimizer.name == fingerprint.recipe.optimizer.name
    for key, tensor in strip_prefix("optimizer.", tensors).items() if same else ():
        kind, _, name = key.partition(".")
        parameter = parameters[name]
        scalar = kind == "step"  # AdamW's
        like = parameter.new_empty(()) if scalar else torch.empty_like(parameter)
        state.optimizer.state[parameter][kind] = like.copy_(tensor)
    if header.scaler and state.scaler.is_enabled():
        state.scaler.load_state_dict(header.scaler)
    lines = [f"{complaint}; going on from an older state" for complaint in corrupt.values()]
    lines.append(f"resumed after step {header.step}")
    lines += [f"changed: {change}" for change in changed]
    if (folder / "model.safetensors").exists() and header.step < fingerprint.recipe.train.steps:
        lines.append(f"the final weights of its earlier end are kept as {_EARLIER}")
    lines += [] if same else ["the optimizer, another one, starts anew"]
    progress = Progress(**header.model_dump(exclude={"fingerprint", "scaler"}))
    return ResumeInfo(progress, tuple(lines), tuple(corrupt))


def quarantine(corrupt: tuple[Path, ...]) -> None:
    """Renames corrupt states, so that they never take a whole one's place."""
    for path in corrupt:
        with reraise_oserror(path):
            path.replace(path.with_suffix(".corrupt"))


def _read(path: Path) -> tuple[_Header, dict[str, Tensor]]:
    said, tensors = read_tensors(path)
    try:
        return _Header.model_validate_json(said.get(_HEADER, "")), tensors
    except ValidationError as error:
        raise CorruptFileError(
            f"{path}: not a run's checkpoint: {overrides.readable(error)}"
        ) from None


def strip_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, under the rest of their names."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
