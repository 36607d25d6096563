"""A step without a number, run again."""

from collections import defaultdict
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from perpixel import distributed
from perpixel.checkpoint import load_strictly, read_checkpoint
from perpixel.data.catalog import open_dataset
from perpixel.data.loader import batches
from perpixel.errors import PerpixelError
from perpixel.models.build import build, to_device
from perpixel.models.segmenter import Logits, Segmenter
from perpixel.recipes import settings
from perpixel.recipes.spec import IGNORE
from perpixel.training.step import (
    dropout_seed,
    forward,
    loss_from_logits,
    micro_batches,
    reduce_step_stats,
)
from perpixel.training.trouble import Record


def replay(path: Path, *, data: Path | None, device: str = "auto") -> str:
    """Runs the batch of a record again, forward and backward, and describes it in lines of text.

    Loss and labelled pixels of every picture, and the gradient's norm in every part of the network.
    All ranks' pictures are run in this process. Raises PerpixelError when the record or its
    weights cannot be read, or the data set has changed.
    """
    try:
        record = Record.model_validate_json(path.read_bytes())
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
    for part in micro_batches(batch.images.to(where), batch.labels.to(where), recipe, own):
        torch.manual_seed(dropout_seed(recipe.train.seed, record.step, part.number))
        output = forward(network, part.images, recipe, dtype=dtype)
        loss = part.factor * loss_from_logits(output, part.labels, recipe)
        torch.autograd.backward(loss)
        total = total + loss.detach()
        for index in range(len(part.labels)):
            one = slice(index, index + 1)
            auxiliary = None if output.auxiliary is None else output.auxiliary[one]
            logits = Logits(output.main[one], auxiliary)
            alone = loss_from_logits(logits, part.labels[one], recipe).item()
            known = (part.labels[index] != IGNORE).float().mean().item()
            lines.append(f"{alone:>12.5g} {known:>9.1%}  {next(names)}")
    stats = reduce_step_stats(total, network, own, loss_scale=1, stop=False, damaged=0)
    return "\n".join(
        [
            f"step {record.step + 1} of {recipe.name}: loss {stats.loss:.5g}, gradient norm "
            f"{stats.gradient_norm:.5g} (in the run: {record.loss}, {record.gradient_norm})",
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
