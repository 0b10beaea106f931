"""What every option in a recipe has in common."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict


class Spec(BaseModel):
    """A frozen group of settings that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def by_name(default: str) -> tuple[Any, Any]:
    """Annotates a union of Specs that differ in their literal ``name``; the union is the registry.

    ``skip = "concat"`` is short for ``skip = {name = "concat"}``, and a table without a name
    refines the default choice.
    """

    def named(value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        return {"name": default, **value} if isinstance(value, dict) else value

    return Field(discriminator="name"), BeforeValidator(named)


# Strict: a recipe that says depth = "25" or compile = 1 is more likely mistaken than terse.
Flag = Annotated[bool, Strict()]
Count = Annotated[int, Strict(), Field(ge=0)]
PositiveInt = Annotated[int, Strict(), Field(gt=0)]
Real = Annotated[float, Strict()]
Positive = Annotated[float, Strict(), Field(gt=0)]
Fraction = Annotated[float, Strict(), Field(ge=0.0, le=1.0)]
