"""Flags and help of every command. Imports typer and nothing heavy: ``discli --help`` must not wait for torch."""

import errno
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

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

Number = TypeVar("Number", int, float)
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override any recipe field.")]
Device = Annotated[str | None, typer.Option(help="cuda, cuda:1, cpu. Default: a GPU where there is one.")]


class Codec(StrEnum):
    rgb = "rgb"
    vae = "vae"


class Crop(StrEnum):
    adm = "adm"
    resize = "resize"
    celeba = "celeba"


class Small(StrEnum):
    upscale = "upscale"
    skip = "skip"


class Moments(StrEnum):
    float16 = "float16"
    float32 = "float32"


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


class ScaleSchedule(StrEnum):
    constant = "constant"
    linear = "linear"
    cosine = "cosine"


class Precision(StrEnum):
    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class Features(StrEnum):
    inception = "inception"
    random = "random"
    dinov2 = "dinov2"


class Convention(StrEnum):
    torch_fidelity = "torch-fidelity"
    adm = "adm"
    clean_fid = "clean-fid"


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


@app.command(epilog="Example: discli encode imagenet/ --res 256 --out imagenet-256.h5")
def encode(
    source: Annotated[
        Path | None, typer.Argument(help="Pictures: a folder (a sub-folder a class, or flat), zip, tar, tars, parquet.")
    ] = None,
    res: Annotated[int | None, typer.Option("--res", min=1, help="Side of the square crop in pixels.")] = None,
    codec: Annotated[Codec | None, typer.Option(help="Default: rgb up to 64 px, vae above.")] = None,
    vae: Annotated[
        str | None, typer.Option(help="Hub id or folder of an autoencoder. Default: stabilityai/sd-vae-ft-ema.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The HDF5 file. Default: named after the source.")] = None,
    crop: Annotated[Crop, typer.Option(help="adm: ADM's centre crop.")] = Crop.adm,
    labels: Annotated[Path | None, typer.Option(help="csv or json of labels for flat folders.")] = None,
    flip: Annotated[
        bool | None, typer.Option("--flip/--no-flip", help="Store mirrored latents too. Default: for vae.")
    ] = None,
    small: Annotated[Small, typer.Option(help="Pictures smaller than the crop.")] = Small.upscale,
    moments: Annotated[Moments, typer.Option(help="Number format of latents.")] = Moments.float16,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="Write part I (0 to N-1) of N.")] = None,
    merge: Annotated[Path | None, typer.Option(metavar="OUT.h5", help="Join finished parts, and nothing else.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Decoding processes. Default: by the cores.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Pictures at once through the autoencoder.")] = None,
    device: Device = None,
) -> None:
    """Pictures to one data file for training. Interrupted, the same command goes on where it was."""
    from discli.encode import encode as run
    from discli.encode import merge as merge_parts

    if merge is not None:
        typer.echo(merge_parts(merge))
        return
    if source is None or res is None:
        raise DiscliError("encode needs SOURCE and --res.", "Example: discli encode imagenet/ --res 256")
    written = run(
        source,
        res,
        codec=codec.value if codec else None,
        vae=vae,
        out=out,
        crop=crop.value,
        labels=labels,
        flip=flip,
        small=small.value,
        moments=moments.value,
        shard=_parse_shard(shard),
        workers=workers,
        batch_size=batch_size,
        device=device,
    )
    typer.echo(written)


@app.command(epilog="Example: discli info imagenet-256.h5")
def info(
    what: Annotated[str, typer.Argument(help="A file of discli encode.")],
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout instead of a table.")] = False,
    sheet: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="The contact sheet. Default: beside the file.")
    ] = None,
    n: Annotated[int, typer.Option("-n", "--n", min=0, help="Samples on the contact sheet; 0: no sheet.")] = 12,
    vae: Annotated[str | None, typer.Option(help="Where the file's autoencoder lies now.")] = None,
    device: Device = None,
) -> None:
    """Everything that a data file records, and decoded samples beside the pictures they were made from."""
    from discli.info import info as run

    run(what, as_json=as_json, sheet=sheet, count=n, vae=vae, device=device)


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
            help="ddpm, ddim, dpm-solver++, sde-dpm-solver++, unipc, euler, heun; flow models: euler, heun,"
            " euler-maruyama."
        ),
    ] = None,
    eta: Annotated[float | None, typer.Option(help="DDIM's noise: 0 none, 1 as much as DDPM.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Image i depends on (seed, i) alone.")] = 0,
    classes: Annotated[
        str, typer.Option(help="random, balanced, or names or numbers with commas, taken in turn.")
    ] = "random",
    out: Annotated[Path, typer.Option(help="Folder for the pictures; the contact sheet is OUT.png.")] = Path("samples"),
    form: Annotated[
        Form | None, typer.Option("--format", help="PNG files (default), one .npz or .zip, or no pictures at all.")
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
    cfg_schedule: Annotated[ScaleSchedule | None, typer.Option(help="The scale over the steps, from 1 up.")] = None,
    autoguidance: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Guide away from this weaker run or checkpoint.")
    ] = None,
    precision: Annotated[Precision | None, typer.Option(help="auto: bf16 on CUDA, fp32 elsewhere.")] = None,
    compile_: Annotated[bool | None, typer.Option("--compile/--no-compile", help="torch.compile; CUDA graphs.")] = None,
    model_batch: Annotated[
        int | None, typer.Option(min=1, help="Images a model call; part of what decides the last bits.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images written at a time; changes no pixel.")] = 64,
    checkpoint: Annotated[int | None, typer.Option(metavar="STEP", help="Default: the newest.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace other samples in OUT.")] = False,
    device: Device = None,
) -> None:
    """Write n pictures of the averaged (EMA) weights, a contact sheet, and a manifest to repeat them.

    Run again after an interruption, it makes only the pictures that are missing. Under torchrun every
    process makes its part.
    """
    if npz and form not in (None, Form.npz):
        raise DiscliError(f"--npz and --format {form}: which?", "Give one of them.")
    low_high = None if cfg_interval is None else _parse_pair(cfg_interval, ",", float, "--cfg-interval", "0.3,3")
    rows_columns = None if grid is None else _parse_pair(grid.lower(), "x", int, "--grid", "4x8")
    from discli.sample import sample as run_sample

    typer.echo(
        run_sample(
            run,
            n,
            out=out,
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
            cfg_schedule=cfg_schedule and cfg_schedule.value,
            autoguidance=autoguidance,
            precision=precision and precision.value,
            compile=compile_,
            model_batch=model_batch,
        )
    )


@app.command("eval-fid", epilog="Example: discli eval-fid samples/ --ref cifar10.h5 --card score.html")
def eval_fid(
    samples: Annotated[
        Path | None, typer.Argument(help="A folder of discli sample, any folder, zip or tar of pictures, .npz or .h5.")
    ] = None,
    ref: Annotated[
        Path | None, typer.Option(help="FILE.h5, folder, zip or STATS.npz. Default: what the run was trained on.")
    ] = None,
    features: Annotated[Features, typer.Option(help="random needs no download, and is not FID.")] = Features.inception,
    weights: Annotated[
        Path | None, typer.Option(help="Default: DISCLI_INCEPTION_WEIGHTS or a download; DISCLI_DINOV2_WEIGHTS.")
    ] = None,
    convention: Annotated[
        Convention | None,
        typer.Option(help="Whose resizing and quantisation. Default: torch-fidelity; clean-fid for dinov2."),
    ] = None,
    metrics: Annotated[str, typer.Option(help="fid, sfid, is, kid, prc with commas, or all.")] = "fid",
    n: Annotated[int | None, typer.Option("-n", "--n", min=2, help="Score this many. Default: all.")] = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="A score for each class too.")] = False,
    bootstrap: Annotated[int, typer.Option(min=0, help="Resamplings for the interval; 0: none.")] = 50,
    card: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write a score card.")] = None,
    make_ref: Annotated[
        Path | None, typer.Option(metavar="SOURCE", help="Only write a reference's statistics, to --out.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="REF.npz", help="Where --make-ref writes.")] = None,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(metavar="A.json B.json", help="Say why two scores differ.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at once through the network.")] = 64,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Keep reference statistics, by content.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout instead of a table.")] = False,
    device: Device = None,
) -> None:
    """Score samples: FID and its relatives, with everything that makes the number comparable."""
    if compare is not None:
        from discli.report.compare_scores import compare_files

        typer.echo("\n".join(compare_files(*compare)))
        return

    from discli.eval_fid import eval_fid as run
    from discli.eval_fid import make_ref as write_reference

    if make_ref is not None:
        if out is None:
            raise DiscliError("--make-ref needs --out.", "Example: discli eval-fid --make-ref cifar10.h5 --out ref.npz")
        write_reference(
            make_ref,
            out,
            features=features.value,
            weights=weights,
            convention=convention and convention.value,
            batch_size=batch_size,
            device=device,
        )
    elif samples is None:
        raise DiscliError("eval-fid needs SAMPLES.", "Example: discli eval-fid samples/")
    else:
        run(
            samples,
            ref,
            features=features.value,
            weights=weights,
            convention=convention and convention.value,
            metrics=[part.strip() for part in metrics.split(",")],
            n=n,
            per_class=per_class,
            bootstrap=bootstrap,
            card=card,
            batch_size=batch_size,
            cache=cache,
            as_json=as_json,
            device=device,
        )


@app.command(epilog="Example: discli ema runs/mine --std 0.08 && discli sample runs/mine/ema-0.08")
def ema(
    run: Annotated[Path, typer.Argument(help='The folder of a run trained with train.ema = "power".')],
    std: Annotated[float, typer.Option(help="Width of the average, relative to the steps trained: 0 to 0.288.")],
    step: Annotated[int | None, typer.Option(help="At which snapshot. Default: the last.")] = None,
    out: Annotated[Path | None, typer.Option(help="Default: RUN/ema-STD.")] = None,
) -> None:
    """An average of any length after training, from a run's snapshots (EDM2's post-hoc EMA)."""
    from discli.posthoc import posthoc_ema

    typer.echo(posthoc_ema(run, std, step, out))


@app.command(epilog="Example: discli export runs/cifar10-dis-s-2 --to diffusers --out cifar10-dis/")
def export(
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
        from discli.export import export_from_authors

        typer.echo(export_from_authors(from_authors, out))
        return
    if to is None and push_to_hub is None:
        raise DiscliError("export needs --to or --from-authors.", "Example: discli export runs/mine --to diffusers")
    if to == Target.safetensors and (push_to_hub or scores):
        raise DiscliError("--push-to-hub and --scores go with --to diffusers.", "Leave them out, or --to safetensors.")
    from discli.export_run import export_diffusers, export_safetensors
    from discli.export_run import push_to_hub as push
    from discli.trained import load

    trained = load(run, device="cpu", step=checkpoint)
    if to == Target.safetensors:
        typer.echo(export_safetensors(trained, out))
        return
    folder = export_diffusers(trained, out, scores or [])
    typer.echo(push(folder, push_to_hub) if push_to_hub else folder)


def _parse_shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise DiscliError(f"--shard {text}: not a part.", "Give I/N with I from 0 to N-1, such as 0/8.")
    return int(index), int(count)


def _parse_pair(text: str, between: str, kind: type[Number], flag: str, example: str) -> tuple[Number, Number]:
    """``4x8`` or ``0.3,3``: two numbers, not negative; whole ones not 0 either."""
    try:
        first, second = (kind(part) for part in text.split(between))
    except ValueError:
        first = second = kind(-1)
    if min(first, second) < (1 if kind is int else 0):
        raise DiscliError(f"{flag} {text}: not understood.", f"Example: {flag} {example}")
    return first, second


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
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            _fail(f"{error}. What was finished is kept. Free some space and run the same command again.", 1)
        _fail(f"internal error: {type(error).__name__}: {error} (run again with --debug for the traceback)", 1)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str, status: int) -> None:
    print(f"discli: {message}", file=sys.stderr)
    sys.exit(status)
