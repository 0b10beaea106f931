"""``discli sample``: images of a trained model."""

from pathlib import Path
from typing import Annotated, Literal, TypeVar

import typer

from discli.cli.app import Device, app
from discli.cli.complete import SAMPLERS, SCALE_SCHEDULES, class_names, sampler_names, scale_schedule_names
from discli.runtime.errors import DiscliError

_IMAGES = 64
Number = TypeVar("Number", int, float)


def _samplers_of(process: str) -> str:
    """As `discli.recipe.kinds.SamplerSpec.fits` has it."""
    return ", ".join(one.name for one in SAMPLERS if process in one.constants.get("fits", ("betas",)))


@app.command(
    epilog="Example: discli sample runs/cifar10-dis-s-2 -n 50000 --cfg-scale 1.5 --out samples/ &&"
    " discli sample runs/quickstart --init digits/3/0000.png --strength 0.6 --classes 8 &&"
    " discli sample runs/mine --size 192x256"
)
def sample(
    run: Annotated[
        Path | None,
        typer.Argument(
            help="A run's or checkpoint's folder, an exported .safetensors, or a model's name. Default: the newest run."
        ),
    ] = None,
    n: Annotated[
        int | None, typer.Option("-n", "--n", min=1, help="Number of images. Default: 64; with --init or --between 16.")
    ] = None,
    cfg_scale: Annotated[float | None, typer.Option(help="Guidance; 1 is none.")] = None,
    steps: Annotated[int | None, typer.Option(help="Sampling steps.")] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            help=f"{_samplers_of('betas')}; flow models: {_samplers_of('flow')}.", autocompletion=sampler_names
        ),
    ] = None,
    eta: Annotated[float | None, typer.Option(help="DDIM's noise: 0 none, 1 as much as DDPM.")] = None,
    timestep_spacing: Annotated[
        Literal["linspace", "leading", "trailing", "ddim"] | None,
        typer.Option(help="Which timesteps: diffusers' three, or OpenAI's ddimN. Not of flow models."),
    ] = None,
    time_shift: Annotated[
        float | None, typer.Option(help="Of flow models: the steps' noise levels times this. Default: as trained.")
    ] = None,
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
    format: Annotated[
        Literal["png", "npz", "zip", "none"] | None,
        typer.Option("--format", help="PNG files (default), one .npz or .zip, or no images at all."),
    ] = None,
    npz: Annotated[bool, typer.Option("--npz", help="Same as --format npz, for ADM's evaluator.")] = False,
    grid: Annotated[
        str | None, typer.Option(metavar="RxC", help="Contact sheet of R rows (classes) and C columns.")
    ] = None,
    show_steps: Annotated[bool, typer.Option("--show-steps", help="Draw the denoising too: OUT.steps.png.")] = False,
    guided_channels: Annotated[
        Literal["all", "first-three"] | None, typer.Option(help="first-three: as the DiS authors' code.")
    ] = None,
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
    contrastive_correction: Annotated[
        bool | None,
        typer.Option(
            "--contrastive-correction/--no-contrastive-correction",
            help="Under guidance, undo what training with diffusion.contrastive adds. Default: do.",
        ),
    ] = None,
    precision: Annotated[
        Literal["auto", "fp32", "bf16"] | None,
        typer.Option(help="auto: bf16 where the device is quicker in it, else fp32."),
    ] = None,
    compile_: Annotated[bool | None, typer.Option("--compile/--no-compile", help="torch.compile; CUDA graphs.")] = None,
    model_batch: Annotated[
        int | None, typer.Option(min=1, help="Images in one call of the model; decides the last bits too.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images written at a time; changes no pixel.")] = 64,
    checkpoint: Annotated[int | None, typer.Option(metavar="STEP", help="Default: the newest.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace other samples in OUT.")] = False,
    init: Annotated[
        Path | None, typer.Option(metavar="IMAGE", help="Edit this image, or each in a folder, instead of noise.")
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(help="Share of the steps taken from the noisy IMAGE. Default: 0.6; with --mask, --invert: 1."),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(metavar="IMAGE", help="Draw anew what is white in this image, and keep the rest of --init."),
    ] = None,
    resample: Annotated[
        int | None,
        typer.Option(min=1, help="With --mask: how often each stretch of steps is walked. Default: 4."),
    ] = None,
    invert: Annotated[
        bool,
        typer.Option("--invert", help="Begin with the noise that DDIM finds for IMAGE, of the first of --classes."),
    ] = False,
    between: Annotated[
        Literal["noises", "classes"] | None,
        typer.Option(help="From image 0's noise to image 1's, or between two --classes: a strip and OUT.gif."),
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="SIDE|HxW", help="Another size in pixels than trained, such as 192x256.")
    ] = None,
    device: Device = None,
) -> None:
    """Write n images, and a contact sheet. The averaged (EMA) weights draw them; a manifest says how to repeat them.

    Run again after an interruption, it makes only the images that are missing. Under torchrun every
    process makes its part.
    """
    if npz and format not in (None, "npz"):
        raise DiscliError(f"--npz and --format {format}: which?", "Give one of them.")
    low_high = None if cfg_interval is None else _parse_pair(cfg_interval, ",", float, "--cfg-interval", "0.3,3")
    rows_columns = None if grid is None else _parse_pair(grid.lower(), "x", int, "--grid", "4x8")
    from discli.recipe.size import parse_size
    from discli.sampling.edit import EditSettings
    from discli.sampling.folder import write_samples
    from discli.sampling.plan import plan_sampling
    from discli.sampling.settings import SampleSettings

    settings = SampleSettings(
        cfg_scale=cfg_scale,
        steps=steps,
        sampler=sampler,
        eta=eta,
        timestep_spacing=timestep_spacing,
        time_shift=time_shift,
        guided_channels=guided_channels,
        cfg_interval=low_high,
        cfg_schedule=cfg_schedule,
        contrastive_correction=contrastive_correction,
        autoguidance=autoguidance,
        precision=precision,
        compile=compile_,
        model_batch=model_batch,
    )
    edit = EditSettings(init=init, mask=mask, strength=strength, resample=resample, invert=invert, between=between)
    plan = plan_sampling(
        run,
        settings,
        classes=classes,
        seed=seed,
        checkpoint_step=checkpoint,
        device=device,
        edit=edit,
        n=n,
        size=None if size is None else parse_size(size, "--size"),
    )
    result = write_samples(
        plan,
        plan.n or n or _IMAGES,
        out or "samples",
        format="npz" if npz else format or "png",
        grid=rows_columns,
        show_steps=show_steps,
        batch_size=batch_size,
        overwrite=overwrite,
        or_beside=out is None,
    )
    typer.echo(result.folder)


def _parse_pair(text: str, between: str, kind: type[Number], flag: str, example: str) -> tuple[Number, Number]:
    """``4x8`` or ``0.3,3``: two numbers, not negative; whole ones not 0 either."""
    try:
        first, second = (kind(part) for part in text.split(between))
    except ValueError:
        first = second = kind(-1)
    if min(first, second) < (1 if kind is int else 0):
        raise DiscliError(f"{flag} {text}: not understood.", f"Example: {flag} {example}")
    return first, second
