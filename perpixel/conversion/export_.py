"""Converts a model to another toolkit's state dict."""

from torch import Tensor

from perpixel.conversion.detect import TOOLKITS
from perpixel.conversion.names import to_toolkit_names
from perpixel.errors import PerpixelError, UsageError
from perpixel.models.segmenter import Segmenter


def to_state_dict(model: Segmenter, *, toolkit: str) -> dict[str, Tensor]:
    """Returns a copy of the model's weights under the names of "mmseg", "torchvision" or "caffe".

    `from_state_dict` makes the same model of them, given what names and shapes do not tell; in the
    toolkit its config says that. Raises UsageError for another toolkit, PerpixelError for a model
    that the toolkit cannot build, with the reasons.
    """
    target = TOOLKITS.get(toolkit)
    if target is None or target.unsupported is None:
        writable = [known.name for known in TOOLKITS.values() if known.unsupported is not None]
        raise UsageError(f"weights are written for {' or '.join(writable)}, not for {toolkit!r}")
    rules = target.unsupported(model.spec)
    if reasons := [reason for has_it, reason in rules if has_it]:
        raise PerpixelError(f"{toolkit} cannot build this model: it has {'; '.join(reasons)}")
    weights = model.state_dict()
    toolkit_names = to_toolkit_names(target.name_map, weights)
    return {toolkit_names[name]: tensor.detach().clone() for name, tensor in weights.items()}
