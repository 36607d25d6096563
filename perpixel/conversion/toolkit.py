"""What there is to say about a toolkit: its names for our modules, and what names cannot tell."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from perpixel.conversion.names import Rows
from perpixel.recipes.models import Model, ResNet
from perpixel.recipes.schema import Inference, Input

Rules = Iterable[tuple[bool, str]]


@dataclass(frozen=True)
class Toolkit:
    """A toolkit's naming and semantics.

    `fcn` and `semantic_fpn` are models as the toolkit builds them, None where it has no such
    thing. Conversion replaces what a state dict's names and shapes tell (depth, stem, widths, ...)
    and keeps what they cannot: output stride, dilations, the place of the stride in a bottleneck,
    align_corners, dropout. `constants` are entries of old files that hold `input`'s mean and std.
    `inexpressible` says what the toolkit cannot build, and whether a model and its backbone have
    it; None where nothing is written in its layout.
    """

    name: str
    rows: Rows
    fcn: Model | None
    semantic_fpn: Model | None
    input: Input
    inference: Inference
    constants: tuple[str, str] | None = None
    inexpressible: Callable[[Model, ResNet], Rules] | None = None
