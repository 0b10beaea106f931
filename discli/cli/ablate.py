"""``discli ablate``."""

from pathlib import Path
from typing import Annotated

import typer

from discli.cli.app import Json, app
from discli.cli.complete import study_names
from discli.cli.recipe import print_shipped


@app.command(epilog="Example: discli ablate patch-size-small --data cifar10.h5 --dry-run")
def ablate(
    study: Annotated[
        str | None,
        typer.Argument(
            help="A study file, or the name of a shipped one. Default: list those.", autocompletion=study_names
        ),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="A file of discli encode, or a pattern of its parts.")] = None,
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
    """Run a study: every combination of its settings and seeds. A report says what differs.

    Run the same command again to resume. A trial that fails is reported and the others continue. Under
    torchrun or srun the processes share the trials. Without --data, the newest file of encode in this
    folder that fits all trials is taken.
    """
    if study is None:
        print_shipped("ablations", as_json)
        return
    from discli.data.find import data_for_study
    from discli.recipe import load_study
    from discli.runtime.files import to_json

    if dry_run:
        from discli.ablation.plan import plan_study

        planned = plan_study(study, data=data, out=out, trial=trial)
        if as_json:
            typer.echo(to_json(planned))
        else:
            from discli.cli.plan_table import print_plan

            print_plan(planned, out or Path("runs"))
        return
    loaded, trials = load_study(study)
    folder = out or Path("runs") / f"ablate-{loaded.name}"
    if not folder.exists():  # before torch is imported; a study that has finished trials need not have their data
        data = data_for_study([each.recipe(steps=1) for each in trials], data)
    from discli.ablation.report import summarise
    from discli.ablation.study import StudyIncompleteError, ablate_trial
    from discli.ablation.study import ablate as run

    if trial is not None:
        result = ablate_trial(study, trial, data=data, out=out)
        typer.echo(to_json(result) if as_json else folder)
        return
    try:
        report = run(study, data=data, out=out, jobs=jobs)
    except StudyIncompleteError as incomplete:
        if as_json:
            typer.echo(to_json(summarise(incomplete.report)))
        raise
    typer.echo(to_json(summarise(report)) if as_json else folder)
