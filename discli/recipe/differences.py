"""Which settings differ between two trees of them."""

from collections.abc import Mapping
from typing import Any

_SHOWN = 8  # of a list in a message


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted key, old value, new value) of every leaf that is not the same, in order of the keys.

    A table beside nothing is its leaves beside nothing; beside a value, it is one, too.
    """
    found: list[tuple[str, Any, Any]] = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if (a is None or isinstance(a, dict)) and (b is None or isinstance(b, dict)):
            found += differences(a or {}, b or {}, f"{prefix}{key}.")
        elif a != b:
            found.append((f"{prefix}{key}", a, b))
    return found


def first_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first of `differences`; None where there is none."""
    return next(iter(differences(old, new)), None)


def brief(value: Any) -> str:
    """``value`` as a message shows it: of a long list, such as a mean of each of 128 channels, both ends."""
    if not isinstance(value, list) or len(value) <= _SHOWN:
        return repr(value)
    return f"[{value[0]!r}, {value[1]!r}, ..., {value[-1]!r}] ({len(value):,} values)"
