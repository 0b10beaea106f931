"""A study's plan as a table on stdout."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from discli.ablation.plan import StudyPlan, say_disk
from discli.runtime.console import format_bytes, format_seconds, stderr
from discli.runtime.numbers import format_number


def print_plan(plan: StudyPlan, out: Path) -> None:
    """A row a trial; on stderr what is left in all, beside what is free in ``out``."""
    table = Table(box=None, pad_edge=False)
    table.add_column("trial", overflow="fold")
    for heading in ("parameters", "GFLOPs", "steps", "disk", "time"):
        table.add_column(heading, justify="right")
    for row in plan.trials:
        time_left = format_seconds(row.seconds) if row.seconds else "?"
        table.add_row(
            row.trial,
            f"{row.parameters:,}",
            format_number(row.forward_gflops, 3),
            f"{row.steps:,}",
            format_bytes(row.disk),
            "finished" if row.finished else time_left,
        )
    Console(highlight=False).print(table)
    left = [row for row in plan.trials if not row.finished]
    known = plan.flops_per_second is not None
    total = f", about {format_seconds(sum(row.seconds or 0.0 for row in left))} one after another" if known else ""
    tuning = f"{plan.tuning:,} samples to tune by, " if plan.tuning else ""
    each = f"{plan.budget}, then {tuning}{plan.samples:,} samples scored"
    stderr.print(f"{len(left)} of {len(plan.trials)} trials to run ({each}){total}.")
    say_disk(plan.disk, out)
    stderr.print(plan.power.in_words)
    on_top = "each trial's start and the score's own network come on top"
    stderr.print(f"Times are {plan.rate}; {on_top}." if known else f"No times: {plan.rate}.")
