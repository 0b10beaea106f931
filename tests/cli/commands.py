"""Every command that there is, and how tests run one, or only parse it."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import typer

from discli.cli import app

ROOT: Any = typer.main.get_command(app)


def walk(group: Any = ROOT, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, command) of the app, its commands and its groups' commands."""
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from walk(command, (*path, name))


COMMANDS = dict(walk())


def parse(words: list[str]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """(path, parameters) of what follows ``discli`` on a command line: checked, and not run.

    Raises typer's own complaint for an unknown command or flag, a value that is not allowed, or one that is missing.
    """
    path: tuple[str, ...] = ()
    while hasattr(COMMANDS[path], "commands") and words and not words[0].startswith("-"):
        path, words = (*path, words[0]), words[1:]
        if path not in COMMANDS:
            raise LookupError(f"No such command: {' '.join(path)}")
    if hasattr(COMMANDS[path], "commands") or "--help" in words:  # their flags act at once
        unknown = {word for word in words if word.startswith("-")} - flags(path)
        if unknown:
            raise LookupError(f"No such option: {', '.join(unknown)}")
        return path, {}
    with COMMANDS[path].make_context(" ".join(path), words, **ROOT.context_settings) as context:
        return path, context.params


def flags(path: tuple[str, ...]) -> set[str]:
    """Every spelling of every flag of a command."""
    spellings = [flag for known in COMMANDS[path].params for flag in (*known.opts, *known.secondary_opts)]
    return {"-h", "--help", *(flag for flag in spellings if flag.startswith("-"))}


def discli(*arguments: str, cwd=None, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    command = [sys.executable, "-m", "discli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=os.environ | environment)
