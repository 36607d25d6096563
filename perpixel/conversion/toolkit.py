"""What conversion knows of a toolkit: its parameter names, models, input and inference."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from perpixel.conversion.names import NameMap
from perpixel.recipes.models import Model
from perpixel.recipes.schema import Inference, Input

Rules = Iterable[tuple[bool, str]]


@dataclass(frozen=True)
class Toolkit:
    """A toolkit's parameter names and what they do not tell.

    `fcn` and `semantic_fpn` are models as the toolkit builds them, None where it has none.
    Conversion replaces what a state dict's names and shapes tell (depth, stem, channels, ...) and
    keeps the rest: output stride, dilations, the place of the stride in a bottleneck,
    align_corners, dropout. `mean_std_names` are entries of old files that hold `input`'s mean and
    std. `unsupported` takes a model and gives pairs (has it, what the toolkit cannot build); it is
    None where this layout is not written. With `head_alone` its files hold no backbone.
    """

    name: str
    name_map: NameMap
    fcn: Model | None
    semantic_fpn: Model | None
    input: Input
    inference: Inference
    mean_std_names: tuple[str, str] | None = None
    unsupported: Callable[[Model], Rules] | None = None
    head_alone: bool = False
