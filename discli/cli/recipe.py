"""``discli recipe``: list, show and write recipes, and the schema for editors."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from discli.cli.app import Device, Group, Json, RecipeName, Set, app
from discli.runtime.errors import DiscliError
from discli.runtime.shipped import first_comment, shipped_files

recipe = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog="Example: discli recipe show dis-h-2 --resolved",
)
app.add_typer(recipe, name="recipe", help="List, show and write recipes, and complete them in an editor.")


Preset = Literal["dis-xxs", "dis-xs", "dis-s", "dis-b", "dis-m", "dis-l", "dis-h"]


@recipe.command("list", epilog="Example: discli recipe list")
def list_(as_json: Json = False) -> None:
    """List the shipped recipes and what each is for."""
    print_shipped("", as_json)


def print_shipped(folder: str, as_json: bool) -> None:
    """The shipped recipes, or studies (``folder`` "ablations"), and what each is for."""
    about = {name: first_comment(path) for name, path in shipped_files(folder).items()}
    if as_json:
        typer.echo(json.dumps(about, indent=1))
        return
    width = max(map(len, about), default=0)
    for name, comment in about.items():
        typer.echo(f"{name:{width}}  {comment}")


@recipe.command(epilog="Example: discli recipe show cifar10-dis-s-2 --set train.batch_size=64 --resolved")
def show(
    name: RecipeName,
    overrides: Set = None,
    resolved: Annotated[bool, typer.Option("--resolved", help="Include every default.")] = False,
    as_json: Json = False,
) -> None:
    """Print a recipe as TOML that stands alone. What it extends and --set are merged in."""
    from discli.recipe.load import load_tree, parse_recipe
    from discli.recipe.toml import to_toml

    tree, where = load_tree(name, overrides)
    checked = parse_recipe(tree, where)
    if resolved:
        tree = checked.model_dump(mode="json")
    typer.echo(json.dumps(tree, indent=1) if as_json else to_toml(tree), nl=as_json)


@recipe.command(epilog="Example: discli recipe new mine --data cifar10.h5 --minutes 60")
def new(
    name: Annotated[str, typer.Argument(help="Name of the recipe and of its runs.")],
    preset: Annotated[
        Preset | None, typer.Option(help="Depth and width (dis-s and above: the paper's). Default: by time and data.")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.1, help="How long training may take here. Default: 60 on a CPU, 480 on a GPU."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Data file to train on, from discli encode.")] = None,
    res: Annotated[
        str | None,
        typer.Option("--res", metavar="SIDE|HxW", help="Without --data: size of the images in pixels."),
    ] = None,
    codec: Annotated[
        Literal["rgb", "vae"] | None, typer.Option(help="Without --data. Default: rgb up to 64 px, vae above.")
    ] = None,
    num_classes: Annotated[int | None, typer.Option(min=0, help="Without --data. Default: 0, unconditional.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.toml", help="Default: NAME.toml.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    device: Device = None,
) -> None:
    """Write a recipe that fits a data file and your time. Its comments explain every setting.

    This times training steps on this machine to choose their number. --preset without --minutes skips that
    and writes the paper's long run of that size, for another machine.
    """
    from discli.recipe.size import parse_size
    from discli.training.new_recipe import new_recipe

    written = new_recipe(
        name,
        preset,
        minutes=minutes,
        data=data,
        resolution=None if res is None else parse_size(res, "--res"),
        codec=codec,
        num_classes=num_classes,
        out=out,
        overwrite=overwrite,
        device=device,
    )
    typer.echo(written)


@recipe.command(epilog="Example: discli recipe schema --out recipe.schema.json")
def schema(
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Default: stdout.")] = None,
) -> None:
    """Print the JSON Schema of recipes. Editors check and complete them with it.

    In editors with Taplo (Even Better TOML in VS Code), begin a recipe with the line
    #:schema recipe.schema.json (a path relative to the recipe).
    """
    from discli.recipe.schema import recipe_schema
    from discli.runtime.files import write_text

    text = json.dumps(recipe_schema(), indent=1) + "\n"
    if out is None:
        typer.echo(text, nl=False)
        return
    if not out.parent.is_dir():
        raise DiscliError(f"--out {out}: no such folder.", "Create the folder first, or give another --out.")
    write_text(out, text)
    typer.echo(out)
