"""JSON Schema of a recipe file, for editors that check and complete TOML (Taplo, Even Better TOML)."""

from typing import Any

from discli.recipe.recipe import Recipe

Schema = dict[str, Any]


def recipe_schema() -> Schema:
    """What the loader takes, in draft 7, the draft that Taplo knows.

    Everything that the loader accepts is valid, ``extends`` and short forms included. The reverse
    cannot be had: what relates two settings (sizes that divide, a sampler that fits the objective),
    and what a choice's table needs when no parent recipe supplies it, only the loader knows.
    """
    recipe = Recipe.model_json_schema(ref_template="#/definitions/{model}")
    definitions: dict[str, Schema] = recipe.pop("$defs")
    for spec in (recipe, *definitions.values()):
        spec["properties"] = {key: _in_toml(value) for key, value in spec["properties"].items()}
    needed = {spec["title"]: spec.pop("required", []) for spec in (recipe, *definitions.values())}

    extends = {"type": "string", "description": "a recipe that this one builds on, relative to this file"}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        **recipe,
        "title": "discli recipe",
        "properties": {"extends": extends, **recipe["properties"]},
        # A recipe that extends another may leave everything to it.
        "if": {"not": {"required": ["extends"]}},
        "then": {
            "required": needed[recipe["title"]],
            "properties": {
                "model": {"anyOf": [{"required": ["preset"]}, {"required": needed["ModelSpec"]}]},
                "data": {"required": needed["DataSpec"]},
                "train": {"required": needed["TrainSpec"]},
            },
        },
        "definitions": definitions,
    }


def _in_toml(setting: Schema) -> Schema:
    """One setting as TOML writes it: there is no null, and a choice's default is its name."""
    setting = {key: value for key, value in setting.items() if key != "title"}
    if "prefixItems" in setting:  # later than draft 7
        setting["items"] = setting.pop("prefixItems")
    if "anyOf" in setting:
        kinds = [kind for kind in setting.pop("anyOf") if kind != {"type": "null"}]
        setting = {**kinds[0], **setting} if len(kinds) == 1 else {"anyOf": kinds, **setting}
    default = _plain(setting.pop("default", None))
    return setting if default is None else {**setting, "default": default}


def _plain(value: Any) -> Any:
    """A default as one would write it."""
    if isinstance(value, dict):
        value = {key: _plain(item) for key, item in value.items() if item is not None}
        return value["name"] if value.keys() == {"name"} else value
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
