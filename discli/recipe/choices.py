"""Choices that a recipe has, one file each: found by their folder, and read without importing torch.

A file such as ``discli/model/skips/concat.py`` holds a Spec (what a recipe may say, and the line that help
and schema show) and the class that says ``spec = ThatSpec`` (the network, the sampler). Recipes need the
Specs and must not wait for torch, so of each file only the Specs are run here, with the imports, constants
and functions that they use; `build` imports the file itself. A Spec is run once: the import finds the class
that was read here (`discli.recipe.spec.Spec`), so that there is one of each.

Nothing registers a choice but its place. Files that begin with an underscore are left alone, and so are Specs.
"""

import ast
import importlib
import inspect
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar, Union

from discli.runtime.errors import DiscliError

if TYPE_CHECKING:  # the command line reads names here, and has no time for pydantic
    from discli.recipe.spec import ChoiceSpec

    Kind = TypeVar("Kind", bound=ChoiceSpec)

_PACKAGE = Path(__file__).parents[1]
_MAY_USE = ("discli.recipe", "discli.runtime")
_FIX = "Correct it, or move the file out of the folder."


class Declared(NamedTuple):
    """What a Spec says of itself on paper."""

    name: str
    summary: str  # the first paragraph of its docstring
    constants: Mapping[str, Any]  # its plain values by name, such as a sampler's ``fits``


def declared(folder: str, default: str) -> list[Declared]:
    """The choices in ``discli/folder``, the default first, without running a line of them: for help and completion.

    A file that is not valid Python is left out. `read_choices` says what is wrong with it.
    """
    found = []
    for path in _files(folder):
        with suppress(DiscliError):
            found += [_declared(spec) for spec in _specs(_parse(path))]
    named = [one for one in found if one.name]
    return sorted(named, key=lambda one: one.name != default)


def read_choices(folder: str, kind: "type[Kind]", default: str) -> "dict[str, type[Kind]]":
    """The Specs of ``kind`` in the files of ``discli/folder`` by name: the default first, then file by file.

    Raises DiscliError for a file that is not valid Python, a Spec that cannot be run, has no name or no
    docstring, and for a name that is taken.
    """
    found: dict[str, type[Kind]] = {}
    where: dict[str, str] = {}
    for path in _files(folder):
        for spec in _run(path):
            if not issubclass(spec, kind) or spec.__name__.startswith("_"):
                continue
            name, file = spec.model_fields["name"].default, _shown(path)
            if not isinstance(name, str):
                raise DiscliError(f"{file}: {spec.__name__} has no name.", 'Give it one: name: Literal["it"] = "it".')
            if not spec.__doc__:
                raise DiscliError(f"{file}: {spec.__name__} has no docstring.", "Give it a line: help shows it.")
            if name in found:
                raise DiscliError(f'{file}: the name "{name}" is taken by {where[name]}.', "Choose another name.")
            found[name], where[name] = spec, file
    return {default: found.pop(default), **found}


def one_of(choices: "Mapping[str, type[ChoiceSpec]]") -> Any:
    """The type of a field that is one of ``choices``; the first is refined by a table without a name."""
    from discli.recipe.spec import by_name

    return Annotated[Union[tuple(choices.values())], *by_name(next(iter(choices)))]  # noqa: UP007


def default_of(choices: "Mapping[str, type[Kind]]") -> "Kind":
    """The first of ``choices``, with its own defaults."""
    return next(iter(choices.values()))()


def build(choice: "ChoiceSpec", *args: Any, **kwargs: Any) -> Any:
    """What ``choice`` stands for: its class, called with the arguments and the Spec's own settings by name.

    Raises DiscliError where the Spec's file has no such class, or one that takes other settings.
    """
    settings = {key: getattr(choice, key) for key in type(choice).model_fields if key != "name"}
    made = implementation(type(choice))
    try:
        inspect.signature(made).bind(*args, **kwargs, **settings)
    except TypeError as error:
        file = made.__module__.replace(".", "/") + ".py"
        raise DiscliError(
            f"{file}: {made.__name__}: {error}.", "Its __init__ takes every setting of its Spec."
        ) from None
    return made(*args, **kwargs, **settings)


def implementation(spec: "type[ChoiceSpec]") -> Any:
    """The class with ``spec = ThatSpec``, in the Spec's own file, which is imported.

    Raises DiscliError without one, and for one that lacks a method which all of its kind have.
    """
    module = importlib.import_module(spec.__module__)
    file = spec.__module__.replace(".", "/") + ".py"
    for value in vars(module).values():
        if isinstance(value, type) and value.__dict__.get("spec") is spec:
            if missing := ", ".join(sorted(getattr(value, "__abstractmethods__", ()))):
                raise DiscliError(f"{file}: {value.__name__} lacks {missing}.", "Its neighbours show what it is for.")
            return value
    raise DiscliError(f"{file}: no class has spec = {spec.__name__}.", "Add the class that it stands for.")


def _files(folder: str) -> list[Path]:
    return [path for path in sorted((_PACKAGE / folder).glob("*.py")) if not path.name.startswith("_")]


def _shown(path: Path) -> str:
    return path.relative_to(_PACKAGE.parent).as_posix()


@cache
def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"), path)
    except SyntaxError as error:
        raise DiscliError(f"{_shown(path)}: not valid Python: {error.msg}, line {error.lineno}.", _FIX) from None
    except ValueError as error:  # no text, or text with zero bytes in it
        raise DiscliError(f"{_shown(path)}: not valid Python: {error}.", _FIX) from None


def _specs(tree: ast.Module) -> list[ast.ClassDef]:
    """Classes with a base from discli.recipe, or with one of those for a base."""
    bases = {
        alias.asname or alias.name
        for statement in tree.body
        if isinstance(statement, ast.ImportFrom) and _from(statement.module, "discli.recipe")
        for alias in statement.names
    }
    found = []
    for statement in tree.body:
        if isinstance(statement, ast.ClassDef) and bases & {b.id for b in statement.bases if isinstance(b, ast.Name)}:
            bases.add(statement.name)
            found.append(statement)
    return found


def _declared(spec: ast.ClassDef) -> Declared:
    constants: dict[str, Any] = {}
    for line in spec.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value:
            try:
                constants[line.target.id] = ast.literal_eval(line.value)
            except ValueError:
                continue
    summary = " ".join((ast.get_docstring(spec) or "").split("\n\n")[0].split())
    return Declared(constants.get("name", ""), summary, constants)


@cache
def _run(path: Path) -> "list[type[ChoiceSpec]]":
    """The file's Specs as classes of the module that it is."""
    from discli.recipe.spec import ChoiceSpec, read_before

    tree, file = _parse(path), _shown(path)
    specs = _specs(tree)
    namespace: dict[str, Any] = {"__name__": file.removesuffix(".py").replace("/", "."), "__file__": str(path)}
    body: list[ast.stmt] = []
    for statement in _needed(tree, specs):
        if module := _forbidden(statement):
            raise DiscliError(
                f"{file}: line {statement.lineno}: its Spec uses {module}, which recipes do not wait for.",
                f"In a Spec use Python's own modules, pydantic, {' and '.join(_MAY_USE)}.",
            )
        body.append(statement)
    try:
        exec(compile(ast.Module(body, type_ignores=[]), path, "exec", dont_inherit=True), namespace)
    except Exception as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise DiscliError(f"{file}: its Spec cannot be read: {why}", _FIX) from error
    classes = [namespace[spec.name] for spec in specs]
    read_before.update({(one.__module__, one.__qualname__): one for one in classes})
    return [one for one in classes if issubclass(one, ChoiceSpec)]


def _needed(tree: ast.Module, specs: list[ast.ClassDef]) -> list[ast.stmt]:
    """The Specs, and the statements at the top of the file that bind what they use, in their order."""
    binding = {name: statement for statement in tree.body for name in _bound(statement)}
    needed: set[ast.stmt] = set()
    waiting: list[ast.stmt] = list(specs)
    while waiting:
        statement = waiting.pop()
        if statement not in needed:
            needed.add(statement)
            used = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}
            waiting += [binding[name] for name in used if name in binding]
    return [statement for statement in tree.body if statement in needed]


def _bound(statement: ast.stmt) -> Iterator[str]:
    match statement:
        case ast.Import(names) | ast.ImportFrom(names=names):
            yield from ((alias.asname or alias.name).partition(".")[0] for alias in names)
        case ast.FunctionDef(name) | ast.ClassDef(name):
            yield name
        case ast.Assign() | ast.AnnAssign():
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            yield from (node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name))


def _forbidden(statement: ast.stmt) -> str | None:
    """The module that a Spec must not need, if this imports one."""
    match statement:
        case ast.ImportFrom(module=str(module)):
            modules = [module]
        case ast.Import(names):
            modules = [alias.name for alias in names]
        case _:
            return None
    ours = (module for module in modules if _from(module, "discli") and not any(_from(module, m) for m in _MAY_USE))
    return next(ours, next((module for module in modules if _from(module, "torch")), None))


def _from(module: str | None, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")
