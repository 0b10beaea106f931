"""A sweep's scores as a table on stdout, the best first."""

import typer
from rich.console import Console
from rich.table import Table

from discli.ablation.sweep import Sweep
from discli.runtime.numbers import format_number


def print_sweep(found: Sweep) -> None:
    """A row a setting, then what they say."""
    with_ema = any(each.ema is not None for each in found.scores)
    table = Table(box=None, pad_edge=False)
    for heading in ("guidance", *(["EMA"] if with_ema else []), "steps", "NFE", found.score_name):
        table.add_column(heading, justify="right")
    for each in sorted(found.scores, key=lambda each: each.score):
        average = [f"{each.ema:g}"] if each.ema is not None else []
        table.add_row(f"{each.cfg_scale:g}", *average, str(each.steps), str(each.nfe), format_number(each.score))
    Console(highlight=False).print(table)
    for line in found.in_words:
        typer.echo(line)
