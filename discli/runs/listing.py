"""``discli runs``: what lies in a folder of runs, how far each is, and how well it does. Reads only."""

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from discli.runs.status import RunStatus, State, is_run, run_status
from discli.runtime.console import format_bytes, format_seconds, stderr
from discli.runtime.errors import DiscliError
from discli.runtime.numbers import format_number

_WORDS: dict[State, str] = {
    "training": "training now",
    "finished": "finished",
    "stopped": "stopped, can be resumed",
    "no checkpoint": "stopped before its first checkpoint",
    "weights only": "weights only",
    "damaged": "damaged",
}
_COLOURS: dict[State, str] = {"training": "cyan", "finished": "green", "damaged": "red"}
_UNFOLDED = 400  # columns, in a file or a pipe
_WIDE = 120  # columns from which every fact has a column of its own


def list_runs(folder: Path, *, as_json: bool = False) -> list[RunStatus]:
    """Prints the runs in ``folder`` and below it, the last to change first, and returns them.

    Raises DiscliError where there is no such folder. Whatever is wrong with a run stands in its row.
    """
    if not folder.is_dir():
        raise DiscliError(
            f"There is no folder {folder}.", "Train something (discli train RECIPE), or name another folder."
        )
    found = sorted((run_status(path) for path in find_runs(folder)), key=lambda run: -run.changed)
    if as_json:
        typer.echo(json.dumps([as_record(run) for run in found], indent=1))
    elif found:
        console = Console(highlight=False, width=None if sys.stdout.isatty() else _UNFOLDED)
        console.print(runs_table(found, folder, wide=console.width >= _WIDE))
    else:
        how = f"Train one: discli train RECIPE --data FILE.h5 --out {folder / 'NAME'}"
        stderr.print(f"No run in {folder} or below. {how}")
    return found


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


def as_record(run: RunStatus) -> dict[str, Any]:
    """One run as JSON."""
    score = run.score
    return {
        "run": str(run.folder),
        "name": run.name,
        "state": run.state,
        "problems": run.problems,
        "step": run.step,
        "steps": run.steps,
        "checkpoint": run.checkpoint,
        "loss": run.loss,
        "score": score
        and {"name": score.name, "value": score.value, "step": score.step, "n": score.n, "file": str(score.file)},
        "images_per_second": run.images_per_second,
        "bytes": run.size,
        "changed": datetime.fromtimestamp(run.changed, UTC).isoformat(timespec="seconds"),
    }


def runs_table(runs: Sequence[RunStatus], folder: Path, wide: bool) -> Table:
    """A row a run; where it is narrow, two facts share a column, one under the other."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0 if wide else 1, 0))
    if wide:
        table.add_column("run", overflow="fold", ratio=3)
        table.add_column("state", overflow="fold", ratio=3)
        table.add_column("step", no_wrap=True)
        table.add_column("loss", justify="right", no_wrap=True)
        table.add_column("score", overflow="fold", ratio=3)
        table.add_column("images/s", justify="right", no_wrap=True)
        table.add_column("size", justify="right", no_wrap=True)
        table.add_column("changed", justify="right", no_wrap=True)
    else:
        table.add_column("run\nstate", overflow="fold", ratio=3)
        table.add_column("step\nchanged", no_wrap=True)
        table.add_column("loss\nscore", overflow="fold", ratio=2)
        table.add_column("images/s\nsize", justify="right", no_wrap=True)
    for run in runs:
        name, state, step, loss, score, rate, size, changed = _trials(run, folder)
        if wide:
            table.add_row(name, state, step, loss, score, rate, size, changed)
        else:
            pairs = ((name, state), (step, changed), (loss, score), (rate, size))
            table.add_row(*(Text("\n").join(pair) for pair in pairs))
    return table


def _trials(run: RunStatus, folder: Path) -> list[Text]:
    """Name, state, step, loss, score, images/s, size, changed."""
    inside = run.folder.relative_to(folder)
    state = Text("; ".join([describe_state(run), *run.problems]), style=_COLOURS.get(run.state, ""))
    score, rate = run.score, run.images_per_second
    texts = [
        of_steps(run),
        "-" if run.loss is None else format_number(run.loss),
        "-" if score is None else f"{format_number(score.value)} {score.name}",
        "-" if rate is None else format_number(rate, 3),
        format_bytes(run.size),
        f"{format_seconds(max(time.time() - run.changed, 0.0))} ago",
    ]
    return [Text(str(inside) if inside != Path() else str(run.folder), style="bold"), state, *map(Text, texts)]
