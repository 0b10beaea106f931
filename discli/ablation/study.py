"""``discli ablate``: a study from its file to its report: which trials there are, who runs them, what came of it.

Every trial is a process of its own (`discli.ablation.trial`), so that one that fails takes nothing with
it and its peak memory is its own. A trial is known by its settings: a killed study goes on where it
was, and a value added to an axis runs the new trials only.
"""

import json
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import typer

from discli.ablation.checks import check_before
from discli.ablation.plan import Planned, look_again, make_plan, print_plan, say_disk
from discli.ablation.report import summarise, write_report
from discli.ablation.results import StudyReport
from discli.ablation.trial import IMAGES, LOG, run_trial
from discli.ablation.workers import run_trials
from discli.data.find import data_for_study
from discli.recipe import Study, Trial, load_study
from discli.runtime.console import stderr
from discli.runtime.errors import DiscliError
from discli.runtime.numbers import format_number
from discli.runtime.processes import alone_in, own_part, rank_and_world
from discli.runtime.signals import EXIT_INTERRUPTED

# A report of hundreds of points takes its time, which the study should not spend on reports.
_LARGEST_SHARE_OF_REPORTS = 0.05


def ablate(
    study_name: str | Path,
    *,
    data: Path | None = None,
    out: Path | None = None,
    jobs: int = 1,
    trial: str | None = None,
    dry_run: bool = False,
    as_json: bool = False,
) -> Path:
    """Runs what is missing of a study and writes its report; returns the study's folder.

    ``out`` defaults to ``runs/ablate-<name>``. ``jobs`` trials run at once; under torchrun or srun the
    processes share the trials. ``trial`` (a number or a name) runs that one alone, in this process, for
    a Slurm array. ``dry_run`` only prints what there is to do. Raises DiscliError before the first
    trial for what cannot be trained or scored, and with status 1 when trials failed, after the others
    are done.
    """
    study, trials = load_study(study_name)
    out = out or Path("runs") / f"ablate-{study.name}"
    plan = make_plan(study, trials if trial is None else [find_trial(trials, trial)], out)
    if dry_run:
        print_plan(study, plan, out, as_json)
        return out
    data = data or data_for_study([planned.recipe for planned in plan if planned.result is None], None)
    check_before(study, plan, data)
    if trial is not None:
        _run_alone(study, plan[0], data, as_json)
        return out

    rank, world = rank_and_world()
    mine = plan[rank::world]
    todo = [planned for planned in mine if planned.result is None]
    jobs = max(1, min(jobs, len(todo)))
    finished = sum(planned.result is not None for planned in plan)
    stderr.print(f"{study.name}: {len(plan)} trials, {finished} finished, {len(todo)} to run here, {jobs} at once")
    if todo:
        say_disk(plan, out)
    command = [str(study_name), "--out", str(out), *(["--data", str(data)] if data else [])]
    next_report = 0.0
    with closing(run_trials(todo, command, jobs)) as lines:
        for line in lines:
            stderr.print(line)
            if (started := time.monotonic()) >= next_report:
                plan, _ = _report(study, plan, out)
                next_report = time.monotonic() + (time.monotonic() - started) / _LARGEST_SHARE_OF_REPORTS
    plan, report = _report(study, plan, out)
    if as_json:
        typer.echo(json.dumps(summarise(report), indent=1))
    stderr.print(f"Report: {out / 'report.html'}; report.md, trials.csv and the plots are beside it.")
    _complain(plan, rank, world)
    return out


def find_trial(trials: list[Trial], wanted: str) -> Trial:
    """By its number, from 0, as a Slurm array counts, or by its name."""
    for number, trial in enumerate(trials):
        if wanted in (str(number), trial.name):
            return trial
    raise DiscliError(
        f"--trial {wanted}: no such trial.",
        f"Give a number from 0 to {len(trials) - 1}, or a name such as {trials[0].name}; --dry-run lists them.",
    )


def _run_alone(study: Study, planned: Planned, data: Path | None, as_json: bool) -> None:
    _, world = rank_and_world()
    if world > 1:
        raise DiscliError(
            f"--trial with {world} processes: one trial is trained by one.", "Leave --trial out: they share the trials."
        )
    result = run_trial(study, planned.trial, planned.folder, data)
    if as_json:
        typer.echo(json.dumps(result, indent=1))
    stderr.print(f"{planned.trial.name}: {result.score_name} {format_number(result.score)}")


def _report(study: Study, plan: Sequence[Planned], out: Path) -> tuple[list[Planned], StudyReport]:
    """From what lies in the folders now, other processes' trials included; and the plan as it is now."""
    with alone_in(out):  # or an earlier view could be written over a later one
        plan = look_again(study, plan)
        report = StudyReport(
            name=study.name,
            base=study.base,
            budget=study.budget.describe(),
            seeds=study.seeds,
            trials=len(plan),
            results=[p.result for p in plan if p.result is not None],
            failures={p.trial.name: p.failure for p in plan if p.failure is not None},
            images={p.trial.name: p.folder / IMAGES for p in plan},
        )
        write_report(report, out)
    return plan, report


def _complain(plan: Sequence[Planned], rank: int, world: int) -> None:
    """Raises DiscliError when trials failed, or were asked to stop.

    Of several processes the last one does: torchrun ends all when one fails.
    """
    failed = [planned for planned in plan if planned.failure is not None]
    stopped = [number for number, p in enumerate(plan) if p.result is None and p.failure is None]
    elsewhere = sum(number % world != rank for number in stopped)
    if elsewhere:
        stderr.print(own_part(rank, world, f"{elsewhere} of {len(plan)} trials"))
    elif failed:
        raise DiscliError(
            f"{len(failed)} of {len(plan)} trials failed, {len(plan) - len(failed) - len(stopped)} are done.",
            f"See {failed[0].folder / LOG}; the same command tries them again.",
            status=1,
        )
    elif stopped:
        raise DiscliError(
            f"{len(stopped)} of {len(plan)} trials were asked to stop.",
            "The same command goes on with them.",
            status=EXIT_INTERRUPTED,
        )
