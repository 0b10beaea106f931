"""What happens to files: bytes lost, flipped and overwritten, JSON of another shape, pickles in disguise.

``DISCLI_FUZZ=50 pytest tests/fuzz`` tries fifty times as many cases, other ones each time.
"""

import copy
import hashlib
import json
import os
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from discli.runtime.errors import DiscliError

Result = TypeVar("Result")

_FACTOR = int(os.environ.get("DISCLI_FUZZ", "1"))


def examples(count: int) -> settings:
    """So many cases, the same ones in every run unless somebody asks for more."""
    return settings(
        max_examples=count * _FACTOR,
        derandomize=_FACTOR == 1,
        database=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def answer(call: Callable[[], Result]) -> Result | None:
    """What ``call`` returns, or None where it refuses as a user should be refused. Anything else is a bug."""
    try:
        return call()
    except DiscliError as error:
        refusal = error
    for line in (refusal.message, refusal.hint):
        assert line.strip(), f"nothing said: {refusal.message!r}, {refusal.hint!r}"
        assert len(line.splitlines()) == 1, f"more than a line: {line!r}"
        assert len(line) < 3000, f"a wall of text: {line[:200]!r}..."
    assert refusal.status in (1, 2)
    return None


class _Mark:
    """Unpickling it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def code(sentinel: Path) -> bytes:
    """A pickle that makes ``sentinel`` when it is loaded."""
    return pickle.dumps(_Mark(sentinel))


def with_code(sentinel: Path) -> _Mark:
    """The object of which `code` is the pickle, for other formats to pack."""
    return _Mark(sentinel)


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    """``good`` after an accident; the same bytes at times."""
    at = draw(st.integers(0, max(len(good) - 1, 0)))
    size = draw(st.sampled_from([1, 2, 4, 8, 64, 1024]))
    match draw(st.sampled_from(["flip", "flip", "overwrite", "cut", "lose", "insert", "blank", "other"])):
        case "flip":
            content = bytearray(good)
            for place in draw(st.lists(st.integers(0, max(8 * len(good) - 1, 0)), min_size=1, max_size=4)):
                content[place // 8 : place // 8 + 1] = bytes(b ^ (1 << place % 8) for b in content[place // 8 :][:1])
            return bytes(content)
        case "overwrite":
            some = draw(st.binary(min_size=size, max_size=size))
            return good[:at] + some + good[at + size :]
        case "cut":
            return good[:at]
        case "lose":
            return good[:at] + good[at + size :]
        case "insert":
            return good[:at] + draw(st.binary(min_size=1, max_size=size)) + good[at:]
        case "blank":
            return good[:at] + bytes(min(size, len(good) - at)) + good[at + size :]
        case _:
            return draw(st.sampled_from([b"", b"hello\n", b"\x00" * 4096, b"\xff\xfe{}", b"\xef\xbb\xbf{}"]))


def nested(depth: int = 100_000) -> str:
    """JSON, and TOML's value, deeper than a parser can follow."""
    return "[" * depth + "]" * depth


ODD: list[Any] = [
    None, True, False, -1, 0, 1, 3, 2**31, 2**63, -(2**63), 10**400, 0.5, -0.0, 1e308, 5e-324, float("nan"),
    float("inf"), -float("inf"), "", "x", "0", "\x00", "\ud800", "a\nb", "\u2028", "[/x]", "[bold]", "../../up", "²",
    "x" * 5000, [], [[]], [1, 2], ["a", None], {}, {"name": "x"}, {"name": []}, {"x": {"y": [1]}},
]  # fmt: skip


@st.composite
def spoiled(draw: st.DrawFn, tree: Any) -> Any:
    """A JSON tree in which one to three values are odd, gone, or under another name."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(tree))
        if not places:
            return draw(st.sampled_from(ODD))
        holder, key = draw(st.sampled_from(places))
        match draw(st.sampled_from(["odd", "odd", "odd", "gone", "renamed", "more"])):
            case "gone":
                del holder[key]
            case "renamed" if isinstance(holder, dict):
                holder[draw(st.sampled_from(["", "x", "name", "²", "a.b"]))] = holder.pop(key)
            case "more" if isinstance(holder, dict):
                holder["more"] = draw(st.sampled_from(ODD))
            case _:
                holder[key] = copy.deepcopy(draw(st.sampled_from(ODD)))
    return tree


def _places(tree: Any) -> Iterable[tuple[Any, Any]]:
    keys: Iterable[Any] = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in list(keys)[:20]:
        yield tree, key
        yield from _places(tree[key])


@st.composite
def damaged_json(draw: st.DrawFn, good: bytes) -> bytes:
    """A JSON file after an accident, or written by something else."""
    kind = draw(st.sampled_from(["tree", "tree", "tree", "bytes", "whole"]))
    if kind == "tree":
        return json.dumps(draw(spoiled(json.loads(good)))).encode()
    if kind == "bytes":
        return draw(damaged(good))
    return draw(st.sampled_from([json.dumps(odd).encode() for odd in ODD] + [nested().encode(), b"9" * 5000]))


def contents(folder: Path, *but: str) -> dict[str, str]:
    """Path -> sha256 of every file in a folder, those of the names ``but`` left out."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in but)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
