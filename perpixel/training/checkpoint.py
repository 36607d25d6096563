"""Checkpoints to resume from: weights, optimizer state and progress in one safetensors file.

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
    """A run's progress.

    step: steps done. best_miou: the best of all evaluations so far; best_step: its step, None if
    an earlier version saved it. nonfinite_steps: the last steps, in a row, that were not finite.
    corrupt: images replaced so far. scored: the step of the last evaluation.
    evaluations_since_best: evaluations in a row that were no better than the best.
    """

    step: int = 0
    best_miou: float | None = None
    best_step: int | None = None
    nonfinite_steps: int = 0
    corrupt: int = 0
    scored: int = 0
    evaluations_since_best: int = 0
    initial_weights: str | None = None

    @property
    def is_scored(self) -> bool:
        """Whether this step has been evaluated."""
        return self.scored == self.step

    def out_of_patience(self, recipe: Recipe) -> bool:
        """Whether evaluate.patience ends the run here."""
        patience = recipe.evaluate.patience
        return patience is not None and self.evaluations_since_best >= patience

    def has_ended(self, recipe: Recipe) -> bool:
        """Whether the run has no step left."""
        return self.step == recipe.train.steps or self.out_of_patience(recipe)


class RunFingerprint(Spec):
    """What decides every step of a run: its recipe and its training set."""

    recipe: Recipe
    images: int
    class_names: tuple[str, ...]


class _Header(Spec):
    fingerprint: RunFingerprint
    step: _Count
    best_miou: float | None
    best_step: _Count | None = None
    nonfinite_steps: _Count = 0
    corrupt: _Count = 0
    scored: _Count = 0
    evaluations_since_best: _Count = 0
    initial_weights: str | None = None
    scaler: dict[str, float | int] = Field(default_factory=dict)


_NO_PROGRESS = ("fingerprint", "scaler")
"""What else than a Progress the header holds."""


@dataclass(frozen=True)
class ResumeInfo:
    """Where a run starts: its progress, lines for the log, and corrupt checkpoint files."""

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
    """Saves the run as last.safetensors in `folder` and keeps `train.keep_last` checkpoints.

    `overwrite` replaces the newest checkpoint, which is of the same step. Sample order and
    augmentation are functions of the step and need no saving. Raises PerpixelError when it cannot
    be written; the older checkpoints are whole then. When a finished run is extended, its old final
    weights are archived after the first new checkpoint.
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
        if not progress.has_ended(fingerprint.recipe):
            _reopen(folder)


def _reopen(folder: Path) -> None:
    """Archives the old final weights; where the best are missing, they take their place."""
    final, best = folder / "model.safetensors", folder / "best.safetensors"
    if not final.exists():
        return
    if not best.exists():  # as where a user removed it
        for name in ("evaluate.json", "confusion.csv", "images.csv"):
            (folder.parent / name).unlink(missing_ok=True)
        best.write_bytes(final.read_bytes())
    final.replace(folder / _EARLIER)


def list_checkpoints(folder: Path) -> list[Path]:
    """Lists the checkpoints to resume from in a run's folder, the newest first.

    A copy that a user names last-good.safetensors is not one of them.
    """
    paths = (path for path in folder.glob("*.safetensors") if _STATE.fullmatch(path.stem))
    return sorted(paths, key=lambda path: (path.stem != "next", len(path.stem), path.stem))


def load_checkpoint(
    folder: Path, state: TrainState, fingerprint: RunFingerprint, *, allow_config_change: bool
) -> ResumeInfo:
    """Loads the newest checkpoint that is not corrupt into `state`.

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
            f"{path} is at step {header.step}, past train.steps="
            f"{fingerprint.recipe.train.steps}: set train.steps to {header.step} or more"
        )
    model, ema_model = state.model, state.ema_model
    load_strictly(model, strip_prefix("model.", tensors))
    if ema_model is not model:  # where averaging was added to the recipe, it begins here
        load_strictly(ema_model, strip_prefix("ema.", tensors) or strip_prefix("model.", tensors))
    parameters = dict(model.named_parameters())
    before, now = header.fingerprint.recipe, fingerprint.recipe
    same = before.optimizer.name == now.optimizer.name and before.train.freeze == now.train.freeze
    for key, tensor in strip_prefix("optimizer.", tensors).items() if same else ():
        kind, _, name = key.partition(".")
        parameter = parameters[name]
        scalar = kind == "step"  # AdamW's
        like = parameter.new_empty(()) if scalar else torch.empty_like(parameter)
        state.optimizer.state[parameter][kind] = like.copy_(tensor)
    if header.scaler and state.scaler.is_enabled():
        state.scaler.load_state_dict(header.scaler)
    lines = [f"{complaint}; going on from an older state" for complaint in corrupt.values()]
    lines.append(f"with its own weights, resumed after step {header.step}")
    lines += [f"changed: {change}" for change in changed]
    progress = Progress(**{name: value for name, value in header if name not in _NO_PROGRESS})
    if (folder / "model.safetensors").exists() and not progress.has_ended(fingerprint.recipe):
        lines.append(f"the final weights of its earlier end are kept as {_EARLIER}")
    lines += [] if same else ["the optimizer starts anew"]
    return ResumeInfo(progress, tuple(lines), tuple(corrupt))


def quarantine(corrupt: tuple[Path, ...]) -> None:
    """Renames corrupt checkpoints to .corrupt, so that they are not counted among the kept ones."""
    for path in corrupt:
        with reraise_oserror(path):
            path.replace(path.with_suffix(".corrupt"))


def _read(path: Path) -> tuple[_Header, dict[str, Tensor]]:
    metadata, tensors = read_tensors(path)
    try:
        return _Header.model_validate_json(metadata.get(_HEADER, "")), tensors
    except ValidationError as error:
        raise CorruptFileError(
            f"{path}: not a run's checkpoint: {overrides.readable(error)}"
        ) from None


def strip_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors whose names begin with `prefix`, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
