"""What a run writes down as it goes: JSON-lines files that a resumed run cuts back and continues."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from discli.runs.layout import RunFolder
from discli.runtime.files import parse_json, write_text

Lines = list[dict[str, Any]]  # each has a step

_LARGEST_NUMBER = 1e100  # sums and shares of it are numbers still, and it can be drawn


class Logs:
    """The five logs of ``runs/NAME``; only the main process has one.

    ``metrics.jsonl`` is a function of recipe and data: however often a run was interrupted, it ends
    with the same bytes. ``speed.jsonl`` is about the machine, ``events.jsonl`` about what went wrong,
    ``scores.jsonl`` about samples, ``holdout.jsonl`` about samples that were never trained on.
    """

    def __init__(self, folder: Path, step: int, rollbacks: int) -> None:
        self.metrics, self.speed, self.events, self.scores, self.holdout = self._logs = [
            Log(RunFolder(folder).log(name), step, rollbacks)
            for name in ("metrics", "speed", "events", "scores", "holdout")
        ]

    def roll_back(self, step: int) -> None:
        """Forget what came after ``step``, but not how it went wrong."""
        for log in (self.metrics, self.speed, self.scores, self.holdout):
            log.cut(step)

    def sync(self) -> None:
        for log in self._logs:
            log.sync()

    def close(self) -> None:
        for log in self._logs:
            log.close()


class Log:
    """An append-only JSON-lines file that a resumed run cuts back to its checkpoint."""

    def __init__(self, path: Path, last_step: int, rollbacks: int) -> None:
        self.path = path
        self._file: TextIO | None = None
        self.cut(last_step, rollbacks)

    def cut(self, last_step: int, rollbacks: int = 0) -> None:
        """Keep the complete lines up to ``last_step``; later ones will be written again.

        Lines that say after how many ``rollbacks`` they were written are kept when it was fewer.
        """
        self.close()
        now = (rollbacks, last_step)
        kept = [line for line in self.lines() if (line.get("rollbacks", rollbacks), line["step"]) <= now]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = self.path.open("a", encoding="utf-8")

    def lines(self) -> Lines:
        return read_log(self.path)

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


def read_log(path: Path) -> Lines:
    """All complete lines of a log; a line torn by a kill is left out."""
    return parse_log(path.read_text(encoding="utf-8", errors="replace")) if path.exists() else []


def parse_log(text: str) -> Lines:
    """The lines that are whole; every one has a step."""
    lines = []
    for part in text.splitlines():
        try:
            line = parse_json(part)
        except ValueError:
            continue
        if isinstance(line, dict) and _is_count(line.get("step")) and _is_count(line.get("rollbacks", 0)):
            lines.append(line)
    return lines


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def finite_numbers(lines: Sequence[Mapping[str, Any]], key: str, scale: float = 1.0) -> list[tuple[int, float]]:
    """(step, scale * value) of the lines in which ``key`` is a finite number."""
    return [(line["step"], scale * line[key]) for line in lines if is_finite(line.get(key))]


def last_number(lines: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """The last finite number of ``key``."""
    found = finite_numbers(lines, key)
    return found[-1][1] if found else None


def is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST_NUMBER
