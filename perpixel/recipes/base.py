"""The base class and value types of all parts of a recipe."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Size = tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]
UnitInterval = Annotated[float, Field(ge=0, le=1)]
HalfOpenUnit = Annotated[float, Field(ge=0, lt=1)]
PositiveInt = Annotated[int, Field(gt=0)]
Byte = Annotated[int, Field(ge=0, le=255)]
Color = tuple[Byte, Byte, Byte]


class Spec(BaseModel):
    """Base class of frozen values: an unknown field is an error, a number is accepted as text."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True
    )
