"""``discli info``: what a data file, a recipe, a run or a checkpoint is, and what it takes, as a table or as JSON."""

from pathlib import Path

from discli.cost.describe import recipe_facts, time_here
from discli.cost.hardware import Hardware
from discli.data.describe import data_facts
from discli.data.store import open_store
from discli.recipe import check_fits, find_recipe, load_recipe
from discli.reports.describe_run import checkpoint_facts, run_facts
from discli.runs.status import find_run, is_run
from discli.runtime.errors import DiscliError
from discli.runtime.facts import Facts


def info(
    what: str,
    *,
    overrides: list[str] | None = None,
    data: Path | None = None,
    machine: Hardware | None = None,
    as_json: bool = False,
    sheet: Path | None = None,
    count: int = 12,
    vae: str | None = None,
    device: str | None = None,
) -> None:
    """Looks at what it was given, hands it to the function for that kind, and prints what that finds.

    ``machine`` is the one to plan for, by default this one's ``device``. ``sheet``, ``count`` and
    ``vae`` are of data files, ``overrides`` and ``data`` of recipes. Raises DiscliError for what is none of
    these things, or not whole.
    """
    path = Path(what)
    if not overrides:  # a run's facts are its recipe's too, so where a name is both, the run's tell more
        path = find_run(path)
    is_recipe = path.suffix == ".toml" or not (path.exists() or path.suffix)
    if overrides and not is_recipe:
        raise DiscliError(f"--set changes a recipe, and {what} is none.", "Leave it out, or name a recipe.")
    if data and not is_recipe:
        raise DiscliError(f"--data goes with a recipe, and {what} is none.", "Leave it out, or name a recipe.")
    _look(path, is_recipe, overrides, data, machine or Hardware.of(device=device), sheet, count, vae, device).show(
        as_json
    )


def _look(
    path: Path,
    is_recipe: bool,
    overrides: list[str] | None,
    data: Path | None,
    machine: Hardware,
    sheet: Path | None,
    count: int,
    vae: str | None,
    device: str | None,
) -> Facts:
    if is_recipe:
        recipe = load_recipe(str(path), overrides)
        origin = Facts([("recipe", f"{recipe.name} ({find_recipe(str(path))})")], {"kind": "recipe"})
        file = data or (recipe.data.file if recipe.data.file and recipe.data.file.exists() else None)
        images: int | None = None
        if file is not None:
            contract = open_store(file).contract
            check_fits(recipe, contract, str(file))
            images = contract.num_samples
        return origin | recipe_facts(recipe, machine) | time_here(recipe, machine, images)
    if path.is_dir() and is_run(path):
        return run_facts(path, machine)
    if path.suffix == ".safetensors" or (path / "state.json").is_file():
        return checkpoint_facts(path, machine)
    if path.is_dir():
        raise DiscliError(
            f"{path} is neither a run nor a checkpoint.", "Give a recipe, a folder under runs/, or a file of encode."
        )
    return data_facts(path, sheet, count, vae, device)
