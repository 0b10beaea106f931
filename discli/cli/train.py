"""``discli train``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from discli.cli.app import Device, Set, app, refuse_ignored
from discli.cli.complete import recipe_names
from discli.runtime.errors import DiscliError
from discli.runtime.processes import rank_and_world


@app.command(epilog="Example: discli train cifar10-dis-s-2 --data cifar.h5 --set train.batch_size=64")
def train(
    context: typer.Context,
    recipe: Annotated[
        str,
        typer.Argument(
            help="A recipe file, the name of a shipped recipe, or a run to resume.", autocompletion=recipe_names
        ),
    ],
    data: Annotated[Path | None, typer.Option(help="A file of discli encode, or a pattern of its parts.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder. Default: runs/NAME.")] = None,
    overrides: Set = None,
    device: Device = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only check everything and say what the run takes; write nothing.")
    ] = False,
    verify_resume: Annotated[
        bool, typer.Option("--verify-resume", help="Only test, in miniature, that resuming this recipe is exact.")
    ] = False,
    begin_from: Annotated[
        str | None, typer.Option("--from", metavar="RUN|MODEL", help="Begin with the weights of a trained model.")
    ] = None,
    take: Annotated[
        Literal["ema", "weights", "both"] | None,
        typer.Option(help="Which weights of --from. Default: ema, its averages."),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="Share a CPU's cores among so many. Default: one for each core, four at most."),
    ] = None,
) -> None:
    """Train a model. Rerun the command to resume, or give the run's folder; the result is bit-identical.

    Without --data and data.file, the newest file of encode in this folder that fits the recipe is taken.

    --from begins with the weights of a run, a checkpoint or a file of export, which may have other classes, patches
    and objective, and fewer blocks: discli train mine.toml --from runs/theirs --set model.lora.rank=8

    Exit status 75: stopped by SIGTERM, SIGUSR1 or Ctrl-C after writing a checkpoint; run it again.
    """
    from discli.data.find import data_for
    from discli.runs.run import what_to_train

    if verify_resume:
        trial = ("recipe", "data", "overrides", "device", "begin_from", "take", "processes")
        refuse_ignored(context, "--verify-resume", "verify_resume", *trial)
    # Before torch is imported, which takes longer than anyone should wait for a mistake.
    task = what_to_train(recipe, data, out, overrides or [], begin_from, take)
    data = data_for(task.recipe, task.file, task.folder)
    from discli.training.cores import nothing_to_train, processes_for

    count = processes_for(task.recipe, task.folder, device, processes)
    if verify_resume:
        from discli.training.verify_resume import verify_resume as verify

        same = verify(
            recipe,
            data=data,
            overrides=overrides or [],
            device=device,
            begin_from=begin_from,
            take=take,
            processes=count,
        )
        for name, equal in same.items():
            typer.echo(f"{name}: {'bit-identical' if equal else 'DIFFERENT'}")
        if not all(same.values()):
            raise DiscliError(
                "Resuming is not exact for this recipe on this machine.",
                'Look for nondeterministic kernels: try model.scan="reference", train.compile=false.',
                status=1,
            )
        return
    from discli.runtime.launch import beside_others
    from discli.training.interrupts import TrainingStoppedError
    from discli.training.train import train as run

    given = {"--data": data, "--out": out, "--device": device, "--from": begin_from, "--take": take}
    options = [f"{flag}={value}" for flag, value in given.items() if value is not None]
    options += [f"--set={override}" for override in overrides or []] + ["--dry-run"] * dry_run
    if count > 1 and nothing_to_train(task.recipe, task.folder):
        count = 1
    try:
        with beside_others(["train", *options, "--", recipe], count):
            folder = run(
                recipe,
                data=data,
                out=out,
                overrides=overrides or [],
                device=device,
                dry_run=dry_run,
                begin_from=begin_from,
                take=take,
            )
    except TrainingStoppedError as stopped:
        if rank_and_world()[0]:  # rank 0 says it for all
            raise typer.Exit(stopped.status) from None
        raise
    if not dry_run:
        typer.echo(folder)
