"""Which settings of a recipe are not what they would be if nobody had set them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from discli.recipe.presets import PRESETS
from discli.recipe.recipe import Recipe
from discli.recipe.seeds import Seeds
from discli.recipe.spec import Spec
from discli.recipe.toml import toml_value


@dataclass(frozen=True)
class Setting:
    """One line of a recipe, as TOML; a table's heading where ``key`` is empty."""

    table: str
    key: str
    text: str
    chosen: bool  # not the default, or without one


def settings(recipe: Recipe) -> Iterator[Setting]:
    """Every setting of a recipe, table by table. Together their texts are a TOML document of the recipe."""
    yield from _lines(recipe, "")
    yield from _tables(recipe, "")


def _tables(spec: Spec, prefix: str) -> Iterator[Setting]:
    for key, value in spec:
        if _is_table(value):
            table = f"{prefix}{key}"
            yield Setting(table, "", f"[{table}]", chosen=False)
            yield from _lines(value, table)
            yield from _tables(value, f"{table}.")


def _lines(spec: Spec, table: str) -> Iterator[Setting]:
    plain = spec.model_dump(mode="json")
    preset = PRESETS.get(plain.get("preset") or "", {})
    for key, value in spec:
        if not _is_table(value) and value is not None:
            default = preset.get(key, type(spec).model_fields[key].default)
            yield Setting(table, key, f"{key} = {toml_value(plain[key])}", chosen=value != default)


def _is_table(value: Any) -> bool:
    """Choices have names and stand on one line; so do seeds, mostly a number."""
    return isinstance(value, Spec) and not isinstance(value, Seeds) and "name" not in type(value).model_fields
