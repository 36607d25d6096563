"""Loads pretrained weights into a model before its first step."""

from collections.abc import Mapping

from torch import Tensor

from perpixel.checkpoints.format import mismatches
from perpixel.errors import PerpixelError
from perpixel.models.segmenter import Segmenter
from perpixel.training.checkpoint import strip_prefix

_PARTS = ("backbone", "head", "auxiliary")
_COUNTER = ".num_batches_tracked"


def load_pretrained(model: Segmenter, weights: Mapping[str, Tensor]) -> str:
    """Copies `weights` (our names) into `model`; returns a line that says what was taken.

    The backbone must fit: if not, PerpixelError lists the first mismatches. A head is taken when
    all of it fits, and otherwise keeps its fresh random weights, as with other classes.
    """
    state = model.state_dict()
    taken, fresh = [], []
    for part in _PARTS:
        expected, offered = strip_prefix(f"{part}.", state), strip_prefix(f"{part}.", weights)
        if not expected:
            continue
        offered = _counters_as_in(expected, offered)
        problems = mismatches(expected, offered)
        if problems and part == "backbone":
            raise PerpixelError(
                f"the initial weights do not fit the recipe's backbone in {len(problems)} places, "
                f"the first of which are:\n  " + "\n  ".join(problems[:5]) + "\n"
                "Give other weights with --init, or set model.backbone to that of these weights"
            )
        if problems:
            fresh.append(part)
        else:
            state |= {f"{part}.{name}": tensor for name, tensor in offered.items()}
            taken.append(part)
    model.load_state_dict(state)
    line = f"initial weights for the {' and the '.join(taken)}"
    return line + (f"; the {' and the '.join(fresh)} from random numbers" if fresh else "")


def _counters_as_in(
    expected: Mapping[str, Tensor], offered: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Adds or drops batch norm's num_batches_tracked, so that `offered` has those of `expected`.

    Files of 2018 and before lack them, and a frozen norm counts nothing.
    """
    counters = {name: tensor for name, tensor in expected.items() if name.endswith(_COUNTER)}
    weights = {name: tensor for name, tensor in offered.items() if not name.endswith(_COUNTER)}
    return weights | {name: offered.get(name, zero) for name, zero in counters.items()}
