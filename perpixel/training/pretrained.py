"""Loads initial weights into a model before its first step."""

from collections.abc import Mapping

from torch import Tensor

from perpixel.checkpoints.format import InitialWeights, mismatches
from perpixel.data.dataset import plain_names
from perpixel.data.paths import first_few
from perpixel.errors import PerpixelError, plural
from perpixel.models.segmenter import Segmenter
from perpixel.training.checkpoint import strip_prefix


def load_pretrained(
    model: Segmenter, initial: InitialWeights, *, class_names: tuple[str, ...]
) -> list[str]:
    """Copies initial weights into `model`, of `class_names`; returns lines for the log.

    The backbone must fit: if not, PerpixelError lists the first mismatches. Of the heads every
    tensor is taken that fits by name and shape, and the others keep their fresh random weights. A
    classifier of classes with other names is not taken, even if it has as many.
    """
    state, offered = _without_counters(model.state_dict()), _without_counters(initial.weights)
    problems = mismatches(strip_prefix("backbone.", state), strip_prefix("backbone.", offered))
    if problems:
        raise PerpixelError(
            f"the initial weights, {initial.origin}, do not fit the recipe's backbone in "
            f"{len(problems)} places, the first of which are:\n  "
            + "\n  ".join(problems[:5])
            + "\nGive other weights with --init, or set model.backbone to that of these weights, "
            "as --model-from does"
        )
    names_there = class_names if initial.class_names is None else initial.class_names
    names_differ = plain_names(names_there) != plain_names(class_names)
    taken: dict[str, Tensor] = {}
    fresh = []
    for name, tensor in state.items():
        other = offered.get(name)
        is_per_class = tensor.shape[:1] == (model.num_classes,) and not name.startswith("backbone.")
        if other is None:
            fresh.append(f"{name} {list(tensor.shape)} (absent there)")
        elif other.shape != tensor.shape:
            fresh.append(f"{name} {list(tensor.shape)} (there {list(other.shape)})")
        elif names_differ and is_per_class:  # in a custom head by any name
            fresh.append(f"{name} {list(tensor.shape)} (of other classes)")
        else:
            taken[name] = other
    model.load_state_dict(taken, strict=False)

    lines = [
        f"initial weights from {initial.origin}: {len(taken)} of {len(state)} tensors, "
        f"{_count_values(taken):,} of {_count_values(state):,} values"
    ]
    if fresh:
        lines.append(f"freshly initialized, {plural(len(fresh), 'tensor')}: {first_few(fresh)}")
    if names_differ:
        lines.append(
            f"the classifier starts anew, as the classes differ: there {first_few(names_there)}; "
            f"here {first_few(class_names)}"
        )
    if unused := [name for name in offered if name not in state]:
        lines.append(f"not used, {plural(len(unused), 'tensor')}: {first_few(unused)}")
    return [*lines, *initial.lines]


def _count_values(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values())


def _without_counters(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drops batch norm's num_batches_tracked, which old files and frozen norms do not have."""
    counter = ".num_batches_tracked"
    return {name: tensor for name, tensor in weights.items() if not name.endswith(counter)}
