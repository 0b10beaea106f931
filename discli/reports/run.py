"""``discli report``: a run's folder -> one HTML page that needs no other file.

Reads only, so that it can be asked for while the run goes on.
"""

import json
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import typer

from discli import __version__
from discli.recipe import Recipe
from discli.recipe.defaults import settings
from discli.reports.run_curves import Series, series
from discli.reports.run_page import RunFacts, choose_previews, run_page
from discli.runs.listing import as_record, describe_state, of_steps
from discli.runs.status import Lines, RunStatus, find_run, is_run, last_number, run_status
from discli.runtime.console import format_bytes, format_seconds, stderr
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


def report_run(run: Path, *, out: Path | None = None, as_json: bool = False) -> Path:
    """Writes ``out`` (default RUN/report.html) and prints its path, or with ``as_json`` what it is made from.

    Raises DiscliError where ``run`` is no run, or the page cannot be written.
    """
    run = find_run(run)
    if not is_run(run):
        raise DiscliError(f"{run} is not a run of discli train.", "Give a run's folder; discli runs lists them.")
    out = out or run / "report.html"
    found = run_status(run)
    page = run_page(_facts(found))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, page)
    except OSError as error:
        raise DiscliError(
            f"{out} cannot be written: {error.strerror}.", "Choose a place with --out FILE.html."
        ) from None
    if as_json:
        typer.echo(json.dumps(_record(found, out), indent=1))
    else:
        stderr.print(f"{found.name}, {describe_state(found)}: {format_bytes(out.stat().st_size)}")
        typer.echo(out)
    return out


def _facts(run: RunStatus) -> RunFacts:
    folder = run.folder.resolve().name
    return RunFacts(
        name=folder if folder == run.name else f"{folder}: {run.name}",
        state=describe_state(run),
        tone=_tone(run),
        headline=_headline(run),
        problems=run.problems,
        metrics=run.logs["metrics"],
        speed=run.logs["speed"],
        scores=_score_series(run),
        previews=_previews(run),
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
    return "bad" if run.state == "damaged" else "busy"


def _headline(run: RunStatus) -> list[tuple[str, str]]:
    found = [("step", of_steps(run))]
    if run.loss is not None:
        found.append(("loss", format_number(run.loss)))
    if run.score is not None:
        n = f", n = {run.score.n:,}" if run.score.n is not None else ""
        found.append((f"{run.score.name}{n}", format_number(run.score.value)))
    rate = run.images_per_second
    if rate is not None:
        found.append(("images/s", format_number(rate, 3)))
    if rate and run.recipe is not None:
        batch = run.recipe.train.batch_size
        found.append(("images seen", f"{run.step * batch:,}"))
        if run.state == "training" and run.steps is not None:
            found.append(("about left", format_seconds(max(run.steps - run.step, 0) * batch / rate)))
    return [*found, ("on disk", format_bytes(run.size))]


def _score_series(run: RunStatus) -> dict[str, Series]:
    names = dict.fromkeys(score.name for score in run.scores if score.result is None)
    return {name: series(run.logs["scores"], name) for name in names}


def _previews(run: RunStatus) -> list[Path]:
    return sorted((p for p in (run.folder / "previews").glob("*.png") if p.stem.isdecimal()), key=lambda p: int(p.stem))


def _environment(run: RunStatus) -> list[tuple[str, str]]:
    """Of the last session, and what run.json has said all along."""
    found = [("discli", str(run.description.get("discli_version", "unknown")))]
    sessions = run.logs["sessions"]
    if sessions:
        found += [(name, str(sessions[-1][key])) for key, name in _RECORDED.items() if key in sessions[-1]]
    else:
        found.append(("machine", "not recorded: the discli that trained this run did not write sessions.jsonl"))
    memory = last_number(run.logs["speed"], "peak_memory")
    if memory is not None:
        found.append(("peak memory", format_bytes(memory)))
    if "data_file" in run.description:
        found.append(("data", str(run.description["data_file"])))
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


def _record(run: RunStatus, out: Path) -> dict[str, Any]:
    return as_record(run) | {
        "page": str(out),
        "page_bytes": out.stat().st_size,
        "previews": [str(path) for path in choose_previews(_previews(run))],
        "scores": {name: [list(point) for point in points] for name, points in _score_series(run).items()},
        "score_files": [str(score.file) for score in run.scores if score.result is not None],
        "chosen": [line.text for line in settings(run.recipe) if line.chosen and line.key] if run.recipe else [],
        "environment": dict(_environment(run)),
        "sessions": run.logs["sessions"],
        "events": run.logs["events"],
    }
