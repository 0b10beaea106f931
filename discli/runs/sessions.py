"""When and on what a run was trained, session by session."""

import json
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from discli import __version__
from discli.runs.layout import RunFolder
from discli.runs.logs import read_log
from discli.runtime.devices import device_name
from discli.runtime.files import write_text
from discli.runtime.processes import processes_here


def first_precision(folder: Path) -> str | None:
    """That of the run's first session, which resumed ones keep: "fp32" or "bf16"; None before there is one."""
    precision: str | None = _first(folder, "precision")
    return precision


def first_processes(folder: Path) -> int | None:
    """How many processes the run's first session had."""
    count: int | None = _first(folder, "processes")
    return count


def _first(folder: Path, key: str) -> Any:
    """What the first session says; None where there is none."""
    sessions = read_log(RunFolder(folder).log("sessions"))
    return sessions[0].get(key) if sessions else None


def record_session(folder: Path, step: int, device: torch.device, **about: Any) -> None:
    """Add one line: that training resumed at ``step``, now, on this machine; ``about`` is what the caller knows.

    Unlike the other logs it is never cut back: what was done again was done.
    """
    now = {
        "step": step,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "discli": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": device_name(device),
        "cpu_threads": torch.get_num_threads() * processes_here(),
    }
    log = RunFolder(folder).log("sessions")
    lines = [*read_log(log), now | about]
    write_text(log, "".join(json.dumps(line) + "\n" for line in lines))
