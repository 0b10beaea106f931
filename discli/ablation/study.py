"""``discli ablate``: a study from its file to its report: which trials there are, who runs them, what came of it.

Every trial is a process of its own (`discli.ablation.trial`), so that one that fails takes nothing with
it and its peak memory is its own. A trial is known by its settings: a killed study is resumed where it
was, and a value added to an axis runs the new trials only.
"""

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from discli.ablation.checks import check_before
from discli.ablation.plan import Planned, disk_to_fill, find_trial, make_plan, refresh, say_disk, study_folder
from discli.ablation.power import check_power
from discli.ablation.report import write_report
from discli.ablation.results import StudyReport
from discli.ablation.trial import IMAGES, LOG, run_trial
from discli.ablation.trial_result import TrialResult
from discli.ablation.workers import AskedToStop, run_trials
from discli.data.find import data_for_study
from discli.recipe import Study, load_study
from discli.runtime.console import stderr
from discli.runtime.errors import DiscliError
from discli.runtime.numbers import format_number
from discli.runtime.processes import alone_in, own_part, rank_and_world
from discli.runtime.signals import EXIT_INTERRUPTED

# A report of hundreds of points takes its time, which the study should not spend on reports.
_LARGEST_SHARE_OF_REPORTS = 0.05


class StudyIncompleteError(DiscliError):
    """Trials failed (status 1) or were asked to stop (status 75); ``report`` has those that are finished."""

    def __init__(self, message: str, hint: str, *, status: int, report: StudyReport) -> None:
        super().__init__(message, hint, status=status)
        self.report = report


def ablate(
    study: str | Path, *, data: str | Path | None = None, out: str | Path | None = None, jobs: int = 1
) -> StudyReport:
    """Runs what is missing of a study and writes its report, which is returned too.

    ``out`` is the study's folder, by default ``runs/ablate-<name>``. ``jobs`` trials run at once; under
    torchrun or srun the processes share the trials. Raises DiscliError before the first trial for what
    cannot be trained or scored, and StudyIncompleteError where trials failed, after the others are done, or
    were asked to stop by a signal. `discli.ablation.plan.plan_study` says what there is to do.
    """
    name = study
    loaded, trials = load_study(name)
    check_power(loaded)
    folder = study_folder(loaded, out)
    plan = make_plan(loaded, trials, folder)
    file = _data_for(loaded, plan, data)
    rank, world = rank_and_world()
    mine = plan[rank::world]
    todo = [planned for planned in mine if planned.result is None]
    jobs = max(1, min(jobs, len(todo)))
    finished = sum(planned.result is not None for planned in plan)
    stderr.print(f"{loaded.name}: {len(plan)} trials, {finished} finished, {len(todo)} to run here, {jobs} at once")
    if todo:
        say_disk(disk_to_fill(plan), folder)
    command = [str(name), "--out", str(folder), *(["--data", str(file)] if file else [])]
    next_report = 0.0
    stopped_by = ""
    try:
        with closing(run_trials(todo, command, jobs)) as lines:
            for line in lines:
                stderr.print(line)
                if (started := time.monotonic()) >= next_report:
                    plan, _ = _report(loaded, plan, folder)
                    next_report = time.monotonic() + (time.monotonic() - started) / _LARGEST_SHARE_OF_REPORTS
    except AskedToStop as asked:
        stopped_by = f"{asked}: "
    plan, report = _report(loaded, plan, folder)
    stderr.print(f"Report: {folder / 'report.html'}; report.md, trials.csv and the plots are beside it.")
    _complain(plan, report, rank, world, stopped_by)
    return report


def ablate_trial(
    study: str | Path, trial: str, *, data: str | Path | None = None, out: str | Path | None = None
) -> TrialResult:
    """Runs one trial of a study, a number or a name, in this process, for a Slurm array.

    Raises DiscliError as `ablate` does, with status 75 where it was asked to stop or another process is at it.
    """
    loaded, trials = load_study(study)
    [planned] = plan = make_plan(loaded, [find_trial(trials, trial)], study_folder(loaded, out))
    file = _data_for(loaded, plan, data)
    _, world = rank_and_world()
    if world > 1:
        raise DiscliError(
            f"--trial with {world} processes: one trial is trained by one.", "Leave --trial out: they share the trials."
        )
    result = run_trial(loaded, planned.trial, planned.folder, file)
    stderr.print(f"{planned.trial.name}: {result.score_name} {format_number(result.score)}")
    return result


def _data_for(study: Study, plan: Sequence[Planned], data: str | Path | None) -> Path | None:
    """The data file of the trials to run, None where their recipes name theirs; checked with all else they need."""
    recipes = [planned.recipe for planned in plan if planned.result is None]
    file = Path(data) if data is not None else data_for_study(recipes, None)
    check_before(study, plan, file)
    return file


def _report(study: Study, plan: Sequence[Planned], out: Path) -> tuple[list[Planned], StudyReport]:
    """From what lies in the folders now, other processes' trials included; and the plan as it is now."""
    with alone_in(out):  # or an earlier view could be written over a later one
        plan = refresh(study, plan)
        report = StudyReport(
            name=study.name,
            base=study.base,
            budget=study.budget.describe(),
            seeds=study.trainings,
            design=study.design,
            trials=len(plan),
            results=[p.result for p in plan if p.result is not None],
            failures={p.trial.name: p.failure for p in plan if p.failure is not None},
            images={p.trial.name: p.folder / IMAGES for p in plan},
            baseline=study.baseline,
            reported={p.trial.point.name: p.trial.point.reported for p in plan},
        )
        write_report(report, out)
    return plan, report


def _complain(plan: Sequence[Planned], report: StudyReport, rank: int, world: int, stopped_by: str) -> None:
    """Raises StudyIncompleteError when trials failed, or were asked to stop.

    Of several processes the last one does: torchrun ends all when one fails.
    """
    failed = [planned for planned in plan if planned.failure is not None]
    stopped = [number for number, p in enumerate(plan) if p.result is None and p.failure is None]
    elsewhere = sum(number % world != rank for number in stopped)
    if stopped_by:
        raise StudyIncompleteError(
            f"{stopped_by}the trials were asked to stop; {len(report.results)} of {len(plan)} are done.",
            "Run the same command to resume.",
            status=EXIT_INTERRUPTED,
            report=report,
        )
    if elsewhere:
        stderr.print(own_part(rank, world, f"{elsewhere} of {len(plan)} trials"))
    elif failed:
        raise StudyIncompleteError(
            f"{len(failed)} of {len(plan)} trials failed, {len(plan) - len(failed) - len(stopped)} are done.",
            f"See {failed[0].folder / LOG}; the same command tries them again.",
            status=1,
            report=report,
        )
    elif stopped:
        raise StudyIncompleteError(
            f"{len(stopped)} of {len(plan)} trials were asked to stop.",
            "Run the same command to resume them.",
            status=EXIT_INTERRUPTED,
            report=report,
        )
