"""Where everything lies in a run's folder. Nobody else knows these names.

Imports nothing that takes time: shell completion asks it, too.
"""

from dataclasses import dataclass
from pathlib import Path

from discli.runs.box import find_model
from discli.runtime.processes import is_locked

STATE = "state.json"  # of a checkpoint: the step, the log window, and size and hash of every file
EMA = "ema"  # the tensors of a checkpoint that samples are made with
LOGS = ("metrics", "speed", "scores", "holdout", "events", "sessions")


@dataclass(frozen=True)
class RunFolder:
    """A run's folder, whether or not it is there."""

    path: Path

    @property
    def description(self) -> Path:
        """The recipe, the data's contract, versions; see `discli.runs.description.RunDescription`."""
        return self.path / "run.json"

    @property
    def lock(self) -> Path:
        return self.path / ".lock"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def snapshots(self) -> Path:
        return self.path / "snapshots"

    @property
    def previews(self) -> Path:
        return self.path / "previews"

    @property
    def tracker(self) -> Path:
        return self.path / "tracker"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def first_losses(self) -> Path:
        """Of every held-out and trained sample when they were first measured; later ones are compared with these."""
        return self.path / "holdout.safetensors"

    def log(self, name: str) -> Path:
        """One of `LOGS`."""
        return self.path / f"{name}.jsonl"

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"{step:08d}"

    def snapshot(self, step: int, std: float) -> Path:
        return self.snapshots / f"{step:08d}-{std:g}.safetensors"

    def preview(self, step: int) -> Path:
        return self.previews / f"{step:08d}.png"

    def find_checkpoints(self) -> list[Path]:
        """Folders of checkpoints, whole or corrupt, by their steps. Raises OSError for what cannot be read."""
        try:
            found = [path for path in self.checkpoints.iterdir() if path.name.isdecimal() and path.is_dir()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(found, key=lambda path: int(path.name))

    def find_previews(self) -> list[Path]:
        """By their steps."""
        found = [path for path in self.previews.glob("*.png") if path.stem.isdecimal()]
        return sorted(found, key=lambda path: int(path.stem))

    def find_snapshots(self) -> dict[tuple[int, float], Path]:
        """(step, std) -> file, in order of steps."""
        found = {}
        for path in sorted(self.snapshots.glob("*.safetensors")):
            step, _, std = path.stem.partition("-")
            try:
                found[int(step), float(std)] = path
            except ValueError:  # somebody else's file
                continue
        return found

    def is_run(self) -> bool:
        """Whether there is a run, or what is left of one."""
        try:
            return self.description.exists() or (
                self.checkpoints.is_dir() and (self.log("metrics").exists() or bool(self.find_checkpoints()))
            )
        except (OSError, ValueError):  # not a name that a folder could have
            return False

    def is_running(self) -> bool:
        """Whether a process trains here now."""
        return is_locked(self.lock)


def is_run(folder: Path) -> bool:
    """Whether ``folder`` is a run, or what is left of one."""
    return RunFolder(folder).is_run()


def is_checkpoint(folder: Path) -> bool:
    """Whether ``folder`` is one checkpoint, whole or corrupt."""
    try:
        return (folder / STATE).is_file()
    except (OSError, ValueError):  # not a name that a file could have
        return False


def ema_file(checkpoint: Path) -> Path:
    """The averaged weights of a checkpoint."""
    return checkpoint / f"{EMA}.safetensors"


def run_of(checkpoint: Path) -> Path:
    """The run that a checkpoint lies in; what lies in none (an exported file, a copied checkpoint) itself."""
    run = checkpoint.parent.parent
    return run if checkpoint.parent == RunFolder(run).checkpoints else checkpoint


def find_run(name: str | Path) -> Path:
    """What a RUN or MODEL stands for: a path, a name below ``runs/`` as ``discli runs`` shows it, or a model's name.

    In this order, so that what somebody has trained is never hidden by what came with discli. A model is its file of
    weights. What is none of them comes back as it is, for the caller to say what is missing.
    """
    path = Path(name)
    listed = Path("runs") / path
    return next(filter(_is_usable, (path, listed)), None) or find_model(str(name)) or path


def _is_usable(path: Path) -> bool:
    """A run, a checkpoint of one, or a file."""
    try:
        return path.is_file() or is_checkpoint(path) or is_run(path)
    except (OSError, ValueError):  # not a name that a file could have
        return False
