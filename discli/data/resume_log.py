"""What an unfinished file can be continued from: a lock and one line per safely written stretch.

The resume log lies beside the file. Its first line holds the settings of the run, each later one the state
after rows that are on disk. A line is appended only after its rows were fsynced, so whatever instant a
process dies at, the last whole line is true; a torn line after it is cut off.
"""

import fcntl
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from discli.data.channel_moments import ChannelMoments
from discli.recipe.differences import first_difference
from discli.runtime.errors import DiscliError

_FORMAT = "discli-journal/1"


@dataclass
class State:
    """How far a run is. ``skipped`` holds (position, why); positions count the source's images."""

    end: int = 0  # the first position not dealt with
    rows: int = 0
    upscaled: int = 0
    skipped: list[tuple[int, str]] = field(default_factory=list)
    shapes: list[int] = field(default_factory=list)  # of each row, where there are several
    moments: ChannelMoments = field(default_factory=ChannelMoments)


class ResumeLog:
    """Holds the lock until closed; the kernel lets go of it if the process dies."""

    def __init__(self, out: Path, settings: dict[str, Any]) -> None:
        """Raises DiscliError if another run holds the lock, or began this file with other settings."""
        self.path = resume_log_of(out)
        self._settings = settings
        self._file = _locked(self.path, out)
        try:
            self._records = self._read(out)
        except BaseException:
            self._file.close()
            raise

    @property
    def begun(self) -> bool:
        return bool(self._records)

    def resume(self, start: int, rows_on_disk: int) -> State:
        """The last state whose rows are all there; without one, a new beginning at position ``start``."""
        kept = [record for _, record in self._records if record.rows <= rows_on_disk]
        self._file.seek(0)
        self._file.truncate(self._records[len(kept) - 1][0] if kept else 0)
        self._file.seek(0, os.SEEK_END)
        if not kept:
            self._append({"format": _FORMAT, "settings": self._settings, "start": start})
            return State(end=start)
        skipped = [skip for record in kept for skip in record.skipped]
        return replace(kept[-1], skipped=skipped, shapes=[shape for record in kept for shape in record.shapes])

    def commit(self, state: State, newly_skipped: list[tuple[int, str]], new_shapes: Sequence[int] = ()) -> None:
        """``state.skipped`` and ``shapes`` are not repeated in every line: the other two are what this one adds."""
        self._append(asdict(replace(state, skipped=newly_skipped, shapes=list(new_shapes))))

    def close(self, *, remove: bool = False) -> None:
        if remove:
            self.path.unlink(missing_ok=True)
        self._file.close()

    def _append(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read(self, out: Path) -> list[tuple[int, State]]:
        """(where its line ends, the state) of every whole line; ``skipped`` as each line added to it."""
        self._file.seek(0)
        records: list[tuple[int, State]] = []
        begun_with: dict[str, Any] = {}
        at = 0
        for line in self._file.read().split(b"\n")[:-1]:  # without its newline the last line is torn
            try:
                content = json.loads(line)
            except ValueError:
                break
            at += len(line) + 1
            if not records:
                begun_with = content["settings"]
                records.append((at, State(end=content["start"])))
                continue
            content["moments"] = ChannelMoments(**content["moments"])
            content["skipped"] = [(position, why) for position, why in content["skipped"]]
            records.append((at, State(**content)))
        if len(records) > 1:  # nothing is lost by starting over where nothing was written
            _check_same(begun_with, self._settings, out)
            return records
        return []


def resume_log_of(out: Path) -> Path:
    return out.with_name(out.name + ".journal")


def _check_same(begun_with: dict[str, Any], settings: dict[str, Any], out: Path) -> None:
    different = first_difference(begun_with, json.loads(json.dumps(settings)))
    if different is None:
        return
    name, held, asked = different
    what = f"{name} {held}, now {asked}" if name != "source_sha256" else "images (or labels) other than there are now"
    raise DiscliError(
        f"{out} was begun with {what}.",
        f"To resume, give the same flags as then; to start over, delete {out.name}.partial and {out.name}.journal.",
    )


def _locked(path: Path, out: Path) -> BinaryIO:
    while True:
        file = path.open("a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise DiscliError(f"Another run is writing {out}.", "Wait for it to end, or give another --out.") from None
        try:  # the run that held the lock may have finished and removed the file in between
            if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                return file
        except FileNotFoundError:
            pass
        file.close()
