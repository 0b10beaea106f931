"""What the shell offers after TAB. Runs at every press of the key, so it imports nothing that takes time."""

import json
import os
from pathlib import Path

from discli.recipe.choices import declared
from discli.runs.layout import RunFolder
from discli.runtime.plugins import plugins
from discli.runtime.shipped import first_comment, shipped_files

SAMPLERS = declared("diffusion/samplers", default="ddpm")
SCALE_SCHEDULES = declared("diffusion/scale_schedules", default="constant")


def recipe_names(incomplete: str) -> list[tuple[str, str]]:
    """(name, what it is for) of the shipped recipes that begin like that; the shell adds files itself."""
    return _named(incomplete, "")


def study_names(incomplete: str) -> list[tuple[str, str]]:
    """The same of the shipped ablation studies."""
    return _named(incomplete, "ablations")


def sampler_names(incomplete: str) -> list[tuple[str, str]]:
    """(name, what it is) of the samplers that begin like that."""
    return [(one.name, one.summary) for one in SAMPLERS if one.name.startswith(incomplete)]


def scale_schedule_names(incomplete: str) -> list[tuple[str, str]]:
    """The same of the schedules of the guidance scale."""
    return [(one.name, one.summary) for one in SCALE_SCHEDULES if one.name.startswith(incomplete)]


def metric_names(incomplete: str) -> list[tuple[str, str]]:
    """(all so far with one more, what it is) of the metrics, after the last comma; and what means all of them."""
    before, comma, last = incomplete.rpartition(",")
    named = {name: plugin.summary for name, plugin in plugins("evaluation/metrics", "fid").items()}
    named |= {} if comma else {"all": "every metric that the features allow"}
    return [(f"{before}{comma}{name}", what) for name, what in named.items() if name.startswith(last)]


def class_names(incomplete: str) -> list[str]:
    """Classes of the run on the command line, or of the newest, after the last comma; and what means all of them."""
    before, comma, last = incomplete.rpartition(",")
    names = [] if comma else ["random", "balanced"]
    try:
        # Typer gives no words before an option that lacks its value.
        words = (os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS", "")).split()
        named = [file for file in (RunFolder(Path(word)).description for word in words) if file.is_file()]
        below = (RunFolder(run).description for run in Path("runs").glob("*"))
        runs = named[:1] or [file for file in below if file.is_file()]
        newest = max(runs, key=lambda file: file.stat().st_mtime, default=RunFolder(Path()).description)
        found = json.loads(newest.read_text(encoding="utf-8"))
        # A name with commas in it is found by its first part too.
        names += [str(name).split(",")[0] for name in found["contract"]["class_names"]]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        pass  # no run to be asked
    return [f"{before}{comma}{name}" for name in names if name.startswith(last)]


def _named(incomplete: str, folder: str) -> list[tuple[str, str]]:
    files = shipped_files(folder)
    return [(name, first_comment(path)) for name, path in files.items() if name.startswith(incomplete)]
