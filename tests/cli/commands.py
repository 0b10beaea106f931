"""Every command that there is, and how tests run one."""

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


def discli(*arguments: str, cwd=None, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    command = [sys.executable, "-m", "discli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=os.environ | environment)
