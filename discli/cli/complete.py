"""What the shell offers after TAB. Runs at every press of the key, so it imports nothing that takes time."""

import json
import os
from pathlib import Path

from discli.recipe.shipped import first_comment, shipped_files
from discli.runs.layout import RunFolder
from discli.runtime.plugins import plugins


def recipe_names(incomplete: str) -> list[tuple[str, str]]:
    """(name, what it is for) of the shipped recipes that begin like that; the shell adds files itself."""
    return _named(incomplete, "")


def study_names(incomplete: str) -> list[tuple[str, str]]:
    """The same of the shipped ablation studies."""
    return _named(incomplete, "ablations")


_SAMPLERS = {
    "ddpm": "ancestral sampling, as in the paper",
    "ddim": "few steps; --eta adds noise",
    "dpm-solver++": "few steps, second order",
    "sde-dpm-solver++": "the same with noise",
    "unipc": "few steps, predictor and corrector",
    "euler": "first order; flow models too",
    "heun": "second order, two calls a step; flow models too",
    "euler-maruyama": "with noise; flow models alone",
}


def sampler_names(incomplete: str) -> list[tuple[str, str]]:
    """(name, what it is for) of the samplers."""
    return [(name, what) for name, what in _SAMPLERS.items() if name.startswith(incomplete)]


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
