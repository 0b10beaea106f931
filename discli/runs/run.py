"""A run's folder: who may write to it, and what it was started with."""

import json
import secrets
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from discli import __version__
from discli.recipe import DataContract, Recipe, parse_recipe
from discli.runtime.errors import DiscliError
from discli.runtime.files import read_json, write_text
from discli.runtime.processes import try_lock

# What may change between two sessions of one run without changing what it computes up to then.
_FREE_TO_CHANGE = {
    "train.steps", "train.log_every", "train.preview_every", "train.preview_first", "train.preview_count",
    "train.checkpoint_every", "train.keep_last", "train.keep_every", "train.tracker", "train.peak_tflops",
    "train.micro_batch", "train.parallel", "train.activation_checkpointing", "train.compile", "data.file", "data.cache",
}  # fmt: skip
_FREE_SECTIONS = ("sample.", "eval.", "train.score.")
_KINDS = {"discli_version": str, "recipe": dict, "contract": dict, "data_file": str}


class Run:
    """``runs/NAME``, held under a lock while training. Only rank 0 opens one."""

    def __init__(self, folder: Path, recipe: Recipe, contract: DataContract, data_file: Path) -> None:
        self.folder = folder
        self.recipe = recipe
        self.id = secrets.token_hex(4)  # by which a tracker knows the run again
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
            raise DiscliError(
                f"{self.folder} is being trained by another process.", "Wait for it, or give another --out."
            )
        try:
            self._take_over()
        except BaseException:
            self._lock.close()
            raise
        return self

    def _take_over(self) -> None:
        if (self.folder / "run.json").exists():
            before = read_run(self.folder)
            self._refuse_other_recipe(before)
            self.id = before["id"] or self.id
        elif any(p.name != ".lock" for p in self.folder.iterdir()):
            raise DiscliError(f"{self.folder} holds files that are not a run's.", "Give another --out.")
        write_text(self.folder / "run.json", json.dumps({"id": self.id, **self._description}, indent=1))

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    @property
    def checkpoint_metadata(self) -> dict[str, str]:
        """What every weights file carries, so that it can be used without its run."""
        return {key: value if isinstance(value, str) else json.dumps(value) for key, value in self._description.items()}

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
            if key not in _FREE_TO_CHANGE and not key.startswith(_FREE_SECTIONS):
                raise DiscliError(
                    f"{self.folder} was started with {key} = {old!r}, the recipe now says {new!r}.",
                    "Give another --out for the new recipe, or go back to the old value.",
                )
        for key, old, new in differences(contract.model_dump(mode="json"), self._description["contract"]):
            raise DiscliError(
                f"{self.folder} was started on data with {key} = {old!r}, this file has {new!r}.",
                "Give the same --data file as before, or another --out.",
            )


def read_run(folder: Path) -> dict[str, Any]:
    """run.json of a run. Raises DiscliError when ``folder`` is none."""
    try:
        description: dict[str, Any] = read_json(folder / "run.json")
        known = {key: description[key] for key in _KINDS} | {"id": description.get("id", "")}
        if not all(isinstance(known[key], kind) for key, kind in _KINDS.items()):
            raise ValueError
        return known | {"id": str(known["id"])}
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
