"""What a run's folder says of the run, whatever state it is in. Reads only, and imports no torch.

Nothing here raises because of what a folder holds: what cannot be read becomes one of ``problems``.
"""

import errno
import os
import statistics
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from discli.recipe import Recipe
from discli.runs.description import RunDescription
from discli.runs.eval_result import EvalResult, read_eval_result
from discli.runs.layout import LOGS, STATE, RunFolder
from discli.runs.logs import Lines, finite_numbers, is_finite, last_number, parse_log
from discli.runs.verify import verify_checkpoint
from discli.runtime.errors import DiscliError
from discli.runtime.files import read_json

State = Literal["training", "finished", "stopped", "no checkpoint", "weights only", "corrupt"]

# Beside these, all numbers of a line of scores.jsonl are scores.
_NO_SCORES = {"step", "n", "sampling_steps", "cfg_scale", "seconds"}
_LARGEST_SCORE_FILE = 10_000_000  # bytes; a manifest beside samples may be larger, and is not a score
_LINES_FOR_SPEED = 10


class Score(BaseModel):
    """One score by its own name, of ``n`` samples. ``result`` is all of a file of ``discli eval-fid --json``."""

    model_config = ConfigDict(frozen=True)

    name: str
    value: float
    step: int | None
    n: int | None
    file: Path
    result: EvalResult | None = Field(default=None, exclude=True, repr=False)


class RunStatus(BaseModel):
    """How far a run is and how well it does: what ``runs``, ``info`` and ``report`` say with ``--json``.

    ``step`` is where a run is, or would resume once it has stopped; ``checkpoint`` the newest whole one.
    What is not serialised is there for pages and tables.
    """

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    folder: Path
    name: str
    state: State
    problems: list[str]
    step: int
    steps: int | None  # that the recipe asks for
    checkpoint: int | None
    loss: float | None  # the mean since the log line before the last
    held_out_loss: float | None  # of the averaged weights, on samples never trained on
    score: Score | None  # of the latest step; of two for one step, the later
    images_per_second: float | None  # the median of the last log lines
    mfu: float | None  # model FLOP utilisation, a share
    data_wait: float | None  # share of the time spent waiting for data
    seconds_left: float | None  # at that speed
    data_file: str | None
    bytes: int  # on disk, all that is in the folder
    changed: datetime

    description: RunDescription | None = Field(default=None, exclude=True, repr=False)
    recipe: Recipe | None = Field(default=None, exclude=True, repr=False)
    logs: dict[str, Lines] = Field(default_factory=dict, exclude=True, repr=False)
    scores: list[Score] = Field(default_factory=list, exclude=True, repr=False)


def run_status(folder: Path) -> RunStatus:
    """Look at a run without disturbing it. Checkpoints are judged by the sizes of their files, not by hashes."""
    run = RunFolder(folder)
    problems: list[str] = []
    description = _read_description(run, problems)
    broken = description is None
    recipe = _read_recipe(description, problems)
    logs = {name: _read_log(run.log(name), problems) for name in LOGS}
    steps, name = _setting(description, "train", "steps"), _setting(description, "name")
    steps = steps if type(steps) is int else None
    checkpoint, resumable, corrupt = _newest_checkpoint(run, problems)
    logged = logs["metrics"][-1]["step"] if logs["metrics"] else 0
    state: State
    if run.is_running():
        state = "training"
    elif broken or (checkpoint is None and corrupt):
        state = "corrupt"
    elif checkpoint is None:
        state = "no checkpoint"
    elif not resumable:
        state = "weights only"
    else:
        state = "finished" if steps is not None and checkpoint >= steps else "stopped"
    step = max(logged, checkpoint or 0) if state == "training" or checkpoint is None else checkpoint
    scores = [*_logged_scores(run, logs["scores"]), *_score_files(run)]
    # One line with a preview or a start in it says little.
    rates = [rate for _, rate in finite_numbers(logs["speed"], "images_per_second")][-_LINES_FOR_SPEED:]
    rate = statistics.median(rates) if rates else None
    left = max(steps - step, 0) * recipe.train.batch_size / rate if rate and steps and recipe else None
    size, changed = _size_and_change(run)
    return RunStatus(
        folder=folder,
        name=name if isinstance(name, str) else folder.name,
        state=state,
        problems=problems,
        step=step,
        steps=steps,
        checkpoint=checkpoint,
        loss=last_number(logs["metrics"], "loss"),
        held_out_loss=last_number(logs["holdout"], "loss_held_out"),
        score=max(scores, key=lambda score: -1 if score.step is None else score.step, default=None),
        images_per_second=rate,
        mfu=last_number(logs["speed"], "mfu"),
        data_wait=last_number(logs["speed"], "data_wait"),
        seconds_left=left,
        data_file=description.data_file if description else None,
        bytes=size,
        changed=datetime.fromtimestamp(changed, UTC),
        description=description,
        recipe=recipe,
        logs=logs,
        scores=scores,
    )


def _read_description(run: RunFolder, problems: list[str]) -> RunDescription | None:
    name = run.description.name
    try:
        return RunDescription.model_validate(read_json(run.description))
    except FileNotFoundError:
        problems.append(f"{name} is missing")
    except OSError as error:
        problems.append(f"{name} cannot be read ({error.strerror})")
    except ValueError:
        problems.append(f"{name} is corrupt")
    return None


def _read_recipe(description: RunDescription | None, problems: list[str]) -> Recipe | None:
    if description is None:
        return None
    try:
        return description.read_recipe("run.json")
    except DiscliError as error:
        version = description.discli_version
        problems.append(f"recipe of discli {version} is not understood here ({error.message.rstrip('.')})")
        return None


def _setting(description: RunDescription | None, *keys: str) -> Any:
    """A setting of a recipe that need not be understood."""
    value: Any = description.recipe if description else None
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _read_log(path: Path, problems: list[str]) -> Lines:
    """The whole lines; torn ones are counted."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        problems.append(f"{path.name} cannot be read ({error.strerror})")
        return []
    lines = parse_log(text)
    torn = sum(not line.isspace() for line in text.splitlines() if line) - len(lines)
    if torn:
        problems.append(f"{path.name}: {torn:,} torn line{'s' if torn > 1 else ''} left out")
    return lines


def _newest_checkpoint(run: RunFolder, problems: list[str]) -> tuple[int | None, bool, bool]:
    """The newest that looks whole; whether training can resume from it; whether any is corrupt."""
    corrupt = False
    try:
        found = run.find_checkpoints()
        if run.checkpoints.is_file():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    except OSError as error:
        problems.append(f"checkpoints cannot be read ({error.strerror})")
        return None, False, True
    for checkpoint in reversed(found):
        try:
            fault = verify_checkpoint(checkpoint, hashes=False)
            if fault is None:
                return int(checkpoint.name), "window" in read_json(checkpoint / STATE), corrupt
        except (DiscliError, OSError) as error:
            fault = str(error.message if isinstance(error, DiscliError) else error).rstrip(".")
        corrupt = True
        problems.append(f"checkpoint {int(checkpoint.name):,} is corrupt ({fault})")
    return None, False, corrupt


def _size_and_change(run: RunFolder) -> tuple[int, float]:
    not_the_run = {run.lock.name, run.report.name}
    size, changed = 0, 0.0
    for parent, _, names in os.walk(run.path):
        for name in names:
            try:
                status = (Path(parent) / name).lstat()
            except OSError:  # a checkpoint that was deleted meanwhile
                continue
            size += status.st_size
            if name not in not_the_run:
                changed = max(changed, status.st_mtime)
    return size, changed or run.path.stat().st_mtime


def _logged_scores(run: RunFolder, lines: Lines) -> Iterator[Score]:
    for line in lines:
        for name, value in line.items():
            if name not in _NO_SCORES and is_finite(value):
                n = line.get("n")
                n = n if isinstance(n, int) else None
                yield Score(name=name, value=value, step=line["step"], n=n, file=run.log("scores"))


def _score_files(run: RunFolder) -> Iterator[Score]:
    """What ``discli eval-fid --json`` printed into files in the run's folder or a folder in it, the oldest first."""
    found = []
    for place in (run.path, *_subfolders(run)):
        for path in place.glob("*.json"):
            score = _read_score(path)
            if score is not None:
                found.append(score)
    yield from sorted(found, key=lambda score: score.file.stat().st_mtime)


def _subfolders(run: RunFolder) -> list[Path]:
    without_scores = {run.checkpoints, run.previews, run.tracker, run.snapshots}
    return sorted(path for path in run.path.iterdir() if path.is_dir() and path not in without_scores)


def _read_score(path: Path) -> Score | None:
    """None for any other JSON, and for what cannot be read."""
    try:
        if path.stat().st_size > _LARGEST_SCORE_FILE:
            return None
        result = read_eval_result(path)
    except (OSError, DiscliError):
        return None
    at, n = result.samples.step, result.samples.n
    scores = (
        Score(name=name, value=value, step=at, n=n, file=path, result=result) for name, value in result.scores.items()
    )
    return next(scores, None)
