"""What a run's folder says of the run, whatever state it is in. Reads only, and imports no torch.

Nothing here raises because of what a folder holds: what cannot be read becomes one of ``problems``.
"""

import operator
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from discli.recipe import Recipe, parse_recipe
from discli.runs.eval_result import EvalResult, read_eval_result
from discli.runs.logs import parse_log
from discli.runtime.errors import DiscliError
from discli.runtime.files import read_json
from discli.runtime.processes import is_locked

State = Literal["training", "finished", "stopped", "no checkpoint", "weights only", "damaged"]
Lines = list[dict[str, Any]]

_LOGS = ("metrics", "speed", "scores", "events", "sessions")
# Beside these, all numbers of a line of scores.jsonl are scores.
_NO_SCORES = {"step", "n", "sampling_steps", "cfg_scale", "seconds"}
_FOLDERS_WITHOUT_SCORES = {"checkpoints", "previews", "tracker", "snapshots"}
_LARGEST_SCORE_FILE = 10_000_000  # bytes; a manifest beside samples may be larger, and is none
_LINES_FOR_SPEED = 10
_LARGEST_NUMBER = 1e300  # sums and shares of it are numbers still
_NOT_THE_RUN = {".lock", "report.html"}


@dataclass(frozen=True)
class Score:
    """One score by its own name. ``result`` is all of a file of ``discli eval-fid --json``."""

    name: str
    value: float
    step: int | None
    n: int | None
    file: Path
    result: EvalResult | None = None


@dataclass(frozen=True)
class RunStatus:
    """``step`` is where a run stands, or would go on once it has stopped; ``checkpoint`` the newest whole one."""

    folder: Path
    name: str
    state: State
    problems: list[str]
    description: dict[str, Any]  # run.json
    recipe: Recipe | None
    step: int
    steps: int | None
    checkpoint: int | None
    size: int  # bytes on disk
    changed: float  # seconds since 1970
    logs: dict[str, Lines] = field(repr=False)
    scores: list[Score] = field(repr=False)

    @property
    def loss(self) -> float | None:
        return last_number(self.logs["metrics"], "loss")

    @property
    def images_per_second(self) -> float | None:
        """The median of the last log lines: one line with a preview or a start in it says little."""
        rates = [rate for _, rate in numbers(self.logs["speed"], "images_per_second")]
        return statistics.median(rates[-_LINES_FOR_SPEED:]) if rates else None

    @property
    def score(self) -> Score | None:
        """Of the latest step; of two for one step, the later."""
        return max(self.scores, key=lambda score: -1 if score.step is None else score.step, default=None)


def is_run(folder: Path) -> bool:
    """Also what is left of one."""
    try:
        return (folder / "run.json").exists() or (
            (folder / "metrics.jsonl").exists() and (folder / "checkpoints").is_dir()
        )
    except (OSError, ValueError):  # no name that a folder could have
        return False


def find_run(name: str | Path) -> Path:
    """The run that is meant: a path, or a name below ``runs/`` as ``discli runs`` shows it.

    What is neither comes back as it is, for the caller to say what is missing; so does a checkpoint or a file.
    """
    path = Path(name)
    listed = Path("runs") / path
    return listed if not _is_usable(path) and _is_usable(listed) else path


def _is_usable(path: Path) -> bool:
    """A run, a checkpoint of one, or a file."""
    try:
        return path.is_file() or (path / "checkpoints").is_dir() or (path / "state.json").is_file() or is_run(path)
    except (OSError, ValueError):  # no name that a file could have
        return False


def run_status(folder: Path) -> RunStatus:
    """Look at a run without disturbing it. Checkpoints are judged by the sizes of their files, not by hashes."""
    problems: list[str] = []
    description = _read_description(folder, problems)
    broken = bool(problems)
    recipe = _read_recipe(description, problems)
    logs = {name: _read_log(folder / f"{name}.jsonl", problems) for name in _LOGS}
    steps, name = _raw(description, "train", "steps"), _raw(description, "name")
    steps = steps if type(steps) is int else None
    checkpoint, resumable, damaged = _newest_checkpoint(folder, problems)
    logged = logs["metrics"][-1]["step"] if logs["metrics"] else 0
    state: State
    if is_locked(folder / ".lock"):
        state = "training"
    elif broken or (checkpoint is None and damaged):
        state = "damaged"
    elif checkpoint is None:
        state = "no checkpoint"
    elif not resumable:
        state = "weights only"
    else:
        state = "finished" if steps is not None and checkpoint >= steps else "stopped"
    size, changed = _size_and_change(folder)
    return RunStatus(
        folder=folder,
        name=name if isinstance(name, str) else folder.name,
        state=state,
        problems=problems,
        description=description,
        recipe=recipe,
        step=max(logged, checkpoint or 0) if state == "training" or checkpoint is None else checkpoint,
        steps=steps,
        checkpoint=checkpoint,
        size=size,
        changed=changed,
        logs=logs,
        scores=[*_logged_scores(folder, logs["scores"]), *_score_files(folder)],
    )


def numbers(lines: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    """(step, value) of the lines in which ``key`` is a finite number."""
    return [(line["step"], float(line[key])) for line in lines if _is_number(line.get(key))]


def last_number(lines: Sequence[Mapping[str, Any]], key: str) -> float | None:
    found = numbers(lines, key)
    return found[-1][1] if found else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST_NUMBER


def _read_description(folder: Path, problems: list[str]) -> dict[str, Any]:
    path = folder / "run.json"
    try:
        description = read_json(path)
        if not isinstance(description.get("recipe"), dict):
            raise ValueError
    except FileNotFoundError:
        problems.append("run.json is missing")
    except OSError as error:
        problems.append(f"run.json cannot be read ({error.strerror})")
    except (ValueError, AttributeError):
        problems.append("run.json is broken")
    else:
        return dict(description)
    return {}


def _read_recipe(description: Mapping[str, Any], problems: list[str]) -> Recipe | None:
    if not description:
        return None
    try:
        return parse_recipe(description["recipe"], "run.json")
    except DiscliError as error:
        version = description.get("discli_version", "of another version")
        problems.append(f"recipe of discli {version} is not understood here ({error.message.rstrip('.')})")
        return None


def _raw(description: Mapping[str, Any], *keys: str) -> Any:
    """A setting of a recipe that need not be understood."""
    value = description.get("recipe")
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


def _newest_checkpoint(folder: Path, problems: list[str]) -> tuple[int | None, bool, bool]:
    """The newest that looks whole; whether training can go on from it; whether any is damaged."""
    damaged = False
    try:
        found = sorted(
            (p for p in (folder / "checkpoints").iterdir() if p.name.isdecimal()), key=lambda p: -int(p.name)
        )
    except FileNotFoundError:
        found = []
    except OSError as error:
        problems.append(f"checkpoints cannot be read ({error.strerror})")
        return None, False, True
    for checkpoint in found:
        state, damage = _read_checkpoint(checkpoint)
        if damage is None:
            return int(checkpoint.name), "window" in state, damaged
        damaged = True
        problems.append(f"checkpoint {int(checkpoint.name):,} is damaged ({damage})")
    return None, False, damaged


def _read_checkpoint(folder: Path) -> tuple[dict[str, Any], str | None]:
    """state.json, and what is wrong as far as names and sizes tell."""
    try:
        state = read_json(folder / "state.json")
        expected = {name: operator.index(about["bytes"]) for name, about in state["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}, "state.json is missing or unreadable"
    for name, size in expected.items():
        try:
            found = (folder / name).stat().st_size
        except (OSError, ValueError):
            return state, f"{name} is missing"
        if found != size:
            return state, f"{name} has {found:,} bytes instead of {size:,}"
    return state, None


def _size_and_change(folder: Path) -> tuple[int, float]:
    size, changed = 0, 0.0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                status = (Path(parent) / name).lstat()
            except OSError:  # a checkpoint that was deleted meanwhile
                continue
            size += status.st_size
            if name not in _NOT_THE_RUN:
                changed = max(changed, status.st_mtime)
    return size, changed or folder.stat().st_mtime


def _logged_scores(folder: Path, lines: Lines) -> Iterator[Score]:
    for line in lines:
        for name, value in line.items():
            if name not in _NO_SCORES and _is_number(value):
                n = line.get("n")
                yield Score(name, value, line["step"], n if isinstance(n, int) else None, folder / "scores.jsonl")


def _score_files(folder: Path) -> Iterator[Score]:
    """What ``discli eval-fid --json`` printed into files in the run's folder or a folder in it, the oldest first."""
    found = []
    for place in (folder, *_subfolders(folder)):
        for path in place.glob("*.json"):
            score = _read_score(path)
            if score is not None:
                found.append(score)
    yield from sorted(found, key=lambda score: score.file.stat().st_mtime)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and p.name not in _FOLDERS_WITHOUT_SCORES)


def _read_score(path: Path) -> Score | None:
    """None for any other JSON, and for what cannot be read."""
    try:
        if path.name == "run.json" or path.stat().st_size > _LARGEST_SCORE_FILE:
            return None
        result = read_eval_result(path)
    except (OSError, DiscliError):
        return None
    name, value = next(iter(result.scores.items()), ("", 0.0))
    return Score(name, value, result.samples.step, result.samples.n, path, result) if name else None
