"""Flags and help: training, and what becomes of a run."""

from pathlib import Path
from typing import Annotated

import typer

from discli.cli.app import Device, Json, Set, app
from discli.cli.complete import recipe_names, study_names


@app.command(epilog="Example: discli train cifar10-dis-s-2 --data cifar.h5 --set train.batch_size=64")
def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A recipe file, the name of a shipped recipe, or a run to go on with.", autocompletion=recipe_names
        ),
    ],
    data: Annotated[Path | None, typer.Option(help="A file of discli encode.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder. Default: runs/NAME.")] = None,
    overrides: Set = None,
    device: Device = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only check everything and say what the run takes; write nothing.")
    ] = False,
    verify_resume: Annotated[
        bool, typer.Option("--verify-resume", help="Only test, in miniature, that resuming this recipe is exact.")
    ] = False,
) -> None:
    """Train a model, or go on with a run: the same command resumes it, bit for bit, or discli train RUN.

    Without --data and data.file, the newest file of encode in this folder that fits the recipe is taken.

    Exit status 75: stopped by SIGTERM, SIGUSR1 or Ctrl-C after writing a checkpoint; run it again.
    """
    from discli.data.find import data_for
    from discli.runs.run import what_to_train

    # Before torch is imported, which takes longer than anyone should wait for a mistake.
    task = what_to_train(recipe, data, out, overrides or [])
    data = data_for(task.recipe, task.file, task.folder)
    if verify_resume:
        from discli.training.verify_resume import verify_resume as verify

        verify(recipe, data=data, overrides=overrides or [], device=device)
        return
    from discli.training.train import train as run

    folder = run(recipe, data=data, out=out, overrides=overrides or [], device=device, dry_run=dry_run)
    if not dry_run:
        typer.echo(folder)


@app.command(epilog="Example: discli ema runs/mine --std 0.08 && discli sample runs/mine/ema-0.08")
def ema(
    run: Annotated[Path, typer.Argument(help='The folder of a run trained with train.ema = "power".')],
    std: Annotated[float, typer.Option(help="Width of the average, relative to the steps trained: 0 to 0.288.")],
    step: Annotated[int | None, typer.Option(help="At which snapshot. Default: the last.")] = None,
    out: Annotated[Path | None, typer.Option(help="Default: RUN/ema-STD.")] = None,
) -> None:
    """An average of any length after training, from a run's snapshots (EDM2's post-hoc EMA)."""
    from discli.training.posthoc_ema import posthoc_ema

    typer.echo(posthoc_ema(run, std, step, out))


@app.command(epilog="Example: discli ablate patch-size-small --data cifar10.h5 --dry-run")
def ablate(
    study: Annotated[
        str, typer.Argument(help="A study file, or the name of a shipped one.", autocompletion=study_names)
    ],
    data: Annotated[Path | None, typer.Option(help="A file of discli encode.")] = None,
    out: Annotated[Path | None, typer.Option(help="The study's folder. Default: runs/ablate-NAME.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print every trial with its size, work, disk and time.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Trials at once; on several GPUs, one each in turn.")] = 1,
    trial: Annotated[
        str | None, typer.Option(metavar="I|NAME", help="Run this trial alone, as in a Slurm array.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a study: every combination of its settings and seeds, then a report of what differs.

    Killed, the same command goes on; a trial that fails is reported and the others go on. Under
    torchrun or srun the processes share the trials. Without --data, the newest file of encode in this
    folder that fits all trials is taken.
    """
    from discli.data.find import data_for_study
    from discli.recipe import load_study

    loaded, trials = load_study(study)
    # Before torch is imported; the finished trials of a study that has begun need no data.
    if not (dry_run or (out or Path("runs") / f"ablate-{loaded.name}").exists()):
        data = data_for_study([each.recipe(steps=1) for each in trials], data)
    from discli.ablation.study import ablate as run

    folder = run(study, data=data, out=out, jobs=jobs, trial=trial, dry_run=dry_run, as_json=as_json)
    if not (as_json or dry_run):
        typer.echo(folder)


@app.command(epilog="Example: discli runs && discli runs runs/ablate-skip --json")
def runs(
    folder: Annotated[Path, typer.Argument(help="Looked through with all folders in it.")] = Path("runs"),
    as_json: Json = False,
) -> None:
    """List runs: how far each is, what it is doing, its last loss and score, its speed and size."""
    from discli.runs.listing import list_runs

    list_runs(folder, as_json=as_json)


@app.command(epilog="Example: discli report runs/mine --out mine.html")
def report(
    run: Annotated[Path, typer.Argument(help="A run, finished or not: its folder, or its name in discli runs.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Default: RUN/report.html.")] = None,
    as_json: Json = False,
) -> None:
    """One HTML page about a run: curves, samples over time, scores, recipe, environment, events."""
    from discli.reports.run import report_run

    report_run(run, out=out, as_json=as_json)
