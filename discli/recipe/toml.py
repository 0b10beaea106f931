"""Settings as TOML, as the shipped recipes write it: a table for each section, whatever is deeper on one line."""

import json
import re
from collections.abc import Mapping
from typing import Any


def to_toml(tree: Mapping[str, Any]) -> str:
    """A tree of plain values as a TOML document. None has no form in TOML, and stands for absent everywhere here."""
    top = {key: value for key, value in tree.items() if not isinstance(value, Mapping)}
    lines = _lines(top)
    for section, settings in tree.items():
        if section not in top:
            lines += ["", f"[{section}]", *_lines(settings)]
    return "\n".join(lines) + "\n"


def toml_value(value: Any) -> str:
    """A plain value on one line; a choice without further settings in its short form."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return f"{value:_}" if abs(value) >= 10_000 else str(value)
        case float():
            return re.sub(r"e([+-])0+", r"e\1", repr(value))
        case {"name": str(name)} if len(value) == 1:
            return toml_value(name)
        case Mapping():
            return "{ " + ", ".join(_lines(value)) + " }" if value else "{}"
        case list() | tuple():
            return "[" + ", ".join(toml_value(item) for item in value) + "]"
        case _:
            # JSON's escapes are TOML's too; DEL is the one character that TOML alone wants escaped.
            return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _lines(settings: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {toml_value(value)}" for key, value in settings.items() if value is not None]
