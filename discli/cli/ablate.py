"""``discli ablate``."""

from pathlib import Path
from typing import Annotated

import typer

from discli.cli.app import Json, app
from discli.cli.complete import study_names


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
