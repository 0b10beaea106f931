"""What a data file, a recipe, a run or a checkpoint is, and what it takes, for ``discli info``."""

from pathlib import Path
from typing import TYPE_CHECKING

from discli.data.find import describe_encode, look_for_data
from discli.data.store import Store
from discli.recipe import Recipe, check_fits, find_recipe, load_recipe
from discli.recipe.data_files import are_there, is_name
from discli.runs.layout import find_run, is_checkpoint, is_run
from discli.runs.run import what_to_train
from discli.runtime.errors import DiscliError

if TYPE_CHECKING:  # what takes torch is imported once there is something to tell
    from discli.cost.hardware import Hardware
    from discli.runtime.facts import Facts


def look_at(what: str, overrides: list[str] | None, data: Path | None) -> tuple[Path, Recipe | None]:
    """Where ``what`` lies, and the recipe that it names, with ``overrides``; None where it is of another kind.

    Without torch, so that whoever mistyped a name hears of it at once. Raises DiscliError.
    """
    path = Path(what)
    if not overrides:  # a run's facts are its recipe's too, so where a name is both, the run's tell more
        path = find_run(path)
    if path.suffix == ".toml" or not (path.suffix or is_name(path) or are_there(path)):
        recipe = load_recipe(what, overrides)
        if data is not None:
            check_fits(recipe, Store(data).contract, str(data))
        return path, recipe
    for flag, given in (("--set", overrides), ("--data", data)):
        if given:
            raise DiscliError(f"{flag} goes with a recipe, and {what} is none.", "Leave it out, or name a recipe.")
    if not (is_name(path) and path.is_dir()) and path.suffix != ".safetensors":
        Store(path, parts=True)
    return path, None


def find_data_and_recipe(data: Path, recipe: str | None, overrides: list[str]) -> tuple[Path, Recipe | None]:
    """A data file and the recipe to look at it with, if any; of a run both are its own. Raises DiscliError."""
    run = find_run(data)
    if is_run(run):
        if recipe or overrides:
            raise DiscliError(f"{data} is a run, which has a recipe.", "Leave --recipe and --set out.")
        task = what_to_train(run)
        assert task.file is not None
        return task.file, task.recipe
    if recipe is None:
        if overrides:
            raise DiscliError("--set goes with --recipe.", "Leave it out, or name a recipe.")
        return data, None
    chosen = load_recipe(recipe, overrides)
    check_fits(chosen, Store(data).contract, str(data))
    return data, chosen


def describe_recipe(what: str, recipe: Recipe, data: Path | None, machine: "Hardware") -> "Facts":
    from discli.cost.describe import recipe_facts
    from discli.runtime.facts import Facts
    from discli.training.timed_step import time_here

    origin = Facts([("recipe", f"{recipe.name} ({find_recipe(what)})")], {"kind": "recipe"})
    return origin | _data_of(recipe, data) | recipe_facts(recipe, machine) | time_here(recipe, machine)


def _data_of(recipe: Recipe, data: Path | None) -> "Facts":
    """The data file that ``discli train`` would take, and why not where none fits; no row where none is in sight."""
    from discli.data.holdout import split_of
    from discli.runtime.facts import Facts
    from discli.training.timed_step import describe_length

    named = data or recipe.data.file
    if named is not None:
        try:
            check_fits(recipe, Store(named).contract, str(named))
            fitting, others = [named], {}
        except DiscliError as error:
            fitting, others = [], {named: error.message}
    else:
        fitting, others = look_for_data([recipe])
    if not fitting:
        reasons = "; ".join(others.values())
        return Facts([("data", f"none fits: {reasons} {describe_encode(recipe)}")] if others else [], {"data": None})
    try:
        n = len(split_of(recipe, Store(fitting[0])).train)
    except DiscliError as error:  # of so few images none can be held out
        return Facts([("data", error.message)], {"data": None})
    epochs = recipe.train.steps * recipe.train.batch_size / max(1, n)
    length = describe_length(recipe.train.steps, recipe.train.batch_size, n)
    record = {"data": {"file": str(fitting[0]), "images": n, "epochs": epochs}}
    return Facts([("data", str(fitting[0])), ("length", length)], record)


def describe_path(
    path: Path,
    machine: "Hardware",
    sheet: Path | None,
    count: int,
    vae: str | None,
    device: str | None,
) -> "Facts":
    from discli.data.describe import data_facts
    from discli.reports.describe_run import checkpoint_facts, run_facts

    if is_run(path):
        return run_facts(path, machine)
    if path.suffix == ".safetensors" or is_checkpoint(path):
        return checkpoint_facts(path, machine)
    if is_name(path) and path.is_dir():
        raise DiscliError(
            f"{path} is neither a run nor a checkpoint.", "Give a recipe, a folder under runs/, or a file of encode."
        )
    return data_facts(path, sheet, count, vae, device)
