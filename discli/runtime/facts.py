"""What there is to say about one thing, for people and for programs."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Facts:
    """``rows`` (heading, text) for people, ``record`` for programs."""

    rows: list[tuple[str, str]]
    record: dict[str, Any]

    def __or__(self, more: "Facts") -> "Facts":
        return Facts([*self.rows, *more.rows], self.record | more.record)


def fact_table(rows: Iterable[tuple[str, str]], style: str = "") -> Table:
    """(heading, text) rows, without frames; long texts are folded, not cut."""
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style=style)
    table.add_column(overflow="fold", style=style)
    for row in rows:
        table.add_row(*map(Text, row))
    return table
