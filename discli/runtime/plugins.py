"""Extensions that are one file each: classes found by the folder that their file is in.

A class counts where its body says ``name = "..."``. Names and first lines are read without running a line of the
file, because help and completion need them and must not wait for torch; `Plugin.load` imports it.
"""

import ast
import importlib
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from discli.runtime.errors import DiscliError, did_you_mean

_PACKAGE = Path(__file__).parents[1]


class Plugin(NamedTuple):
    """``summary`` is the first line of the class's docstring."""

    name: str
    summary: str
    module: str
    class_name: str

    def load(self) -> Any:
        """The class. Raises DiscliError where its file cannot be imported."""
        try:
            return getattr(importlib.import_module(self.module), self.class_name)
        except (SyntaxError, ImportError, AttributeError) as error:
            file = self.module.replace(".", "/") + ".py"
            raise DiscliError(f"{file} cannot be imported: {error}.", "Correct it, or move it elsewhere.") from error


@cache
def plugins(folder: str, first: str) -> dict[str, Plugin]:
    """Those in the files of ``discli/folder`` by name, sorted, ``first`` before all others.

    Files that begin with an underscore are left alone. A file that is not valid Python stands under its own name,
    so that whoever asks for it learns why. Raises DiscliError for a name that two classes have.
    """
    found: dict[str, Plugin] = {}
    for path in sorted((_PACKAGE / folder).glob("[!_]*.py")):
        for plugin in _read(path, f"discli.{folder.replace('/', '.')}.{path.stem}"):
            if plugin.name in found:
                other = found[plugin.name].module
                raise DiscliError(f'{plugin.module}: the name "{plugin.name}" is taken by {other}.', "Choose another.")
            found[plugin.name] = plugin
    return {name: found[name] for name in sorted(found, key=lambda name: (name != first, name))}


def find_plugin(folder: str, first: str, flag: str, name: str) -> Plugin:
    """Raises DiscliError, which names the nearest, for a ``name`` that none has; ``flag`` is what asked for it."""
    there = plugins(folder, first)
    if name not in there:
        what = flag.lstrip("-")
        raise DiscliError(
            f"{flag} {name}: no such {what}.", did_you_mean(name, there) or f"Choose from {', '.join(there)}."
        )
    return there[name]


def _read(path: Path, module: str) -> list[Plugin]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError):
        return [Plugin(path.stem, "not valid Python", module, "")]
    return [
        Plugin(name, (ast.get_docstring(node) or "").split("\n")[0], module, node.name)
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        for name in _names(node)
    ]


def _names(node: ast.ClassDef) -> list[str]:
    """What the class's body assigns to ``name``, as a list of none or one."""
    return [
        str(line.value.value)
        for line in node.body
        if isinstance(line, ast.Assign | ast.AnnAssign) and isinstance(line.value, ast.Constant)
        for target in (line.targets if isinstance(line, ast.Assign) else [line.target])
        if isinstance(target, ast.Name) and target.id == "name"
    ]
