"""A run's folder: who may write to it, what it was started with, and its logs."""

import fcntl
import json
import os
from pathlib import Path
from typing import Any, Self, TextIO

from discli import __version__
from discli.errors import DiscliError
from discli.files import write_text
from discli.recipe import DataContract, Recipe

# What may change between two sittings of one run without changing what it computes up to then.
_FREE_TO_CHANGE = {
    "train.steps", "train.log_every", "train.preview_every", "train.preview_count", "train.checkpoint_every",
    "train.keep_last", "train.keep_every", "train.tracker", "train.micro_batch", "train.parallel",
    "train.activation_checkpointing", "train.compile", "data.file", "data.cache",
}  # fmt: skip
_FREE_SECTIONS = ("sample.", "eval.")


class Run:
    """``runs/NAME``, held under a lock while training. Only rank 0 opens one."""

    def __init__(self, folder: Path, recipe: Recipe, contract: DataContract, data_file: Path) -> None:
        self.folder = folder
        self.recipe = recipe
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
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise DiscliError(
                f"{self.folder} is being trained by another process.", "Wait for it, or give another --out."
            ) from None
        if (self.folder / "run.json").exists():
            self._refuse_other_recipe(read_run(self.folder))
        elif any(p.name != ".lock" for p in self.folder.iterdir()):
            self._lock.close()
            raise DiscliError(f"{self.folder} holds files that are not a run's.", "Give another --out.")
        write_text(self.folder / "run.json", json.dumps(self._description, indent=1))
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    @property
    def checkpoint_metadata(self) -> dict[str, str]:
        """What every weights file carries, so that it can be used without its run."""
        return {key: value if isinstance(value, str) else json.dumps(value) for key, value in self._description.items()}

    def _refuse_other_recipe(self, before: dict[str, Any]) -> None:
        old, new = _flatten(before["recipe"]), _flatten(self._description["recipe"])
        for key in sorted(old.keys() | new.keys()):
            free = key in _FREE_TO_CHANGE or key.startswith(_FREE_SECTIONS)
            if old.get(key) != new.get(key) and not free:
                raise DiscliError(
                    f"{self.folder} was started with {key} = {old.get(key)!r}, the recipe now says {new.get(key)!r}.",
                    "Give another --out for the new recipe, or go back to the old value.",
                )
        old, new = (_flatten(d["contract"]) for d in (before, self._description))
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                raise DiscliError(
                    f"{self.folder} was started on data with {key} = {old.get(key)!r}, this file has {new.get(key)!r}.",
                    "Give the same --data file as before, or another --out.",
                )


class Log:
    """An append-only JSON-lines file that a resumed run cuts back to its checkpoint."""

    def __init__(self, path: Path, last_step: int) -> None:
        self._path = path
        self._file: TextIO | None = None
        self.cut(last_step)

    def cut(self, last_step: int) -> None:
        """Keep the complete lines up to ``last_step``; later ones will be written again."""
        self.close()
        kept = [line for line in read_log(self._path) if line["step"] <= last_step]
        write_text(self._path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = self._path.open("a", encoding="utf-8")

    def write(self, line: dict[str, Any]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Make sure that the log is on disk before the checkpoint that counts on it."""
        assert self._file is not None
        os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """All complete lines of a log; a line torn by a kill is left out."""
    lines = []
    if path.exists():
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            if isinstance(line, dict) and isinstance(line.get("step"), int):
                lines.append(line)
    return lines


def read_run(folder: Path) -> dict[str, Any]:
    """run.json of a run. Raises DiscliError when ``folder`` is none."""
    try:
        description: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        return {key: description[key] for key in ("discli_version", "recipe", "contract", "data_file")}
    except (OSError, ValueError, KeyError, TypeError):
        raise DiscliError(f"{folder} is not a run of discli train.", "Give a folder under runs/.") from None


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
