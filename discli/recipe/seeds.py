"""``train.seed``: one number, or one for each thing that is left to chance."""

from typing import Annotated, Any

from pydantic import Field, GetJsonSchemaHandler, SerializerFunctionWrapHandler, model_serializer, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from discli.recipe.spec import Count, Spec

SOURCES = ("init", "order", "noise")


class Seeds(Spec):
    """Seeds of a training by what they decide; a number stands for three that are equal.

    Each addresses random streams of its own (`discli.runtime.rng`), so that one can be changed while what the
    others decide stays the same to the bit.
    """

    init: Annotated[Count, Field(description="weights before the first step, those of auxiliary losses too")]
    order: Annotated[Count, Field(description="which samples a step has, and which of them are mirrored")]
    noise: Annotated[Count, Field(description="noise, timesteps, what is dropped or skipped, latents; previews")]

    @classmethod
    def of(cls, seed: int) -> "Seeds":
        """The same number for all."""
        return cls(init=seed, order=seed, noise=seed)

    @model_validator(mode="before")
    @classmethod
    def _one_for_all(cls, given: Any) -> Any:
        if isinstance(given, int) and not isinstance(given, bool):
            return dict.fromkeys(SOURCES, given)
        if not isinstance(given, dict | Seeds):
            raise ValueError("a seed is a whole number, or {init = 0, order = 0, noise = 0}")
        return given

    @model_serializer(mode="wrap")
    def _short(self, handler: SerializerFunctionWrapHandler) -> Any:
        return self.init if self.init == self.order == self.noise else handler(self)

    def __str__(self) -> str:
        """As in a trial's name: 3, or init-0,order-1,noise-2."""
        if self.init == self.order == self.noise:
            return str(self.init)
        return ",".join(f"{name}-{getattr(self, name)}" for name in SOURCES)


class _OrNumber:
    """The short form, to editors."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"type": "integer", "minimum": 0}, handler(schema)]}


SeedsOrNumber = Annotated[Seeds, _OrNumber()]
