"""Loads initial weights into a model before its first step."""

from collections import Counter
from collections.abc import Mapping

from torch import Tensor

from perpixel.checkpoints.format import InitialWeights, mismatches
from perpixel.data.dataset import plain_names
from perpixel.errors import PerpixelError
from perpixel.models.segmenter import Segmenter
from perpixel.recipes.models import CustomHead
from perpixel.training.checkpoint import strip_prefix

_COUNTER = ".num_batches_tracked"


def load_pretrained(
    model: Segmenter, initial: InitialWeights, *, class_names: tuple[str, ...]
) -> list[str]:
    """Copies initial weights into `model`, of `class_names`; returns lines for the log.

    The backbone must fit: if not, PerpixelError lists the first mismatches. Of the heads every
    tensor is taken that fits by name and shape, and the others keep their fresh random weights. A
    classifier of classes with other names is not taken, even if it has as many.
    """
    state, offered = _without_counters(model.state_dict()), _without_counters(initial.weights)
    backbone = strip_prefix("backbone.", state)
    if problems := mismatches(backbone, strip_prefix("backbone.", offered)):
        raise PerpixelError(
            f"the initial weights, {initial.source.name}, do not fit the recipe's backbone in "
            f"{len(problems)} places, the first of which are:\n  "
            + "\n  ".join(problems[:5])
            + "\n"
            "Give other weights with --init, or set model.backbone to that of these weights, as "
            "--model-from does"
        )
    names_differ = initial.class_names is not None and (
        plain_names(initial.class_names) != plain_names(class_names)
    )
    fresh: dict[str, str] = {}
    taken: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name not in offered:
            fresh[name] = "absent"
        elif offered[name].shape != tensor.shape:
            fresh[name] = f"there {list(offered[name].shape)}"
        elif names_differ and _depends_on_classes(model, name, tensor):
            fresh[name] = "of other classes"
        else:
            taken[name] = offered[name]
    shared = model.state_dict().keys() & initial.weights.keys()
    counters = {name: initial.weights[name] for name in shared if name.endswith(_COUNTER)}
    model.load_state_dict(model.state_dict() | counters | taken)

    lines = [
        f"initial weights from {initial.source}: {len(taken)} of {len(state)} tensors, "
        f"{_count_values(taken):,} of {_count_values(state):,} values"
    ]
    if fresh:
        parts = (_describe_fresh(part, state, fresh) for part in ("head", "auxiliary"))
        lines.append(f"from random numbers: {'; '.join(filter(None, parts))}")
    if names_differ and initial.class_names is not None:
        lines.append(
            f"the classifier starts anew, as the classes differ: there "
            f"{_list(initial.class_names)}; here {_list(class_names)}"
        )
    elif initial.class_names is None and "head.classifier.weight" in taken:
        lines.append("the classifier is taken, too, though these weights name no classes")
    if unused := Counter(".".join(name.split(".")[:2]) for name in offered if name not in state):
        groups = (f"{module} ({count})" for module, count in sorted(unused.items()))
        lines.append(f"not used: {', '.join(groups)}")
    return [*lines, *initial.lines]


def _depends_on_classes(model: Segmenter, name: str, tensor: Tensor) -> bool:
    """Returns whether a weight belongs to single classes.

    A custom head may call its classifier as it likes: there the first size tells.
    """
    if name.startswith("head.") and isinstance(model.spec.head, CustomHead):
        return tensor.shape[:1] == (model.num_classes,)
    return name.startswith(("head.classifier.", "auxiliary.classifier."))


def _describe_fresh(part: str, state: Mapping[str, Tensor], fresh: Mapping[str, str]) -> str:
    """Returns the fresh tensors of a head, with both shapes, or that all of it is fresh."""
    names = [name for name in state if name.startswith(f"{part}.")]
    if names and all(fresh.get(name) == "absent" for name in names):
        return f"the {part} ({len(names)} tensors), absent there"
    grouped: dict[tuple[str, str], list[str]] = {}
    for name in names:
        if name in fresh:
            module, _, parameter = name.rpartition(".")
            reason = f"{list(state[name].shape)} ({fresh[name]})"
            grouped.setdefault((module, reason), []).append(parameter)
    return ", ".join(
        f"{module}.{'/'.join(parameters)} {reason}"
        for (module, reason), parameters in grouped.items()
    )


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _count_values(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values())


def _without_counters(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drops batch norm's num_batches_tracked, which old files and frozen norms do not have."""
    return {name: tensor for name, tensor in weights.items() if not name.endswith(_COUNTER)}
