"""A run's folder: who may write to it, and what it was started with."""

import json
import secrets
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import ValidationError

from discli import __version__
from discli.recipe import DataContract, Recipe, find_recipe, load_recipe, parse_recipe
from discli.recipe.load import with_overrides
from discli.runs.logs import read_log
from discli.runs.status import find_run, is_run
from discli.runtime.errors import DiscliError
from discli.runtime.files import read_json, write_text
from discli.runtime.processes import is_locked, try_lock

# What may change between two sessions of one run without changing what it computes up to then.
_FREE_TO_CHANGE = {
    "train.steps", "train.log_every", "train.preview_every", "train.preview_first", "train.preview_count",
    "train.checkpoint_every", "train.keep_last", "train.keep_every", "train.tracker", "train.peak_tflops",
    "train.micro_batch", "train.parallel", "train.activation_checkpointing", "train.compile", "data.file", "data.cache",
}  # fmt: skip
_FREE_SECTIONS = ("sample.", "eval.", "train.score.")
# What a run that ended in steps that were not finite may do about it.
_LOWER_AFTER_BURSTS = {"train.lr", "train.grad_clip"}
ENDED = "ended"  # the event in events.jsonl
_KINDS = {"discli_version": str, "recipe": dict, "contract": dict, "data_file": str}


class Task(NamedTuple):
    """What ``discli train`` is to do: ``file`` is None where neither the flags, the recipe nor the run name one."""

    recipe: Recipe
    folder: Path
    file: Path | None
    command: str  # that does the same again; empty where the recipe came as an object


def what_to_train(
    recipe: Recipe | str | Path,
    data: str | Path | None = None,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> Task:
    """From the arguments of `discli.training.train.train`: a recipe, or a run to go on with as it was started.

    A path to a run is that run; a name is a recipe's where there is one, and else that of a run below ``runs/``.
    Raises DiscliError for what is neither, and where a run's data file has moved.
    """
    data, out = data and Path(data), out and Path(out)
    if isinstance(recipe, Recipe):
        return Task(recipe, out or Path("runs") / recipe.name, data or recipe.data.file, "")
    run = Path(recipe) if is_run(Path(recipe)) else None
    if run is None:
        try:
            find_recipe(recipe)
        except DiscliError:
            run = find_run(recipe)
            if not is_run(run):
                raise
    flags = [*(["--data", str(data)] if data else []), *(["--out", str(out)] if out else [])]
    flags += [part for setting in overrides for part in ("--set", setting)]
    command = shlex.join(["discli", "train", str(recipe), *flags])
    if run is None:
        chosen = load_recipe(recipe, list(overrides))
        return Task(chosen, out or Path("runs") / chosen.name, data or chosen.data.file, command)

    before = read_run(run)
    chosen = parse_recipe(*with_overrides(before["recipe"], str(run / "run.json"), overrides))
    file = data or Path(before["data_file"])
    if data is None and not file.exists():
        raise DiscliError(
            f"{run} was trained on {file}, which is not there now.",
            f"Say where it is: discli train {shlex.quote(str(run))} --data {file.name}",
        )
    return Task(chosen, out or run, file, command)


class Run:
    """``runs/NAME``, held under a lock while training. Only rank 0 opens one."""

    def __init__(
        self, folder: Path, recipe: Recipe, contract: DataContract, data_file: Path, command: str = ""
    ) -> None:
        self.folder = folder
        self.recipe = recipe
        self._command = command  # that started the run
        self.id = secrets.token_hex(4)  # by which a tracker knows the run again
        self.changed: dict[str, tuple[Any, Any]] = {}  # settings now, (old, new), of a run that ended in bad steps
        self._description: dict[str, Any] = {
            "discli_version": __version__,
            "recipe": recipe.model_dump(mode="json"),
            "contract": contract.model_dump(mode="json"),
            "data_file": str(data_file.resolve()),
        }

    def __enter__(self) -> Self:
        """Raises DiscliError when another process trains here, or the folder began with another recipe."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / ".lock").open("w")
        if not try_lock(self._lock):
            self._lock.close()
            raise self._held_by_another()
        try:
            self._take_over()
        except BaseException:
            self._lock.close()
            raise
        return self

    def check(self) -> None:
        """Raises what `__enter__` would, and writes nothing."""
        if is_locked(self.folder / ".lock"):
            raise self._held_by_another()
        self._look_before()

    def _held_by_another(self) -> DiscliError:
        return DiscliError(f"{self.folder} is being trained by another process.", "Wait for it, or give another --out.")

    def _take_over(self) -> None:
        changes: list[Any] = []
        before = self._look_before()
        if before:
            self.id, self._command = before["id"] or self.id, before["command"]
            changes = [*before["changes"], *([{"step": self._ended, "settings": self.changed}] if self.changed else [])]
        description = {"id": self.id, "command": self._command, **self._description}
        description |= {"changes": changes} if changes else {}
        write_text(self.folder / "run.json", json.dumps(description, indent=1))

    def _look_before(self) -> dict[str, Any] | None:
        """run.json as it is, if the folder holds a run that this one may go on with; None if it holds nothing."""
        if (self.folder / "run.json").exists():
            before = read_run(self.folder)
            self._refuse_other_recipe(before)
            return before
        if self.folder.exists() and (not self.folder.is_dir() or any(p.name != ".lock" for p in self.folder.iterdir())):
            raise DiscliError(f"{self.folder} holds files that are not a run's.", "Give another --out.")
        return None

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    @property
    def checkpoint_metadata(self) -> dict[str, str]:
        """What every weights file carries, so that it can be used without its run."""
        return {key: value if isinstance(value, str) else json.dumps(value) for key, value in self._description.items()}

    @property
    def _ended(self) -> int | None:
        """The step at which the run ended in steps that were not finite, if that was the last that happened."""
        last = read_log(self.folder / "events.jsonl")[-1:]
        return last[0]["step"] if last and last[0].get("event") == ENDED else None

    def _refuse_other_recipe(self, before: dict[str, Any]) -> None:
        where = str(self.folder / "run.json")
        try:
            # Read as today's recipes are, so that settings which are newer than the run have their defaults.
            recipe = parse_recipe(before["recipe"], where)
            contract = DataContract.model_validate(before["contract"])
        except (DiscliError, ValidationError) as error:
            raise DiscliError(
                f"{where} was written by discli {before['discli_version']} and is not understood here: {error}",
                "Go on with that version, or give another --out.",
            ) from None
        for key, old, new in differences(recipe.model_dump(mode="json"), self._description["recipe"]):
            if key in _FREE_TO_CHANGE or key.startswith(_FREE_SECTIONS):
                continue
            milder = new < old if key in _LOWER_AFTER_BURSTS else (key, new) == ("train.precision", "fp32")
            if milder and self._ended is not None:
                self.changed[key] = (old, new)
            else:
                raise DiscliError(
                    f"{self.folder} was started with {key} = {old!r}, the recipe now says {new!r}.",
                    f"{self._as_it_was(before)} For the new value, give another --out.",
                )
        for key, old, new in differences(contract.model_dump(mode="json"), self._description["contract"]):
            raise DiscliError(
                f"{self.folder} was started on data with {key} = {old!r}, this file has {new!r}.",
                f"{self._as_it_was(before)} For other data, give another --out.",
            )

    def _as_it_was(self, before: dict[str, Any]) -> str:
        began = f" (it began with: {before['command']})" if before["command"] else ""
        return f"To go on as it was: discli train {shlex.quote(str(self.folder))}{began}."


def read_run(folder: Path) -> dict[str, Any]:
    """run.json of a run. Raises DiscliError when ``folder`` is none."""
    try:
        description: dict[str, Any] = read_json(folder / "run.json")
        known = {key: description[key] for key in _KINDS}
        if not all(isinstance(known[key], kind) for key, kind in _KINDS.items()):
            raise ValueError
        changes = description.get("changes")
        texts = {key: str(description.get(key, "")) for key in ("id", "command")}
        return known | texts | {"changes": changes if isinstance(changes, list) else []}
    except (OSError, ValueError, KeyError, TypeError):
        raise DiscliError(f"{folder} is not a run of discli train.", "Give a folder under runs/.") from None


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(dotted key, old value, new value) of every leaf that is not the same."""
    before, after = _flatten(old), _flatten(new)
    keys = sorted(before.keys() | after.keys())
    return [(key, before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)]


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
