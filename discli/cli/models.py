"""``discli models``."""

import json
import sys
from typing import TYPE_CHECKING

import typer

from discli.cli.app import Json, app

if TYPE_CHECKING:  # torch takes seconds
    from discli.runs.models import Model

_UNFOLDED = 400  # columns, in a file or a pipe


@app.command(epilog="Example: discli models && discli sample digits -n 100 --grid 10x10")
def models(as_json: Json = False) -> None:
    """List trained weights that have a name. They come with discli, or lie in the folders of DISCLI_MODELS.

    A name goes wherever a run goes: sample, export, info, eval-fid. A run of yours of the same name is taken first,
    then a model in DISCLI_MODELS (folders with a colon between them), then what came with discli.
    """
    from discli.runs.box import VARIABLE, model_folders
    from discli.runs.models import list_models
    from discli.runtime.console import stderr

    found = list_models()
    if as_json:
        typer.echo(json.dumps([model.model_dump(mode="json") for model in found], indent=1))
    else:
        _print(found)
    for model in found:
        if model.hidden_by is not None:
            stderr.print(f"{model.name} stands for {model.hidden_by}; this model is {model.file}", style="yellow")
    for folder in model_folders():
        if not folder.is_dir():
            stderr.print(f"{VARIABLE} names {folder}, which is no folder.", style="yellow")


def _print(found: "list[Model]") -> None:
    """A block each."""
    from rich.console import Console

    from discli.runtime.console import format_bytes
    from discli.runtime.facts import fact_table

    console = Console(highlight=False, width=None if sys.stdout.isatty() else _UNFOLDED)
    for number, model in enumerate(found):
        rows = [("file", f"{model.file} ({format_bytes(model.bytes)})")]
        if model.problem is not None:
            rows.append(("problem", model.problem))
        else:
            classes = f", {len(model.classes)} classes: {', '.join(model.classes[:12])}" if model.classes else ""
            more = ", ..." if len(model.classes) > 12 else ""
            rows.append(("images", f"{model.resolution} px{classes}{more}"))
        if model.card is not None:
            scores = [("score", line) for line in model.card.score_lines]
            card = [
                ("draws", model.card.draws),
                *scores,
                ("training", model.card.training),
                ("terms", model.card.terms),
            ]
            rows = [*card[:1], *rows[1:], *card[1:], *rows[:1]]
        if number:
            console.print()
        console.print(model.name, style="bold", markup=False)
        console.print(fact_table(rows))
