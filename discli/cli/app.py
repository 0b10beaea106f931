"""What every command shares: the app, its order of commands, and flags that mean the same everywhere."""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from discli import __version__
from discli.cli.complete import recipe_names
from discli.runtime.errors import DiscliError, did_you_mean

# The order of the help: that in which a user needs them.
ORDER = (
    "quickstart", "models", "doctor", "recipe", "encode", "teacher", "info", "floor", "train", "runs", "report",
    "sample", "demo", "eval-fid", "make-ref", "compare", "sweep", "ablate", "ema", "export", "import",
)  # fmt: skip
# Interrupted, these leave finished work from which the same command resumes; the others start over.
RESUMABLE = ("quickstart", "encode", "train", "sample", "sweep", "ablate")


class Group(TyperGroup):
    """A group of commands that suggests the nearest name for a misspelt one."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, commands = args[0], super().list_commands(ctx)
        if not (name in commands or name.startswith("-") or ctx.resilient_parsing):
            suggestion = did_you_mean(name, commands) or f"There are: {', '.join(self.list_commands(ctx))}."
            raise DiscliError(f"No such command: {ctx.command_path} {name}.", suggestion)
        return super().resolve_command(ctx, args)


class InOrder(Group):
    """The commands of discli in the order of `ORDER`, whichever module they are in. Ctrl-C ends each in two lines."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=ORDER.index)

    def invoke(self, ctx: Any) -> Any:
        # Caught here, because typer turns it into a bare status.
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            resumes = ctx.invoked_subcommand in RESUMABLE
            how = "resume" if resumes else "start over"
            raise DiscliError("Interrupted.", f"Run the same command again to {how}.", status=130) from None


app = typer.Typer(
    name="discli",
    help="""Train, sample and score diffusion models with state-space backbones (DiS, arXiv:2402.05608).

    \b
    Exit status:
      0    done
      1    something failed that is not your mistake
      2    wrong input: flags, recipes, files
      75   stopped after writing a checkpoint; rerun to resume
      130  Ctrl-C
    """,
    epilog="Example: discli quickstart",
    cls=InOrder,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},  # which all commands take over
)

RecipeName = Annotated[
    str, typer.Argument(help="A recipe file, or the name of a shipped recipe.", autocompletion=recipe_names)
]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override any recipe field.")]
Device = Annotated[str | None, typer.Option(help="cuda, cuda:1, cpu. Default: a GPU where there is one.")]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout instead of a table.")]


def refuse_ignored(context: typer.Context, beside: str, *taken: str) -> None:
    """Raises DiscliError for what was given on the command line and ``beside`` would ignore.

    ``taken`` are the parameters, by their names in Python, that mean something there.
    """
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is None or source.name != "COMMANDLINE" or parameter.name in taken:
            continue
        given = parameter.opts[0] if parameter.opts[0].startswith("-") else (parameter.name or "").upper()
        raise DiscliError(f"{given} means nothing beside {beside}.", "Leave one of them out.")


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
