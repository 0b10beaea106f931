"""Which data file a recipe is trained on: the one that was named, else the newest here that fits. Without torch."""

from collections.abc import Sequence
from pathlib import Path

from discli.data.store import Store, open_store
from discli.data.writer import PARTIAL
from discli.recipe import Recipe, check_fits
from discli.recipe.data import default_codec
from discli.recipe.data_files import are_there
from discli.runs.description import read_run
from discli.runtime.console import stderr
from discli.runtime.errors import DiscliError
from discli.runtime.processes import rank_and_world

_NAMED = 4  # files in a message


def data_for(recipe: Recipe, given: str | Path | None, run: Path) -> Path:
    """The data file to train ``recipe`` on, in the run's folder ``run``.

    ``given`` (``--data``), else the recipe's ``data.file``, else what the run has been trained on so far,
    else what `find_data` finds in the current folder. Raises DiscliError where that does not fit.
    """
    named = Path(given) if given else recipe.data.file or _trained_on(run)
    if named is None:
        return find_data([recipe])
    check_fits(recipe, open_store(named).contract, str(named))
    return named


def data_for_study(recipes: Sequence[Recipe], given: str | Path | None) -> Path | None:
    """One file for all trials that are still to be run; None where their recipes name theirs.

    ``given`` is ``--data``. Raises DiscliError where it, or all that lies in the current folder, does not fit.
    """
    if given is None:
        return find_data(recipes) if recipes and all(recipe.data.file is None for recipe in recipes) else None
    given = Path(given)
    contract = open_store(given).contract
    for recipe in recipes:
        check_fits(recipe, contract, str(given))
    return given


def find_data(recipes: Sequence[Recipe], folder: str | Path = ".") -> Path:
    """The newest data file in ``folder`` that fits all ``recipes``; says which. DiscliError where none does."""
    fitting, others = look_for_data(recipes, folder)
    if not fitting:
        raise _nothing_fits(recipes, others)
    chosen, *older = fitting
    if rank_and_world()[0] == 0:
        why = ", the only file here that fits"
        if older:
            also = ", ".join(path.name for path in older[:_NAMED]) + (", ..." if len(older) > _NAMED else "")
            why = f", the newest of {len(fitting)} here that fit (also {also}; --data chooses)"
        stderr.print(f"Data: {chosen}{why}.")
    return chosen


def look_for_data(recipes: Sequence[Recipe], folder: str | Path = ".") -> tuple[list[Path], dict[Path, str]]:
    """Of the data files in ``folder``: those that fit, the newest first, and why each of the others does not."""
    folder = Path(folder)
    present = {path for path in folder.glob("*.h5") if path.is_file()}
    present |= {path.with_name(path.name.removesuffix(PARTIAL)) for path in folder.glob(f"*.h5{PARTIAL}")}
    fitting: list[Path] = []
    others: dict[Path, str] = {}
    # Several processes must choose alike, also of two that were written in the same moment.
    for path in sorted(present, key=lambda path: (_written(path), path.name), reverse=True):
        try:
            contract = Store(path).contract
            for recipe in recipes:
                check_fits(recipe, contract, str(path))
            fitting.append(path)
        except DiscliError as error:
            others[path] = error.message
    return fitting, others


def describe_encode(recipe: Recipe) -> str:
    """The command that makes a data file for ``recipe``."""
    data = recipe.data
    codec, command = data.codec, f"discli encode IMAGES/ --res {data.resolution}"
    if codec.name != default_codec(data.resolution):
        command += f" --codec {codec.name}"
    return command if codec.weights is None else f"{command} --vae {codec.weights}"


def _trained_on(run: Path) -> Path | None:
    """What ``run`` began with, if it has begun and that is still there."""
    try:
        file = Path(read_run(run).data_file)
    except DiscliError:  # what is wrong with a run is for whoever opens it to say
        return None
    return file if are_there(file) else None


def _nothing_fits(recipes: Sequence[Recipe], others: dict[Path, str]) -> DiscliError:
    recipe = recipes[0]
    what = f"{recipe.name}: no data file here"
    if others:
        reasons = [reason.removeprefix(f"{recipe.name}: ").rstrip(".") for reason in others.values()]
        more = f"; and {len(reasons) - _NAMED} more" if len(reasons) > _NAMED else ""
        what += f" that fits: {'; '.join(reasons[:_NAMED])}{more}"
    classes = recipe.model.num_classes
    of = f", with a sub-folder for each of the {classes:,} classes" if classes else ""
    return DiscliError(f"{what}.", f"Give --data FILE.h5, or make one: {describe_encode(recipe)}{of}.")


def _written(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # unfinished
        return 0
