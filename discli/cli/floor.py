"""``discli floor``: the lowest loss that any network can reach on a data file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from discli.cli.app import Device, Json, Set, app
from discli.cli.complete import recipe_names
from discli.runtime.errors import DiscliError
from discli.runtime.processes import rank_and_world

if TYPE_CHECKING:
    from discli.data.floor_file import Floor
    from discli.runs.status import RunStatus


@app.command(epilog="Example: discli floor cifar10.h5 --recipe cifar10-dis-s-2")
def floor(
    data: Annotated[Path, typer.Argument(help="A data file of encode, or a run, which names its own.")],
    recipe: Annotated[
        str | None, typer.Option(help="The loss as this recipe trains on the file.", autocompletion=recipe_names)
    ] = None,
    overrides: Set = None,
    flip: Annotated[
        bool | None, typer.Option("--flip/--no-flip", help="With mirror images. Default: the recipe's, or if it can.")
    ] = None,
    classes: Annotated[
        bool | None, typer.Option("--classes/--no-classes", help="With the class given. Default: if there are classes.")
    ] = None,
    holdout: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share that is not trained on. Default: the recipe's, or 0.")
    ] = None,
    queries: Annotated[int, typer.Option("-n", "--n", min=16, help="Noisy draws at each noise level.")] = 4096,
    keys: Annotated[int | None, typer.Option(min=2, help="Use only so many samples. Default: all, if it fits.")] = None,
    schedule: Annotated[
        bool,
        typer.Option("--schedule", help="Of a run: timesteps and weights for the next one, where its loss has a gap."),
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Compute it again, though it is kept beside the file.")
    ] = False,
    as_json: Json = False,
    device: Device = None,
) -> None:
    """The lowest possible loss of a data file at each noise level. Each objective has its own (arXiv:2506.13763).

    It is kept beside the file, where discli report finds it: the gap to it says how well a network fits.
    """
    from discli.cli.floor_table import floor_record, print_floor
    from discli.cli.look_at import find_data_and_recipe
    from discli.evaluation.floor import floor_of

    if schedule and (as_json or recipe):
        raise DiscliError("--schedule prints a part of a recipe, from a run's losses.", "Give a run, and no --json.")
    run = _run_with_losses(data) if schedule else None  # refused now, for the floor may take long
    file, chosen = find_data_and_recipe(data, recipe, overrides or [])
    found = floor_of(
        file,
        chosen,
        mirrored=flip,
        conditional=classes,
        holdout=holdout,
        queries=queries,
        keys=keys,
        device=device,
        again=again,
    )
    if rank_and_world()[0] != 0:  # the first process speaks
        return
    if run is not None:
        _print_schedule(run, found)
    elif as_json:
        import json

        typer.echo(json.dumps(floor_record(found, chosen), indent=1))
    else:
        print_floor(found, chosen)


def _run_with_losses(name: Path) -> "RunStatus":
    from discli.reports.schedule import check_losses
    from discli.runs.layout import find_run, is_run
    from discli.runs.status import run_status

    folder = find_run(name)
    if not is_run(folder):
        raise DiscliError(
            f"{name} is no run: a schedule is of a run's losses.", "A run with data.holdout above 0 has them."
        )
    run = run_status(folder)
    check_losses(run)
    return run


def _print_schedule(run: "RunStatus", floor: "Floor") -> None:
    from discli.recipe.toml import to_toml
    from discli.reports.schedule import schedule_of_run

    found = schedule_of_run(run, floor)
    tables = {name: spec.model_dump(mode="json", exclude_defaults=True) for name, spec in found._asdict().items()}
    named = {name: {"name": getattr(found, name).name, **table} for name, table in tables.items()}
    typer.echo(to_toml({"diffusion": named}), nl=False)
