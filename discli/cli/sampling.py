"""Flags and help: images out of a trained network, and the network for other programs."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from discli.cli.app import Device, app, refuse_ignored
from discli.cli.complete import SAMPLERS, SCALE_SCHEDULES, class_names, sampler_names, scale_schedule_names
from discli.runtime.errors import DiscliError

Number = TypeVar("Number", int, float)


class Target(StrEnum):
    diffusers = "diffusers"
    safetensors = "safetensors"


class Form(StrEnum):
    png = "png"
    npz = "npz"
    zip = "zip"
    none = "none"


class Channels(StrEnum):
    all = "all"
    first_three = "first-three"


class Precision(StrEnum):
    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


def _samplers_of(process: str) -> str:
    """As `discli.recipe.kinds.SamplerSpec.fits` has it."""
    return ", ".join(one.name for one in SAMPLERS if process in one.constants.get("fits", ("betas",)))


@app.command(epilog="Example: discli sample runs/cifar10-dis-s-2 -n 50000 --cfg-scale 1.5 --out samples/")
def sample(
    run: Annotated[
        Path | None,
        typer.Argument(help="A run's or checkpoint's folder, or an exported .safetensors. Default: the newest run."),
    ] = None,
    n: Annotated[int, typer.Option("-n", "--n", help="Number of images.")] = 64,
    cfg_scale: Annotated[float | None, typer.Option(help="Guidance; 1 is none.")] = None,
    steps: Annotated[int | None, typer.Option(help="Sampling steps.")] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            help=f"{_samplers_of('betas')}; flow models: {_samplers_of('flow')}.", autocompletion=sampler_names
        ),
    ] = None,
    eta: Annotated[float | None, typer.Option(help="DDIM's noise: 0 none, 1 as much as DDPM.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Image i depends on (seed, i) alone.")] = 0,
    classes: Annotated[
        str,
        typer.Option(
            help="random, balanced, or names or numbers with commas, taken in turn.", autocompletion=class_names
        ),
    ] = "random",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the images; the contact sheet is OUT.png. Default: samples, or samples-2 and so on where"
            " there are other samples."
        ),
    ] = None,
    form: Annotated[
        Form | None, typer.Option("--format", help="PNG files (default), one .npz or .zip, or no images at all.")
    ] = None,
    npz: Annotated[bool, typer.Option("--npz", help="Same as --format npz, for ADM's evaluator.")] = False,
    grid: Annotated[
        str | None, typer.Option(metavar="RxC", help="Contact sheet of R rows (classes) and C columns.")
    ] = None,
    show_steps: Annotated[bool, typer.Option("--show-steps", help="Draw the denoising too: OUT.steps.png.")] = False,
    guided_channels: Annotated[Channels | None, typer.Option(help="first-three: as the DiS authors' code.")] = None,
    cfg_interval: Annotated[
        str | None, typer.Option(metavar="LOW,HIGH", help="Guide only between these noise levels, such as 0.3,3.")
    ] = None,
    cfg_schedule: Annotated[
        str | None,
        typer.Option(
            help=f"The scale over the steps: {', '.join(one.name for one in SCALE_SCHEDULES)}.",
            autocompletion=scale_schedule_names,
        ),
    ] = None,
    autoguidance: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Guide away from this weaker run or checkpoint.")
    ] = None,
    precision: Annotated[Precision | None, typer.Option(help="auto: bf16 on GPUs that have it, else fp32.")] = None,
    compile_: Annotated[bool | None, typer.Option("--compile/--no-compile", help="torch.compile; CUDA graphs.")] = None,
    model_batch: Annotated[
        int | None, typer.Option(min=1, help="Images a model call; part of what decides the last bits.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images written at a time; changes no pixel.")] = 64,
    checkpoint: Annotated[int | None, typer.Option(metavar="STEP", help="Default: the newest.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace other samples in OUT.")] = False,
    device: Device = None,
) -> None:
    """Write n images of the averaged (EMA) weights, a contact sheet, and a manifest to repeat them.

    Run again after an interruption, it makes only the images that are missing. Under torchrun every
    process makes its part.
    """
    if npz and form not in (None, Form.npz):
        raise DiscliError(f"--npz and --format {form}: which?", "Give one of them.")
    low_high = None if cfg_interval is None else _parse_pair(cfg_interval, ",", float, "--cfg-interval", "0.3,3")
    rows_columns = None if grid is None else _parse_pair(grid.lower(), "x", int, "--grid", "4x8")
    from discli.sampling.sample import sample as run_sample

    typer.echo(
        run_sample(
            run,
            n,
            out=out or Path("samples"),
            or_beside=out is None,
            classes=classes,
            seed=seed,
            form="npz" if npz else (form or Form.png).value,
            grid=rows_columns,
            show_steps=show_steps,
            batch_size=batch_size,
            checkpoint_step=checkpoint,
            overwrite=overwrite,
            device=device,
            cfg_scale=cfg_scale,
            steps=steps,
            sampler=sampler,
            eta=eta,
            guided_channels=guided_channels and guided_channels.value,
            cfg_interval=low_high,
            cfg_schedule=cfg_schedule,
            autoguidance=autoguidance,
            precision=precision and precision.value,
            compile=compile_,
            model_batch=model_batch,
        )
    )


@app.command(epilog="Example: discli export runs/cifar10-dis-s-2 --to diffusers --out cifar10-dis/")
def export(
    context: typer.Context,
    run: Annotated[
        Path | None, typer.Argument(help="A run's or checkpoint's folder, or a .safetensors. Default: the newest run.")
    ] = None,
    to: Annotated[
        Target | None, typer.Option(help="A folder for diffusers, or one file with the recipe in it.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="What is written. Default: named after the recipe.")] = None,
    scores: Annotated[
        list[Path] | None, typer.Option(metavar="SCORE.json", help="Of eval-fid --json, for the model card.")
    ] = None,
    push_to_hub: Annotated[
        str | None, typer.Option(metavar="USER/NAME", help="Upload the diffusers folder with its model card.")
    ] = None,
    checkpoint: Annotated[int | None, typer.Option(metavar="STEP", help="Default: the newest.")] = None,
    from_authors: Annotated[
        Path | None,
        typer.Option(metavar="CKPT.pt", help="The other way: a checkpoint of the DiS authors' code becomes a run."),
    ] = None,
) -> None:
    """Averaged (EMA) weights for other programs; or, --from-authors, theirs into a run to sample from."""
    if from_authors is not None:
        refuse_ignored(context, "--from-authors", "from_authors", "out")
        from discli.sampling.import_authors import export_from_authors

        typer.echo(export_from_authors(from_authors, out))
        return
    if to is None and push_to_hub is None:
        raise DiscliError("export needs --to or --from-authors.", "Example: discli export runs/mine --to diffusers")
    if to == Target.safetensors and (push_to_hub or scores):
        raise DiscliError("--push-to-hub and --scores go with --to diffusers.", "Leave them out, or --to safetensors.")
    from discli.sampling.export import export_diffusers, export_safetensors
    from discli.sampling.export import push_to_hub as push
    from discli.sampling.load import load

    trained = load(run, device="cpu", step=checkpoint)
    if to == Target.safetensors:
        typer.echo(export_safetensors(trained, out))
        return
    folder = export_diffusers(trained, out, scores or [])
    typer.echo(push(folder, push_to_hub) if push_to_hub else folder)


def _parse_pair(text: str, between: str, kind: type[Number], flag: str, example: str) -> tuple[Number, Number]:
    """``4x8`` or ``0.3,3``: two numbers, not negative; whole ones not 0 either."""
    try:
        first, second = (kind(part) for part in text.split(between))
    except ValueError:
        first = second = kind(-1)
    if min(first, second) < (1 if kind is int else 0):
        raise DiscliError(f"{flag} {text}: not understood.", f"Example: {flag} {example}")
    return first, second
