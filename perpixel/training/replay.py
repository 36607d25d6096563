"""Steps without a number: written down, so that the very batch can be run again."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import ValidationError
from torch import Tensor

from perpixel import distributed
from perpixel.checkpoint import Checkpoint, load_strictly, read_checkpoint, write_checkpoint
from perpixel.data.catalog import open_dataset
from perpixel.data.loader import batches
from perpixel.errors import PerpixelError
from perpixel.models.build import build, to_device
from perpixel.models.segmenter import Logits, Segmenter
from perpixel.recipes import settings
from perpixel.recipes.base import Spec
from perpixel.recipes.spec import IGNORE
from perpixel.training.objective import logits_of, loss_of
from perpixel.training.parallel import Verdict, agree, dropout_seed, parts
from perpixel.writing import write_whole


class Record(Spec):
    """A step to run again: how many were done before, its pictures, the file with its weights."""

    step: int
    seed: int
    pictures: tuple[str, ...]
    loss: str
    gradient_norm: str
    precision: Literal["float32", "tf32", "bfloat16"]
    weights: str


@dataclass(frozen=True)
class Failure:
    """A step without a number: what it began with, what came out, and how many failed in a row."""

    checkpoint: Checkpoint
    verdict: Verdict
    dtype: torch.dtype
    in_a_row: int


def write_record(path: Path, failure: Failure, *, pictures: list[str]) -> None:
    """Writes down a failed step and the weights it began with.

    The weights of failures in a row are the same, and only the last row's are kept.
    """
    checkpoint = failure.checkpoint
    weights = path.with_name(f"weights-{checkpoint.step - failure.in_a_row + 2}.safetensors")
    if failure.in_a_row == 1:
        write_checkpoint(weights, checkpoint)
        for older in set(path.parent.glob("weights-*.safetensors")) - {weights}:
            older.unlink(missing_ok=True)
    record = Record(
        step=checkpoint.step,
        seed=checkpoint.recipe.train.seed,
        pictures=tuple(pictures),
        loss=str(failure.verdict.loss),
        gradient_norm=str(failure.verdict.gradient_norm),
        precision=_precision(failure),
        weights=weights.name,
    )
    write_whole(path, record.model_dump_json(indent=2).encode())


def _precision(failure: Failure) -> Literal["float32", "tf32", "bfloat16"]:
    """What "auto" came to; of float32 only the recipe knows how it was multiplied."""
    if failure.dtype == torch.bfloat16:
        return "bfloat16"
    return "tf32" if failure.checkpoint.recipe.train.precision == "tf32" else "float32"


def replay(path: Path, *, data: Path | None, device: str = "auto") -> str:
    """Runs the batch of a record again, forward and backward, and describes it in lines of text.

    Loss and labelled pixels of every picture, and the gradient's norm in every part of the network.
    All ranks' pictures are run in this process. Raises PerpixelError when the record or its
    weights cannot be read, or the data set has changed.
    """
    try:
        record = Record.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise PerpixelError(f"{path}: no such file") from None
    except OSError as error:
        raise PerpixelError(f"{path}: cannot be read ({error.strerror})") from None
    except ValidationError as error:
        raise PerpixelError(f"{path}: not a replay file: {settings.readable(error)}") from None
    weights = path.with_name(Path(record.weights).name)
    if not weights.exists():
        raise PerpixelError(f"{path}: its weights, {weights}, made way for those of a later step")
    checkpoint = read_checkpoint(weights)
    recipe, where = checkpoint.recipe, distributed.device(device)
    dtype = distributed.precision(record.precision, where)
    train_set = open_dataset(recipe.data.name, data, recipe.data.train_split)
    if record.step >= recipe.train.steps:
        raise PerpixelError(f"{path}: step={record.step} is past train.steps={recipe.train.steps}")
    batch = next(batches(train_set, recipe, first_step=record.step, workers=0))
    if sorted(batch.names) != sorted(record.pictures):
        raise PerpixelError(
            f"{path}: the data set has changed: the step is now of {', '.join(batch.names)}"
        )
    network = build(recipe.model, classes=len(checkpoint.names))
    load_strictly(network, checkpoint.weights)
    network = to_device(network, where).train()
    own = distributed.Ranks()
    total, lines, names = torch.zeros((), device=where), list[str](), iter(batch.names)
    for part in parts(batch, recipe, where=where, own=own):
        torch.manual_seed(dropout_seed(recipe.train.seed, record.step, part.number))
        output = logits_of(network, part.images, recipe, dtype=dtype)
        loss = part.factor * loss_of(output, part.labels, recipe)
        torch.autograd.backward(loss)
        total = total + loss.detach()
        for index in range(len(part.labels)):
            one = slice(index, index + 1)
            auxiliary = None if output.auxiliary is None else output.auxiliary[one]
            logits = Logits(output.main[one], auxiliary)
            alone = loss_of(logits, part.labels[one], recipe).item()
            known = (part.labels[index] != IGNORE).float().mean().item()
            lines.append(f"{alone:>12.5g} {known:>9.1%}  {next(names)}")
    verdict = agree(total, network, own, stop=False, damaged=0)
    return "\n".join(
        [
            f"step {record.step + 1} of {recipe.name}: loss {verdict.loss:.5g}, gradient norm "
            f"{verdict.gradient_norm:.5g} (in the run: {record.loss}, {record.gradient_norm})",
            f"{'loss':>12} {'labelled':>9}  picture",
            *lines,
            f"{'gradient':>12} {'weights':>9}  part of the network (norms)",
            *_norms(network),
        ]
    )


def _norms(network: Segmenter) -> list[str]:
    groups: dict[str, list[torch.nn.Parameter]] = defaultdict(list)
    for name, parameter in network.named_parameters():
        groups[".".join(name.split(".")[:2])].append(parameter)
    return [
        f"{_norm([p.grad for p in group if p.grad is not None]):>12.5g} "
        f"{_norm([p.detach() for p in group]):>9.3g}  {name}"
        for name, group in groups.items()
    ]


def _norm(tensors: list[Tensor]) -> float:
    return torch.nn.utils.get_total_norm(tensors).item()
