"""``discli compare``: why two scores differ, and whether two sets of scores do."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from discli.cli.app import Json, app
from discli.runtime.errors import DiscliError

_SIDES = ("--a", "--b")
_EXAMPLE = "discli compare --a a1.json a2.json --b b1.json b2.json"


class _SeveralValues(TyperCommand):
    """``--a 1.json 2.json`` is ``--a 1.json --a 2.json``: what follows a side's name, up to the next flag, is its."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        spread: list[str] = []
        side = ""
        for word in args:
            if word.startswith("-"):
                side = word if word in _SIDES else ""
                spread += [] if side else [word]
            else:
                spread += [side, word] if side else [word]
        return super().parse_args(ctx, spread)


@app.command(cls=_SeveralValues, epilog="Example: discli compare --a mine-0.json mine-1.json --b theirs-*.json")
def compare(
    first: Annotated[
        Path | None, typer.Argument(metavar="A.json", help="Written by discli eval-fid --json.", show_default=False)
    ] = None,
    second: Annotated[Path | None, typer.Argument(metavar="B.json", help="Another one.", show_default=False)] = None,
    a: Annotated[
        list[Path] | None,
        typer.Option("--a", metavar="A.json ...", help="Several scores of one kind, in place of A.json."),
    ] = None,
    b: Annotated[
        list[Path] | None, typer.Option("--b", metavar="B.json ...", help="Those to compare them with.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say whether two scores can be compared, and why they differ.

    With several scores a side, of trainings with other seeds: whether the sides differ by more than chance,
    paired by seed where they are, and how many seeds would show it.
    """
    if (first or second) and (a or b):
        raise DiscliError(
            "Two files, or --a and --b: which?", "Example: discli compare --a a1.json a2.json --b b1.json b2.json"
        )
    if a and b:
        from discli.reports.compare_sides import compare_sides

        found = compare_sides(a, b)
    elif first and second:
        from discli.reports.compare_scores import compare_files

        found = compare_files(first, second)
    else:
        raise DiscliError(
            "Two scores are compared, or two sides of several.",
            f"Example: discli compare a.json b.json, or {_EXAMPLE}",
        )
    typer.echo(json.dumps(vars(found), indent=1) if as_json else "\n".join(found.lines()))
