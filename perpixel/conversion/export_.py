"""From our model to another toolkit's state dict."""

from torch import Tensor

from perpixel.conversion.detect import TOOLKITS
from perpixel.conversion.names import to_theirs
from perpixel.conversion.structure import resnet_of
from perpixel.errors import PerpixelError, UsageError
from perpixel.models.segmenter import Segmenter

WRITTEN = tuple(name for name, toolkit in TOOLKITS.items() if toolkit.inexpressible is not None)
"""The toolkits whose layout can be written."""


def to_state_dict(model: Segmenter, *, toolkit: str) -> dict[str, Tensor]:
    """The model's weights under the names of "mmseg" or "torchvision".

    `from_state_dict` gives back the same model, where it is told what names and shapes do not
    tell; in the toolkit that is the config's business. Raises UsageError for another toolkit,
    PerpixelError for a model that the toolkit cannot build, saying why.
    """
    chosen = TOOLKITS.get(toolkit)
    if chosen is None or chosen.inexpressible is None:
        raise UsageError(f"weights are written for {' or '.join(WRITTEN)}, not for {toolkit!r}")
    rules = chosen.inexpressible(model.spec, resnet_of(model.spec))
    if reasons := [reason for holds, reason in rules if holds]:
        raise PerpixelError(f"{toolkit} cannot build this model: it has {'; '.join(reasons)}")
    own = model.state_dict()
    theirs = to_theirs(chosen.rows, own)
    return {theirs[name]: tensor.detach().clone() for name, tensor in own.items()}
