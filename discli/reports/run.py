"""``discli report``: a run's folder -> one HTML page that needs no other file.

Reads only, so that it can be asked for while the run is trained.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Literal

from discli import __version__
from discli.recipe import Recipe
from discli.recipe.defaults import settings
from discli.reports.fit import Fit, fit_of, fit_plots, floor_of_run
from discli.reports.run_curves import Series
from discli.reports.run_page import RunFacts, choose_previews, run_page
from discli.runs.layout import RunFolder, find_run, is_run
from discli.runs.listing import describe_state, of_steps
from discli.runs.logs import Lines, finite_numbers, last_number
from discli.runs.status import RunStatus, run_status
from discli.runtime.console import format_bytes, format_seconds
from discli.runtime.errors import DiscliError
from discli.runtime.files import write_text
from discli.runtime.numbers import format_number

_RECORDED = {
    "torch": "torch",
    "python": "Python",
    "device": "device",
    "cpu_threads": "CPU threads",
    "processes": "processes",
    "precision": "precision",
    "scan": "scan",
}


class RunReport(RunStatus):
    """The status of a run, and what its page is made from beside it."""

    page: Path
    page_bytes: int
    previews: list[Path]
    score_curves: dict[str, Series]
    score_files: list[Path]
    fit: Fit | None  # whether it underfits, generalises or memorises; None without held-out samples
    chosen: list[str]  # settings of the recipe that are not discli's defaults
    environment: dict[str, str]
    sessions: Lines
    events: Lines


def report_run(run: str | Path, out: str | Path | None = None, floor: str | Path | None = None) -> RunReport:
    """Write a page about a run to ``out``, by default into its folder. The run may be training meanwhile.

    ``floor``: a file of ``discli floor``; by default the one beside the run's data, if there is one.

    Raises DiscliError where ``run`` is not a run, or the page cannot be written.
    """
    run = find_run(run)
    if not is_run(run):
        raise DiscliError(f"{run} is not a run of discli train.", "Give a run's folder; discli runs lists them.")
    out = Path(out) if out is not None else RunFolder(run).report
    found = run_status(run)
    least = floor_of_run(found, Path(floor) if floor is not None else None)
    fit = fit_of(found.logs["holdout"], least)
    page = run_page(_facts(found, fit, fit_plots(found.logs["holdout"], least)))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, page)
    except OSError as error:
        raise DiscliError(
            f"{out} cannot be written: {error.strerror}.", "Choose a place with --out FILE.html."
        ) from None
    return RunReport(
        **dict(found),
        page=out,
        page_bytes=out.stat().st_size,
        previews=choose_previews(RunFolder(run).find_previews()),
        score_curves=_score_series(found),
        fit=fit,
        score_files=[score.file for score in found.scores if score.result is not None],
        chosen=[line.text for line in settings(found.recipe) if line.chosen and line.key] if found.recipe else [],
        environment=dict(_environment(found)),
        sessions=found.logs["sessions"],
        events=found.logs["events"],
    )


def _facts(run: RunStatus, fit: Fit | None, plots: Sequence[tuple[str, str]]) -> RunFacts:
    folder = run.folder.resolve().name
    return RunFacts(
        name=folder if folder == run.name else f"{folder}: {run.name}",
        state=describe_state(run),
        tone=_tone(run),
        headline=_headline(run, fit),
        fit=fit,
        fit_plots=plots,
        problems=run.problems,
        metrics=run.logs["metrics"],
        speed=run.logs["speed"],
        scores=_score_series(run),
        previews=RunFolder(run.folder).find_previews(),
        score_results=[(score.file.name, score.result) for score in run.scores if score.result is not None],
        recipe=_recipe(run.recipe) if run.recipe else [],
        environment=_environment(run),
        events=run.logs["events"],
        sessions=_sessions(run.logs["sessions"]),
        footer=f"discli {__version__}, {datetime.now(UTC):%d %B %Y %H:%M} UTC",
    )


def _recipe(recipe: Recipe) -> list[list[tuple[str, bool]]]:
    tables = groupby(settings(recipe), key=lambda line: line.table)
    return [[(line.text, line.chosen) for line in lines] for _, lines in tables]


def _tone(run: RunStatus) -> Literal["good", "busy", "bad"]:
    if run.state == "finished":
        return "good"
    return "bad" if run.state == "corrupt" else "busy"


def _headline(run: RunStatus, fit: Fit | None) -> list[tuple[str, str]]:
    found = [("step", of_steps(run))]
    if run.loss is not None:
        found.append(("loss", format_number(run.loss)))
    if fit is not None:
        found.append(("held-out loss", format_number(fit.loss_held_out)))
        if fit.loss_gap is not None:
            found.append(("loss over the floor", format_number(fit.loss_gap.gap)))
    if run.score is not None:
        n = f", n = {run.score.n:,}" if run.score.n is not None else ""
        found.append((f"{run.score.name}{n}", format_number(run.score.value)))
    rate = run.images_per_second
    if rate is not None:
        found.append(("images/s", format_number(rate, 3)))
    if rate and run.recipe is not None:
        batch = run.recipe.train.batch_size
        found.append(("images seen", f"{run.step * batch:,}"))
        if run.state == "training" and run.seconds_left is not None:
            found.append(("about left", format_seconds(run.seconds_left)))
    return [*found, ("on disk", format_bytes(run.bytes))]


def _score_series(run: RunStatus) -> dict[str, Series]:
    names = dict.fromkeys(score.name for score in run.scores if score.result is None)
    return {name: finite_numbers(run.logs["scores"], name) for name in names}


def _environment(run: RunStatus) -> list[tuple[str, str]]:
    """Of the last session, and what run.json has said all along."""
    found = [("discli", run.description.discli_version if run.description else "unknown")]
    sessions = run.logs["sessions"]
    if sessions:
        found += [(name, str(sessions[-1][key])) for key, name in _RECORDED.items() if key in sessions[-1]]
    else:
        found.append(("machine", "not recorded"))
    memory = last_number(run.logs["speed"], "peak_memory")
    if memory is not None:
        found.append(("peak memory", format_bytes(memory)))
    if run.data_file:
        found.append(("data", run.data_file))
    return found


def _sessions(lines: Lines) -> list[list[str]]:
    """A row each: when, from which step, on what, in how many processes."""
    return [
        [
            str(line.get("started", "?")).replace("+00:00", "").replace("T", " "),
            f"{line['step']:,}",
            str(line.get("device", "?")),
            str(line.get("processes", "?")),
        ]
        for line in lines
    ]
