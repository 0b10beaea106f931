"""What there is to say about one thing, for people and for programs."""

import json
from dataclasses import dataclass
from typing import Any

import typer
from rich.console import Console

from discli.reports.score_table import fact_table


@dataclass(frozen=True)
class Facts:
    """``rows`` (heading, text) for people, ``record`` for programs."""

    rows: list[tuple[str, str]]
    record: dict[str, Any]

    def __or__(self, more: "Facts") -> "Facts":
        return Facts([*self.rows, *more.rows], self.record | more.record)

    def show(self, as_json: bool) -> None:
        """On stdout: a table, or JSON."""
        if as_json:
            typer.echo(json.dumps(self.record, indent=1))
        else:
            Console(highlight=False).print(fact_table(self.rows))
