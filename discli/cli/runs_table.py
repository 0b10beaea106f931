"""Runs as a table on stdout."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from discli.runs.listing import describe_state, of_steps
from discli.runs.status import RunStatus, State
from discli.runtime.console import format_bytes, format_seconds
from discli.runtime.numbers import format_number

_COLOURS: dict[State, str] = {"training": "cyan", "finished": "green", "corrupt": "red"}
_UNFOLDED = 400  # columns, in a file or a pipe
_WIDE = 120  # columns from which every fact has a column of its own


def print_runs(runs: Sequence[RunStatus], folder: Path) -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _UNFOLDED)
    console.print(runs_table(runs, folder, wide=console.width >= _WIDE))


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
        name, state, step, loss, score, rate, size, changed = _columns(run, folder)
        if wide:
            table.add_row(name, state, step, loss, score, rate, size, changed)
        else:
            pairs = ((name, state), (step, changed), (loss, score), (rate, size))
            table.add_row(*(Text("\n").join(pair) for pair in pairs))
    return table


def _loss(run: RunStatus) -> str:
    if run.loss is None:
        return "-"
    held_out = "" if run.held_out_loss is None else f" (held out {format_number(run.held_out_loss)})"
    return f"{format_number(run.loss)}{held_out}"


def _columns(run: RunStatus, folder: Path) -> list[Text]:
    """Name, state, step, loss, score, images/s, size, changed."""
    inside = run.folder.relative_to(folder)
    state = Text("; ".join([describe_state(run), *run.problems]), style=_COLOURS.get(run.state, ""))
    score, rate = run.score, run.images_per_second
    texts = [
        of_steps(run),
        _loss(run),
        "-" if score is None else f"{format_number(score.value)} {score.name}",
        "-" if rate is None else format_number(rate, 3),
        format_bytes(run.bytes),
        f"{format_seconds(max((datetime.now(UTC) - run.changed).total_seconds(), 0.0))} ago",
    ]
    return [Text(str(inside) if inside != Path() else str(run.folder), style="bold"), state, *map(Text, texts)]
