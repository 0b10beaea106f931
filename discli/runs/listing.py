"""Which runs there are in a folder, and their states in words. Reads only, and imports no torch."""

import os
from collections.abc import Iterator
from pathlib import Path

from discli.runs.layout import is_run
from discli.runs.status import RunStatus, State, run_status
from discli.runtime.console import stderr
from discli.runtime.errors import DiscliError

_WORDS: dict[State, str] = {
    "training": "training now",
    "finished": "finished",
    "stopped": "stopped, can be resumed",
    "no checkpoint": "stopped before its first checkpoint",
    "weights only": "weights only",
    "corrupt": "corrupt",
}


def list_runs(folder: str | Path = "runs") -> list[RunStatus]:
    """The runs in ``folder`` and below it, the last to change first. What is wrong with one is in its ``problems``.

    Raises DiscliError where there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DiscliError(
            f"There is no folder {folder}.", "Train something (discli train RECIPE), or name another folder."
        )
    return sorted(map(run_status, find_runs(folder)), key=lambda run: run.changed, reverse=True)


def find_runs(folder: Path) -> Iterator[Path]:
    """Every run in ``folder`` or below, links followed; runs within runs are parts of theirs."""
    seen: set[Path] = set()
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        if here.resolve() in seen:
            continue
        seen.add(here.resolve())
        if is_run(here):
            yield here
            continue
        try:
            with os.scandir(here) as entries:
                waiting += [here / e.name for e in entries if e.is_dir() and not e.name.startswith(".")]
        except OSError as error:
            stderr.print(f"{here} cannot be read: {error.strerror}.", style="yellow")


def describe_state(run: RunStatus) -> str:
    return _WORDS[run.state]


def of_steps(run: RunStatus) -> str:
    """1,200 of 5,000"""
    return f"{run.step:,} of {run.steps:,}" if run.steps is not None else f"{run.step:,}"
