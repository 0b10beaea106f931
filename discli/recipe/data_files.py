"""Which files ``data.file`` and ``--data`` name: one, a pattern of several, or a list of either.

Wherever one path is kept, in a run or a checkpoint, it may be such a text: names and patterns with commas between.
A comma within a name has a backslash before it.
"""

import re
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

from discli.runtime.errors import DiscliError

_BETWEEN, _WITHIN = ",", r"\,"
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


def expand(pattern: str | Path) -> list[Path]:
    """The files of a shell-like pattern (*, ?) with webdataset's {000000..000146}; in sorted order.

    Raises DiscliError where there is none of a number within braces.
    """
    text = str(pattern)
    ranges = [(first, last) for first, last in _BRACES.findall(text)]
    numbers = [[str(i).zfill(len(first)) for i in range(int(first), int(last) + 1)] for first, last in ranges]
    found: list[Path] = []
    for choice in product(*numbers):
        values = iter(choice)
        one = Path(_BRACES.sub(lambda _, values=values: next(values), text))  # type: ignore[misc]
        folder = Path(one.anchor)
        within = str(one.relative_to(folder)).replace("[", "[[]")  # which has a meaning for Python alone
        matches = sorted(folder.glob(within)) if set(str(one)) & set("*?") else [one]
        missing = [match for match in matches or [one] if not match.is_file()]
        if missing and ranges:
            raise DiscliError(
                f"{missing[0]} does not exist, but {pattern} names it.", "Fetch it, or shorten the range."
            )
        found += [match for match in matches if match.is_file()]
    return found


def files_of(where: str | Path) -> list[Path]:
    """All that ``where`` names. A name without a pattern is given back also where there is no such file.

    Raises DiscliError for a pattern that matches nothing.
    """
    text = str(where)
    if is_name(text):
        return [Path(text)]
    found: list[Path] = []
    for one in _split(text):
        matches = [Path(one)] if is_name(one) or not _is_pattern(one) else expand(one)
        if not matches:
            raise DiscliError(f"No file is called {one}.", "Check the pattern, and the folder that it starts from.")
        found += matches
    if not found:
        raise DiscliError(f"{text!r} names no file.", "Give names or patterns, with commas between.")
    return found


def is_name(where: str | Path) -> bool:
    """Whether a file or folder is called just so; false of a list that is too long to be a name."""
    try:
        return Path(where).exists()
    except (OSError, ValueError):
        return False


def are_there(where: str | Path) -> bool:
    """Whether all files that ``where`` names exist."""
    try:
        return all(file.is_file() for file in files_of(where))
    except DiscliError:
        return False


def absolute(where: Path) -> Path:
    """The same files, from whatever folder."""
    if is_name(where):
        return where.resolve()
    return joined(Path(one).resolve() for one in _split(str(where)))


def joined(files: Iterable[str | Path]) -> Path:
    """The text that names them all."""
    return Path(_BETWEEN.join(str(file).replace(_BETWEEN, _WITHIN) for file in files))


def as_one_path(value: Any) -> Any:
    """A recipe's list of files as the text that names them all. Raises ValueError for a list of anything else."""
    if not isinstance(value, list | tuple):
        return value
    if not value or not all(isinstance(one, str) and one.strip() for one in value):
        raise ValueError("a list of files holds names or patterns, one at least")
    return str(joined(value))


def _split(text: str) -> list[str]:
    return [one.strip().replace(_WITHIN, _BETWEEN) for one in re.split(r"(?<!\\),", text) if one.strip()]


def _is_pattern(text: str) -> bool:
    return "*" in text or "?" in text or _BRACES.search(text) is not None
