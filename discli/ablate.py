"""``discli ablate``: a study from its file to its report: which cells there are, who runs them, what came of it.

Every cell is a process of its own (`discli.ablate_cell`), so that one that fails takes nothing with
it and its peak memory is its own. A cell is known by its settings: a killed study goes on where it
was, and a value added to an axis runs the new cells only.
"""

import json
from pathlib import Path

import typer

from discli.ablate_cell import LOG, PICTURES, run_cell
from discli.ablate_plan import Planned, make_plan, print_plan
from discli.ablate_workers import failure_of, run_cells
from discli.console import stderr
from discli.errors import DiscliError
from discli.ranks import rank_and_world
from discli.recipe import Cell, Study, load_study
from discli.report.study import StudyReport, summarise, write_report


def ablate(
    study_name: str | Path,
    *,
    data: Path | None = None,
    out: Path | None = None,
    jobs: int = 1,
    cell: str | None = None,
    dry_run: bool = False,
    as_json: bool = False,
) -> Path:
    """Runs what is missing of a study and writes its report; returns the study's folder.

    ``out`` defaults to ``runs/ablate-<name>``. ``jobs`` cells run at once; under torchrun or srun the
    processes share the cells. ``cell`` (a number or a name) runs that one alone, in this process, for
    a Slurm array. ``dry_run`` only prints what there is to do. Raises DiscliError with status 1 when
    cells failed, after the others are done.
    """
    study, cells = load_study(study_name)
    out = out or Path("runs") / f"ablate-{study.name}"
    if cell is not None:
        chosen = find_cell(cells, cell)
        result = run_cell(study, chosen, out / "cells" / chosen.name, data)
        stderr.print(f"{chosen.name}: {result['score_name']} {result['score']:.4g}")
        return out

    plan = make_plan(study, cells, out)
    if dry_run:
        print_plan(study, plan, as_json)
        return out
    if data is None and plan[0].recipe.data.file is None:
        raise DiscliError(f"{study.name}: no data file.", "Give --data FILE.h5 (discli encode writes one).")

    rank, world = rank_and_world()
    todo = [planned for planned in plan[rank::world] if planned.result is None]
    finished = sum(planned.result is not None for planned in plan)
    stderr.print(f"{study.name}: {len(plan)} cells, {finished} finished, {len(todo)} to run here, {jobs} at once")
    command = [str(study_name), "--out", str(out), *(["--data", str(data)] if data else [])]
    for done in run_cells(todo, command, jobs):
        stderr.print(done)
        report = _report(study, cells, out)
    report = _report(study, cells, out)
    if as_json:
        typer.echo(json.dumps(summarise(report), indent=1))
    stderr.print(f"Report: {out / 'report.html'}; report.md, cells.csv and the plots are beside it.")
    failed = [planned for planned in todo if planned.cell.name in report.failures]
    if failed:
        raise DiscliError(
            f"{len(failed)} of {len(todo)} cells failed; the others are done.",
            f"See {failed[0].folder / LOG}; the same command tries them again.",
            status=1,
        )
    return out


def find_cell(cells: list[Cell], wanted: str) -> Cell:
    """By its number, from 0, as a Slurm array counts, or by its name."""
    for number, cell in enumerate(cells):
        if wanted in (str(number), cell.name):
            return cell
    raise DiscliError(
        f"--cell {wanted}: no such cell.",
        f"Give a number from 0 to {len(cells) - 1}, or a name such as {cells[0].name}; --dry-run lists them.",
    )


def _report(study: Study, cells: list[Cell], out: Path) -> StudyReport:
    """From what lies in the folders now, other processes' cells included."""
    plan: list[Planned] = make_plan(study, cells, out)
    failures = {p.cell.name: text for p in plan if p.result is None and (text := failure_of(p.folder)) is not None}
    pictures = {p.cell.name: p.folder / PICTURES for p in plan}
    report = StudyReport(
        name=study.name,
        base=study.base,
        budget=study.budget.describe(),
        seeds=study.seeds,
        cells=len(cells),
        results=[p.result for p in plan if p.result is not None],
        failures=failures,
        pictures=pictures,
    )
    write_report(report, out)
    return report
