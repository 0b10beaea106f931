"""What every command shares: the app, its order of commands, and flags that mean the same everywhere."""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from discli import __version__

# The order of the help: the order in which one comes to need them.
ORDER = (
    "quickstart", "doctor", "recipe", "encode", "info", "train", "runs", "report", "sample", "eval-fid", "ablate",
    "ema", "export",
)  # fmt: skip


class InOrder(TyperGroup):
    """Commands in the order of `ORDER`, whichever module they are in."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=ORDER.index)


app = typer.Typer(
    name="discli",
    help="Train, sample and score diffusion models with state-space backbones (DiS, arXiv:2402.05608).",
    epilog="Example: discli quickstart",
    cls=InOrder,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override any recipe field.")]
Device = Annotated[str | None, typer.Option(help="cuda, cuda:1, cpu. Default: a GPU where there is one.")]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout instead of a table.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"discli {__version__}")
        raise typer.Exit


@app.callback()
def _all_commands(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    pass
