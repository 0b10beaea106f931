"""Flags and help of every command. Imports typer and nothing heavy: ``discli --help`` must not wait for torch."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from discli import __version__
from discli.errors import DiscliError

app = typer.Typer(
    name="discli",
    help="Train, sample and score diffusion models with state-space backbones (DiS, arXiv:2402.05608).",
    epilog="Example: discli quickstart",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override any recipe field.")]
Device = Annotated[str | None, typer.Option(help="cuda, cuda:1, cpu. Default: a GPU where there is one.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"discli {__version__}")
        raise typer.Exit


@app.callback()
def _all_commands(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    pass


@app.command(epilog="Example: discli quickstart --out quickstart/")
def quickstart(
    out: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("quickstart"),
) -> None:
    """Everything once, in a few minutes on a CPU: encode digits, train, sample with guidance, score."""
    from discli.quickstart import quickstart as run

    run(out)


@app.command(epilog="Example: discli train cifar10-dis-s-2 --data cifar.h5 --set train.batch_size=64")
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped recipe.")],
    data: Annotated[Path | None, typer.Option(help="A file of discli encode.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder. Default: runs/NAME.")] = None,
    overrides: Set = None,
    verify_resume: Annotated[
        bool, typer.Option("--verify-resume", help="Only test, in miniature, that resuming this recipe is exact.")
    ] = False,
) -> None:
    """Train a model, or go on with a run: the same command resumes it, bit for bit.

    Exit status 75: stopped by SIGTERM, SIGUSR1 or Ctrl-C after writing a checkpoint; run it again.
    """
    if verify_resume:
        from discli.verify_resume import verify_resume as verify

        verify(recipe, data=data, overrides=overrides or [])
        return
    from discli.train import train as run

    typer.echo(run(recipe, data=data, out=out, overrides=overrides or []))


@app.command(epilog="Example: discli sample runs/cifar10-dis-s-2 -n 50000 --cfg-scale 1.5 --out samples/")
def sample(
    run: Annotated[Path | None, typer.Argument(help="A run's or checkpoint's folder. Default: the newest.")] = None,
    n: Annotated[int, typer.Option("-n", "--n", help="Number of images.")] = 64,
    cfg_scale: Annotated[float | None, typer.Option(help="Classifier-free guidance; 1 is none.")] = None,
    steps: Annotated[int | None, typer.Option(help="Sampling steps.")] = None,
    sampler: Annotated[str | None, typer.Option(help="ddpm, ddim; euler for flow models.")] = None,
    eta: Annotated[float | None, typer.Option(help="DDIM's noise: 0 none, 1 as much as DDPM.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Image i depends on (seed, i) alone.")] = 0,
    classes: Annotated[
        str | None, typer.Option(help="Class names or numbers with commas, taken in turn. Default: at random.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the PNG files; the contact sheet is OUT.png.")] = Path(
        "samples"
    ),
    batch_size: Annotated[int, typer.Option(min=1, help="Images written at a time; changes no pixel.")] = 64,
    checkpoint: Annotated[int | None, typer.Option(metavar="STEP", help="Default: the newest.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace other samples in OUT.")] = False,
    device: Device = None,
) -> None:
    """Write n pictures of the averaged (EMA) weights, a contact sheet, and a manifest to repeat them.

    Run again after an interruption, it makes only the pictures that are missing.
    """
    from discli.sample import sample as run_sample

    typer.echo(
        run_sample(
            run,
            n,
            cfg_scale=cfg_scale,
            steps=steps,
            sampler=sampler,
            eta=eta,
            seed=seed,
            classes=[part.strip() for part in classes.split(",")] if classes else (),
            out=out,
            batch_size=batch_size,
            checkpoint_step=checkpoint,
            overwrite=overwrite,
            device=device,
        )
    )


def main() -> None:
    """The ``discli`` command: one line and an exit status for every mistake, no traceback without ``--debug``."""
    debug = "--debug" in sys.argv[1:]
    try:
        status = app(standalone_mode=False)
    except DiscliError as error:
        if debug:
            raise
        _fail(str(error), error.status)
    except (typer.Abort, KeyboardInterrupt):
        _fail("interrupted. Run the same command to go on.", 130)
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error)
            sys.exit(2)
        # Click's usage errors, known by what they offer: newer typers carry a click of their own.
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):
            command = getattr(getattr(error, "ctx", None), "command_path", "discli")
            _fail(f"{str(error.format_message()).rstrip('.')}. See {command} --help.", error.exit_code)
        if debug:
            raise
        _fail(f"internal error: {type(error).__name__}: {error} (run again with --debug for the traceback)", 1)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str, status: int) -> None:
    print(f"discli: {message}", file=sys.stderr)
    sys.exit(status)
