"""A recipe as a person would like to find it: what is chosen, and every other setting at hand, commented out.

All of it is read off the Specs (fields, defaults, choices, descriptions), so that it cannot go stale.
"""

import textwrap
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from discli.recipe.recipe import Recipe
from discli.recipe.toml import toml_value

_WIDTH = 118


def commented_toml(tree: Mapping[str, Any], opening: Sequence[str]) -> str:
    """The settings of ``tree`` under the comment ``opening``, each with its choices and its meaning.

    ``#key = value`` is a setting at its default: without the # it says the same, until its value is changed.
    """
    lines = [f"# {line}".rstrip() for line in opening]
    sections = {key: field for key, field in Recipe.model_fields.items() if _is_spec(field.annotation)}
    for key, field in Recipe.model_fields.items():
        if key not in sections:
            lines += _setting(key, field, tree)
    for key, field in sections.items():
        spec = field.annotation
        assert spec is not None
        lines += ["", *_prose(" ".join((spec.__doc__ or "").replace("``", "").split())), f"[{key}]"]
        for name, setting in spec.model_fields.items():
            lines += _setting(name, setting, tree.get(key, {}))
    return "\n".join(lines) + "\n"


def _setting(key: str, field: FieldInfo, chosen: Mapping[str, Any]) -> list[str]:
    meaning = "; ".join(part for part in (_choices(field.annotation), field.description) if part)
    if key in chosen:
        line = f"{key} = {toml_value(chosen[key])}"
    elif field.is_required():  # something else stands for it, as a preset does for width and depth
        return _prose(f"{key}: {meaning}")
    elif field.default is None:
        return _prose(f"{key}: not set; {meaning}")
    else:
        default = field.default
        plain = default.model_dump(mode="json", exclude_none=True) if isinstance(default, BaseModel) else default
        line = f"#{key} = {toml_value(plain)}"
    beside = f"{line:<34}  # {meaning}"
    return [beside] if len(beside) <= _WIDTH else [*_prose(meaning), line]


def _choices(annotation: Any) -> str:
    """``a | b (its setting, another)``: what a field may be, if that is one of a few names; else nothing."""
    kinds = [kind for kind in (get_args(annotation) or (annotation,)) if kind is not NoneType]
    if get_origin(annotation) is Literal:
        return " | ".join(kinds)
    named: list[str] = []
    for kind in kinds:
        if get_origin(kind) is Literal:
            named.append(_choices(kind))
        elif _is_spec(kind) and "name" in kind.model_fields:
            settings = ", ".join(key for key in kind.model_fields if key != "name")
            named.append(kind.model_fields["name"].default + (f" ({settings})" if settings else ""))
    return " | ".join(named)


def _is_spec(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _prose(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_long_words=False)
