"""TOML on disk to a `Recipe`: ``extends``, ``--set`` overrides, and errors a person can act on."""

import re
import reprlib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from discli.recipe.presets import PRESETS
from discli.recipe.recipe import Recipe
from discli.recipe.seeds import SOURCES
from discli.recipe.spec import LIST_TAGS
from discli.runtime.errors import DiscliError, did_you_mean
from discli.runtime.shipped import shipped_files

Tree = dict[str, Any]  # a TOML document: settings that nobody has checked yet

_DEEPEST = 100  # tables and lists in one another; a recipe needs five
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200


def load_recipe(name_or_path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe file, or a shipped recipe by its bare name, with ``section.key=value`` overrides.

    Raises DiscliError naming file, key, what was found and what is allowed.
    """
    return parse_recipe(*load_tree(name_or_path, overrides))


def load_tree(name_or_path: str | Path, overrides: list[str] | None = None) -> tuple[Tree, str]:
    """The settings that a recipe, what it extends and the overrides make together, and where they are from."""
    path = find_recipe(name_or_path)
    return with_overrides(read_tree(path), str(path), overrides)


def with_overrides(tree: Tree, where: str, overrides: Sequence[str] | None = None) -> tuple[Tree, str]:
    """``section.key=value`` written into a tree of settings, and where they are from now."""
    for override in overrides or []:
        _apply(tree, override)
    return tree, f"{where} with --set" if overrides else where


def parse_recipe(tree: Tree, where: str) -> Recipe:
    """Validate a plain tree of settings; ``where`` opens the error message."""
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise explain(error, where) from None


def find_recipe(name_or_path: str | Path) -> Path:
    return find_shipped(name_or_path, shipped_recipes(), "recipe")


def find_shipped(name_or_path: str | Path, shipped: dict[str, Path], what: str) -> Path:
    """A file by its path, one of ``shipped`` by name, or NAME.toml here. Raises DiscliError with the nearest name."""
    path = Path(name_or_path)
    if is_file(path):
        return path
    if path.name == str(name_or_path) and path.suffix in ("", ".toml") and path.stem in shipped:
        return shipped[path.stem]
    if is_file(whole := Path(f"{name_or_path}.toml")):
        return whole
    listed = f"Shipped: {', '.join(sorted(shipped))}." if shipped else "Give the path of a TOML file."
    raise DiscliError(f"No {what} at {name_or_path}.", did_you_mean(path.stem, shipped) or listed)


def is_file(path: Path) -> bool:
    """Also of what could not be a file's name."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, say
        return False


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of every recipe that came with discli."""
    return shipped_files()


def read_tree(path: Path, seen: tuple[Path, ...] = ()) -> Tree:
    """The file's tree over the tree of the file it ``extends``, if any."""
    if path.resolve() in seen:
        raise DiscliError(f"{path}: extends itself, by way of {seen[-1].name}.", "Break the circle of extends.")
    if len(seen) > _DEEPEST:
        raise DiscliError(f"{path}: the {_DEEPEST}th in a row that extends another.", "Shorten the chain.")
    try:
        tree = _parse(path.read_text(encoding="utf-8-sig"))  # some editors begin a file with a mark that it is UTF-8
    except UnicodeDecodeError:
        raise DiscliError(f"{path} is not text, so no recipe.", "A data file goes after --data.") from None
    except ValueError as error:
        raise DiscliError(f"{path}: not valid TOML: {error}.", "Correct the file at the place named.") from None
    except OSError as error:
        raise DiscliError(f"{path}: cannot be read: {error.strerror}.", "Check the path and its permissions.") from None
    tree.pop("record", None)  # what somebody measured with it (recipes/records): no setting
    parent = tree.pop("extends", None)
    if parent is None:
        return tree
    if not isinstance(parent, str):
        raise DiscliError(
            f"{path}: extends: found {_SHORT.repr(parent)}.",
            "Give a file's name, relative to this one, or a shipped recipe's.",
        )
    return merge(read_tree(_parent(path, parent), (*seen, path.resolve())), tree)


def _parent(path: Path, parent: str) -> Path:
    """A file beside ``path``, or a shipped recipe by its name."""
    beside = path.parent / parent
    shipped = shipped_recipes()
    if is_file(beside) or Path(parent).name != parent:
        found = beside
    else:
        found = shipped.get(parent.removesuffix(".toml"), beside)
    if not is_file(found):
        hint = did_you_mean(parent, shipped) or f"Looked for {beside}, and for a shipped recipe of that name."
        raise DiscliError(f"{path}: extends {parent}, which does not exist.", hint)
    return found


def _parse(text: str) -> Tree:
    """Raises ValueError for what is no TOML, or so deep that whoever walks through it would not come back."""
    try:
        tree = tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level: list[Any] = [tree]
    for _ in range(_DEEPEST):
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
        level = [inner for inner in level if isinstance(inner, dict | list)]
        if not level:
            return tree
    raise ValueError("nested too deeply")


def merge(below: Tree, above: Tree) -> Tree:
    """What ``above`` says, and what ``below`` says where it is silent."""
    merged = dict(below)
    for key, value in above.items():
        both_tables = isinstance(value, dict) and isinstance(merged.get(key), dict)
        # A table that names another choice replaces the parent's choice instead of mixing with it.
        same_choice = both_tables and value.get("name", merged[key].get("name")) == merged[key].get("name")
        merged[key] = merge(merged[key], value) if same_choice else value
    return merged


def _apply(tree: Tree, override: str) -> None:
    """Write ``train.batch_size=64`` into the tree. Values are TOML; bare words are strings."""
    dotted, equals, text = override.partition("=")
    keys = [key.strip() for key in dotted.split(".")]
    if not equals or not all(keys):
        raise DiscliError(f"--set {override}: not of the form section.key=value.", "Example: --set train.batch_size=64")
    try:
        value = _parse(f"value = {text.strip()}")["value"]
    except ValueError:
        value = text.strip()
    for key in keys[:-1]:
        child = tree.get(key)
        # skip = "concat" may be refined by --set model.skip.x=...: its short form is a table's name.
        child = {"name": child} if isinstance(child, str) else child
        if key == "seed" and (child is None or isinstance(child, int)):  # one for all, by default 0
            child = dict.fromkeys(SOURCES, child or 0)
        if isinstance(child, list):
            raise DiscliError(f"--set {override}: {key} is a list in the recipe.", f"Set all of it: {key}=[...].")
        tree[key] = dict(child) if isinstance(child, dict) else {}
        tree = tree[key]
    tree[keys[-1]] = value


def explain(error: ValidationError, where: str, root: type[BaseModel] = Recipe) -> DiscliError:
    """The first of pydantic's complaints in one line; the rest are counted."""
    first, *others = error.errors(include_url=False)
    # Locations inside a union carry the chosen name; people look for the key they wrote.
    keys = [str(part) for part in first["loc"]]
    path, model = _keys_and_model(keys, root)
    key = ".".join(path)
    value, found = first["input"], _SHORT.repr(first["input"])
    context = first.get("ctx", {})
    match first["type"]:
        case "extra_forbidden":
            allowed = sorted(model.model_fields) if model else []
            hint = did_you_mean(path[-1], allowed) or f"Allowed here: {', '.join(allowed)}."
            message = f"{where}: {key}: unknown key."
        case "missing":
            message, hint = f"{where}: {key}: missing.", "Add it to the recipe."
            if key in ("model.embed_dim", "model.depth"):
                hint = f'Give embed_dim and depth, or a preset: preset = "dis-s" ({", ".join(PRESETS)}).'
        case "union_tag_invalid":
            message = f"{where}: {key}: found {_SHORT.repr(context['tag'])}."
            hint = _allowed(context["tag"], context["expected_tags"])
        case "literal_error":
            message = f"{where}: {key}: found {found}."
            hint = _allowed(str(value), context["expected"])
        case "string_pattern_mismatch":
            meaning = model.model_fields[path[-1]].description if model else None
            message, hint = f"{where}: {key}: found {found}.", f"Allowed: {meaning or context['pattern']}."
        case "value_error":
            reason = str(context["error"])
            message = f"{where}: {key}: found {found}; {reason}." if key else f"{where}: {reason}."
            if isinstance(value, dict):
                message = f"{where}: {key + ': ' if key else ''}{reason}."
            hint = f"Change {key}." if key else "Change one of these settings."
        case _:
            what = f"{key}: " if key else ""
            message = f"{where}: {what}found {found}; {first['msg'][0].lower() + first['msg'][1:]}."
            field = model.model_fields.get(path[-1]) if model and path else None
            hint = f"Change {key or where}{f' ({field.description})' if field and field.description else ''}."
    if others:
        hint = f"{hint} ({len(others)} more after this one.)".strip()
    return DiscliError(message, hint)


def _allowed(found: str, expected: str) -> str:
    """Pydantic's ``'a' or 'b'`` as a hint, with the one that was probably meant in front."""
    suggestion = did_you_mean(found, re.findall("'([^']*)'", expected))
    return f"{suggestion} Allowed: {expected.replace(chr(39), chr(34))}.".strip()


def _keys_and_model(location: list[str], root: type[BaseModel]) -> tuple[list[str], type[BaseModel] | None]:
    """Walk the schema along a pydantic location, leaving out union tags. Also the innermost Spec."""
    model: type[BaseModel] | None = root
    options: dict[str, type[BaseModel]] = {}
    keys: list[str] = []
    for part in location:
        if part.startswith("("):  # a form that a value may have, in parentheses where it has no name
            continue
        if part in options:
            model, options = options[part], {}
            continue
        if part in LIST_TAGS:
            continue
        keys.append(part)
        field = model.model_fields.get(part) if model else None
        if field is None:
            continue
        kinds = [kind for kind in _args(field.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
        options = {k.model_fields["name"].default: k for k in kinds if "name" in k.model_fields} if kinds else {}
        model = kinds[0] if len(kinds) == 1 and not options else model
    return keys, model


def _args(annotation: Any) -> tuple[Any, ...]:
    return getattr(annotation, "__args__", None) or (annotation,)
