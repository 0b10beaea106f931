"""The house can be counted: few rooms, imports that point down, and only cli/ speaks.

Contracts of import-linter say which room may import which; here is how many there are and how deep they go.
"""

import ast
import tomllib
from functools import cache
from pathlib import Path

import pytest

import discli

HOUSE = Path(discli.__file__).parent
CONTRACT = HOUSE.parent / "pyproject.toml"
ENTRIES, LAYERS, CHAIN = 16, 10, 10
DICTS_OF_ANY = 62  # occurrences of dict[str, Any] outside cli/; lower it with each that goes


@cache
def _sources() -> dict[str, ast.Module]:
    """Module files of the package by their path in it."""
    files = sorted(HOUSE.rglob("*.py"))
    return {str(file.relative_to(HOUSE)): ast.parse(file.read_text(encoding="utf-8")) for file in files}


def _entries() -> list[str]:
    """The folders and modules of code at the top of discli/."""
    tops = {path.partition("/")[0] for path in _sources()}
    return sorted(tops - {"__init__.py", "__main__.py"})


def _imports(tree: ast.AST) -> set[str]:
    """What a file imports of the package, wherever in it, but for type checkers alone."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names] if node.module else []
        found |= {name.split(".")[1] for name in names if name.startswith("discli.")}
        found |= _imports(node)
    return found


def _rooms() -> dict[str, set[str]]:
    """Room -> the other rooms that its files import."""
    entries = set(_entries())
    rooms: dict[str, set[str]] = {name: set() for name in entries}
    for path, tree in _sources().items():
        room = path.partition("/")[0]
        if room in rooms:
            rooms[room] |= (_imports(tree) & entries) - {room}
    return rooms


def _longest_chain(rooms: dict[str, set[str]]) -> list[str]:
    """The longest chain of rooms that import one another. RecursionError where they go round in circles."""

    @cache
    def below(room: str) -> tuple[str, ...]:
        return (room, *max(map(below, rooms[room]), key=len, default=()))

    return list(max(map(below, rooms), key=len))


def test_the_top_has_few_entries():
    assert "cli" in _entries()
    assert len(_entries()) <= ENTRIES, _entries()


def test_every_room_has_its_layer_and_layers_are_few():
    contracts = tomllib.loads(CONTRACT.read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = (contract for contract in contracts if contract["type"] == "layers")
    layers = [[room.strip().removeprefix("discli.") for room in layer.split("|")] for layer in contract["layers"]]
    assert sorted(room for layer in layers for room in layer) == _entries()
    assert len(layers) <= LAYERS


def test_no_chain_of_rooms_is_long():
    chain = _longest_chain(_rooms())
    assert chain[0] == "cli"
    assert len(chain) <= CHAIN, " -> ".join(chain)


def test_circles_are_found():
    with pytest.raises(RecursionError):
        _longest_chain({"a": {"b"}, "b": {"a"}})


def _speaks(node: ast.AST) -> bool:
    """Prints on stdout, or ends the program."""
    match node:
        case ast.Call(func=ast.Name(id="print"), keywords=keywords):
            return all(keyword.arg != "file" for keyword in keywords)
        case ast.Call(func=ast.Attribute(attr="exit", value=ast.Name(id="sys"))):
            return True
        case ast.Name(id="SystemExit" | "redirect_stdout"):
            return True
        case ast.Attribute(attr="echo" | "Exit", value=ast.Name(id="typer")):
            return True
        case ast.Call(func=ast.Name(id="Console"), keywords=keywords):  # rich's, on stdout unless told otherwise
            return all(keyword.arg not in ("stderr", "file") for keyword in keywords)
    return False


def test_only_cli_speaks():
    speak = {path for path, tree in _sources().items() if any(map(_speaks, ast.walk(tree)))}
    assert {path for path in speak if path.startswith("cli/")}, "nothing found: proves nothing"
    assert {path for path in speak if not path.startswith("cli/")} == set()


def test_what_crosses_rooms_has_types():
    found = sum(
        ast.unparse(node) == "dict[str, Any]"
        for path, tree in _sources().items()
        if not path.startswith("cli/")
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript)
    )
    assert found <= DICTS_OF_ANY
