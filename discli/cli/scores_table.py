"""A score and its circumstances, for the terminal."""

import sys

from rich.console import Console
from rich.text import Text

from discli.reports.score_table import class_rows, fact_rows, score_rows
from discli.runs.eval_result import EvalResult
from discli.runtime.facts import fact_table

_CLASSES_SHOWN = 20
_UNFOLDED = 400  # columns


def print_scores(result: EvalResult, console: Console | None = None) -> None:
    """Two tables on stdout, scores and circumstances; warnings after them."""
    # In a file or a pipe there is no edge to fold long hashes at.
    console = console or Console(highlight=False, width=None if sys.stdout.isatty() else _UNFOLDED)
    console.print(fact_table(score_rows(result), "bold"))
    console.print()
    console.print(fact_table(fact_rows(result)))
    if result.per_class:
        console.print()
        console.print(fact_table(class_rows(result.per_class, _CLASSES_SHOWN)))
    for warning in result.warnings:
        console.print(Text.assemble(("Warning:", "yellow"), f" {warning}"))
