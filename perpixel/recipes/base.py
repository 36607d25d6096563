"""What every part of a recipe is made of: frozen, typed values."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Size = tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]
UnitInterval = Annotated[float, Field(ge=0, le=1)]
HalfOpenUnit = Annotated[float, Field(ge=0, lt=1)]
PositiveInt = Annotated[int, Field(gt=0)]
Byte = Annotated[int, Field(ge=0, le=255)]
Color = tuple[Byte, Byte, Byte]


class Spec(BaseModel):
    """A frozen value; an unknown field is an error. A number is taken where text is due."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True
    )
