"""When and on what a run was trained, session by session: ``runs/NAME/sessions.jsonl``."""

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from discli import __version__
from discli.runs.logs import read_log
from discli.runtime.files import write_text

FILE = "sessions.jsonl"


def record_session(folder: Path, step: int, device: torch.device, **about: Any) -> None:
    """Add one line: that training went on from ``step``, now, on this machine; ``about`` is what the caller knows.

    Unlike the other logs it is never cut back: what was done again was done.
    """
    now = {
        "step": step,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "discli": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": device_name(device),
        "cpu_threads": torch.get_num_threads(),
    }
    lines = [*read_log(folder / FILE), now | about]
    write_text(folder / FILE, "".join(json.dumps(line) + "\n" for line in lines))


def device_name(device: torch.device) -> str:
    """A GPU's or a processor's own name for itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        cpuinfo = ""
    names = [line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{names[0] if names else platform.machine()}, {cores} cores"
