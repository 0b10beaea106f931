"""A run's folder: who may write to it, and what it was started with."""

import secrets
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from discli.recipe import DataContract, Recipe, find_recipe, load_recipe, parse_recipe
from discli.recipe.data_files import are_there
from discli.recipe.differences import brief, differences
from discli.recipe.load import is_file, with_overrides
from discli.runs.description import Began, RunDescription, SettingsChange, Take, read_run
from discli.runs.layout import RunFolder, find_run, is_checkpoint, is_run
from discli.runs.logs import read_log
from discli.runtime.errors import DiscliError
from discli.runtime.files import is_leftover
from discli.runtime.processes import try_lock

# What may change between two sessions of one run without changing what it computes up to then.
_FREE_TO_CHANGE = {
    "train.steps", "train.log_every", "train.preview_every", "train.preview_first", "train.preview_count",
    "train.checkpoint_every", "train.keep_last", "train.keep_every", "train.tracker", "train.peak_tflops",
    "train.micro_batch", "train.parallel", "train.activation_checkpointing", "train.compile", "data.file", "data.cache",
    "train.holdout_every", "train.holdout_n", "train.cuda_graphs",
}  # fmt: skip
_FREE_SECTIONS = ("sample.", "eval.", "train.score.")
# What a run that ended in steps that were not finite may do about it.
_LOWER_AFTER_BURSTS = {"train.lr", "train.grad_clip"}
ENDED = "ended"  # the event in the log of events


class Task(NamedTuple):
    """What ``discli train`` is to do: ``file`` is None where neither the flags, the recipe nor the run name one."""

    recipe: Recipe
    folder: Path
    file: Path | None
    command: str  # that does the same again; empty where the recipe came as an object
    source: Path | None = None  # the trained model to begin from now
    take: Take = "ema"  # of it
    began: Began | None = None  # what the run has begun from before


def what_to_train(
    recipe: Recipe | str | Path,
    data: str | Path | None = None,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    begin_from: str | Path | None = None,
    take: Take | None = None,
) -> Task:
    """From the arguments of `discli.training.train.train`: a recipe, or a run to resume as it was started.

    A path to a run is that run; a name is a recipe's where there is one, and else that of a run below ``runs/``.
    Raises DiscliError for what is neither, where a run's data file has moved, for a model to begin from that is not
    there, and for one that the run has not begun from.
    """
    task = _what_to_train(recipe, data, out, overrides)
    source = None if begin_from is None else find_run(begin_from)
    if take is not None and source is None:
        raise DiscliError(f"--take {take} goes with --from.", "Name the model to begin from, or leave it out.")
    if task.command and source is not None:
        more = ["--from", str(begin_from), *(["--take", take] if take else [])]
        task = task._replace(command=f"{task.command} {shlex.join(more)}")
    if RunFolder(task.folder).description.exists():
        before = read_run(task.folder)
        began = before.began
        named = None if source is None else (str(source.resolve()), take or "ema")
        if named is not None and (began is None or named != (began.source, began.take)):
            what = f"the {began.take} of {began.source}" if began else "nothing"
            raise DiscliError(
                f"{task.folder} began from {what}, not from the {named[1]} of {begin_from}.",
                "Resume it without --from, or give another --out.",
            )
        if began is None or RunFolder(task.folder).find_checkpoints():
            return task._replace(began=began)
        source, take = Path(began.source), began.take  # stopped before its first checkpoint
    if source is None:
        return task
    if not (is_file(source) or is_checkpoint(source) or is_run(source)):
        known = "discli runs and discli models list what has a name; a file of discli export is one, too."
        raise DiscliError(f"--from {source}: no model there.", known)
    return task._replace(source=source, take=take or "ema")


def _what_to_train(
    recipe: Recipe | str | Path, data: str | Path | None, out: str | Path | None, overrides: Sequence[str]
) -> Task:
    data, out = (Path(path) if path is not None else None for path in (data, out))
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
    chosen = parse_recipe(*with_overrides(before.recipe, str(RunFolder(run).description), overrides))
    file = data or Path(before.data_file)
    if data is None and not are_there(file):
        raise DiscliError(
            f"{run} was trained on {file}, which is not there now.",
            f"Say where it is: discli train {shlex.quote(str(run))} --data {shlex.quote(file.name)}",
        )
    return Task(chosen, out or run, file, command)


class Run:
    """``runs/NAME``, held under a lock while training. Only rank 0 opens one."""

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        contract: DataContract,
        data_file: Path,
        command: str = "",
        began: Began | None = None,
    ) -> None:
        self.folder = folder
        self.recipe = recipe
        self._files = RunFolder(folder)
        self.changed: dict[str, tuple[Any, Any]] = {}  # settings now, (old, new), of a run that ended in bad steps
        self.ends: dict[str, tuple[int, int]] = {}  # what ends before the run does: (old, new) step, if they differ
        about = {"id": secrets.token_hex(4), "command": command, "began": began}
        self._description = RunDescription.of(recipe, contract, data_file).model_copy(update=about)

    @property
    def id(self) -> str:
        """By which a tracker recognises the run."""
        return self._description.id

    def __enter__(self) -> Self:
        """Raises DiscliError when another process trains here, or the folder began with another recipe."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = self._files.lock.open("w")
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
        if self._files.is_running():
            raise self._held_by_another()
        self._look_before()

    def _held_by_another(self) -> DiscliError:
        return DiscliError(f"{self.folder} is being trained by another process.", "Wait for it, or give another --out.")

    def _take_over(self) -> None:
        before = self._look_before()
        if before:
            now = [SettingsChange(step=self._ended, settings=self.changed)] if self._ended is not None else []
            kept = {"id": before.id or self.id, "command": before.command}
            changes = [*before.changes, *(now if self.changed else [])]
            self._description = self._description.model_copy(update={**kept, "changes": changes})
        self._description.write(self.folder)

    def _look_before(self) -> RunDescription | None:
        """run.json as it is, if the folder holds a run that this one may resume; None if it holds nothing."""
        if self._files.description.exists():
            before = read_run(self.folder)
            self._refuse_other_recipe(before)
            return before
        if self.folder.exists() and not (self.folder.is_dir() and all(map(self._is_nothing, self.folder.iterdir()))):
            raise DiscliError(f"{self.folder} holds files that are not a run's.", "Give another --out.")
        return None

    def _is_nothing(self, path: Path) -> bool:
        """What a start that was killed has left."""
        return path == self._files.lock or is_leftover(path)

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    @property
    def checkpoint_metadata(self) -> dict[str, str]:
        """What every weights file carries, so that it can be used without its run."""
        return self._description.metadata

    @property
    def _ended(self) -> int | None:
        """The step at which the run ended in steps that were not finite, if that was the last that happened."""
        last = read_log(self._files.log("events"))[-1:]
        return last[0]["step"] if last and last[0].get("event") == ENDED else None

    def _refuse_other_recipe(self, before: RunDescription) -> None:
        where = str(self._files.description)
        try:
            # Read as today's recipes are, so that settings which are newer than the run have their defaults.
            recipe, contract = before.read_recipe(where), before.read_contract(where)
        except DiscliError as error:
            raise DiscliError(
                f"{where} was written by discli {before.discli_version} and is not understood here: {error}",
                "Resume with that version, or give another --out.",
            ) from None
        ended, ends = recipe.train.ends(), self.recipe.train.ends()
        self.ends = {key: (ended[key], ends[key]) for key in ends.keys() & ended.keys() if ended[key] != ends[key]}
        for key, old, new in differences(recipe.model_dump(mode="json"), self._description.recipe):
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
        for key, old, new in differences(contract.model_dump(mode="json"), self._description.contract):
            raise DiscliError(
                f"{self.folder} was started on data with {key} = {brief(old)}, this file has {brief(new)}.",
                f"{self._as_it_was(before)} For other data, give another --out.",
            )

    def _as_it_was(self, before: RunDescription) -> str:
        began = f" (it began with: {before.command})" if before.command else ""
        return f"To resume it as it was: discli train {shlex.quote(str(self.folder))}{began}."
