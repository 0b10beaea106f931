"""What every option in a recipe has in common."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, Strict
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from discli.runtime.plugins import plugins

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)

# Specs that `discli.recipe.choices` has run, by module and class.
read_before: dict[tuple[str, str], Any] = {}


class _RunOnce(ModelMetaclass):
    """Importing a file whose Specs were read already gives those, not others of the same name."""

    def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **kwargs: Any) -> Any:
        read = read_before.get((namespace.get("__module__", ""), namespace.get("__qualname__", "")))
        return read or super().__new__(cls, name, bases, namespace, **kwargs)


class Spec(BaseModel, metaclass=_RunOnce):
    """A frozen group of settings that refuses keys it does not know."""

    # Neither has a form in JSON, which is what every run writes its recipe down in.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ChoiceSpec(Spec):
    """One of several that a recipe may name: ``name: Literal["concat"] = "concat"``, then its own settings."""

    name: str


def by_name(default: str) -> tuple[Any, Any]:
    """Annotates a union of Specs that differ in their literal ``name``; the union is the registry.

    ``skip = "concat"`` is short for ``skip = {name = "concat"}``, and a table without a name
    refines the default choice.
    """
    return Field(discriminator="name"), _ShortForm(default)


class _ShortForm:
    """What `by_name` says of names and tables, to pydantic and in JSON Schema."""

    def __init__(self, default: str) -> None:
        self.default = default

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._named, handler(source))

    def _named(self, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        return {"name": self.default, **value} if isinstance(value, dict) else value

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        tables = handler(schema)["oneOf"]
        names, meanings = [], []
        for table in tables:
            spec = handler.resolve_ref_schema(table)
            summary = " ".join(spec["description"].split("\n\n")[0].split())
            spec["properties"]["name"]["description"] = summary
            if "required" not in spec:  # a name alone says enough
                names.append(spec["properties"]["name"]["const"])
                meanings.append(summary)
        # x-taplo: what the editors' TOML extension shows beside each name that it offers.
        short = {"enum": names, "x-taplo": {"docs": {"enumValues": meanings}}}
        # Not oneOf: a table without a name may be one of several, where a parent recipe has the name.
        return {"anyOf": [short, *tables]}


class OrNone:
    """Annotates an optional table: ``"none"`` takes away the one that a parent recipe has."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._absent, handler(source))

    def _absent(self, value: Any) -> Any:
        return None if value == "none" else value

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"const": "none"}, *handler(schema)["anyOf"]]}


LIST_TAGS = ("one", "a list")  # in pydantic's locations


class ListToo:
    """Annotates a union of Specs that may also be given as a list of one or more, which becomes a tuple."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        one = handler(source)
        choices = dict(zip(LIST_TAGS, (one, core_schema.tuple_variable_schema(one, min_length=1)), strict=True))
        return core_schema.tagged_union_schema(choices, lambda value: LIST_TAGS[isinstance(value, list | tuple)])

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        one = handler(schema["choices"][LIST_TAGS[0]])
        return {"anyOf": [*one["anyOf"], {"type": "array", "items": one, "minItems": 1}]}


# Strict: a recipe that says depth = "25" or compile = 1 is more likely mistaken than terse.
Flag = Annotated[bool, Strict()]
_LARGEST = 2**63 - 1  # of TOML's integers
Count = Annotated[int, Strict(), Field(ge=0, le=_LARGEST)]
PositiveInt = Annotated[int, Strict(), Field(gt=0, le=_LARGEST)]
Real = Annotated[float, Strict()]
Positive = Annotated[float, Strict(), Field(gt=0)]
NotNegative = Annotated[float, Strict(), Field(ge=0)]
Fraction = Annotated[float, Strict(), Field(ge=0.0, le=1.0)]

if TYPE_CHECKING:
    FeatureName = str
else:
    FeatureName = Annotated[
        Literal[tuple(plugins("evaluation/features", "inception"))],
        Field(description="cifar10, random and efficientnet-lite0 (pip install) need no download and are not FID"),
    ]
