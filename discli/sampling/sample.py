"""``from discli import sample``: images of a trained model, to hand or into a folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack, cast, overload

from discli.data.contact_sheet import Images, by_class
from discli.recipe.kinds import TimestepSpacing
from discli.recipe.size import given_size
from discli.runs.manifest import Format
from discli.sampling.edit import EditSettings, ImageInput
from discli.sampling.folder import check_count, write_images, write_samples
from discli.sampling.load import LoadedModel
from discli.sampling.plan import plan_sampling
from discli.sampling.settings import SampleSettings
from discli.sampling.sheet import error_of, sheet_grid, sheet_of
from discli.sampling.writers import Memory

_IMAGES = 16


class SampleOptions(SampleSettings, total=False):
    """The keyword arguments of `sample`, but ``out``."""

    classes: str | Sequence[str | int]
    seed: int
    grid: tuple[int, int] | None
    batch_size: int
    checkpoint_step: int | None
    device: str | None
    format: Format
    show_steps: bool
    overwrite: bool
    init: ImageInput | Sequence[ImageInput] | None
    mask: ImageInput | None
    strength: float | None
    resample: int | None
    invert: bool
    between: Literal["noises", "classes"] | None
    size: int | tuple[int, int] | None


@overload
def sample(
    run: LoadedModel | str | Path | None = ...,
    n: int | None = ...,
    *,
    out: str | Path,
    **options: Unpack[SampleOptions],
) -> Path: ...
@overload
def sample(
    run: LoadedModel | str | Path | None = ...,
    n: int | None = ...,
    *,
    out: None = ...,
    **options: Unpack[SampleOptions],
) -> Images: ...
def sample(
    run: LoadedModel | str | Path | None = None,
    n: int | None = None,
    *,
    out: str | Path | None = None,
    cfg_scale: float | None = None,
    steps: int | None = None,
    sampler: str | Mapping[str, Any] | None = None,
    eta: float | None = None,
    timestep_spacing: TimestepSpacing | None = None,
    time_shift: float | None = None,
    classes: str | Sequence[str | int] = "random",
    seed: int = 0,
    cfg_interval: tuple[float, float] | None = None,
    cfg_schedule: str | Mapping[str, Any] | None = None,
    guided_channels: Literal["all", "first-three"] | None = None,
    contrastive_correction: bool | None = None,
    autoguidance: str | Path | None = None,
    clip_denoised: bool | None = None,
    precision: Literal["auto", "fp32", "bf16"] | None = None,
    compile: bool | None = None,
    model_batch: int | None = None,
    batch_size: int = 64,
    grid: tuple[int, int] | None = None,
    checkpoint_step: int | None = None,
    device: str | None = None,
    format: Format = "png",
    show_steps: bool = False,
    overwrite: bool = False,
    init: ImageInput | Sequence[ImageInput] | None = None,
    mask: ImageInput | None = None,
    strength: float | None = None,
    resample: int | None = None,
    invert: bool = False,
    between: Literal["noises", "classes"] | None = None,
    size: int | tuple[int, int] | None = None,
    **of_sampler: Any,
) -> Images | Path:
    """Draw n images: `Images` to hand, which a notebook shows; with ``out`` into that folder, whose path it returns.

    Image i depends on (seed, i) alone. Settings that are None follow the recipe's ``[sample]``.

    Args:
        run: what `discli.load` returned, or what it takes: a run's or checkpoint's folder, a .safetensors file of
            ``discli export``, a model's name; None takes the newest run under ``runs/``.
        n: number of images; None is 16, of several images in ``init`` one each, and where an image is inverted one
            for each class.
        out: folder for the images and manifest.json; beside it goes the contact sheet ``out``.png. A folder with
            the same manifest is completed.
        cfg_scale: guidance; 1 is none.
        steps: sampling steps.
        sampler: "ddpm", "ddim", "dpm-solver++", ..., or with settings of its own, {"name": "ddim", "eta": 0.5}.
        eta: DDIM's noise: 0 none, 1 as much as DDPM.
        timestep_spacing: which of the schedule's timesteps: "linspace", diffusers' "leading" and "trailing", or
            "ddim", OpenAI's ddimN with N = steps. Flow has none.
        time_shift: for flow, the noise level of each step times this; None as in training.
        classes: "random", "balanced", or names and numbers, taken in turn.
        seed: from 0 to 2^64 - 1.
        cfg_interval: (low, high), the noise levels between which there is guidance.
        cfg_schedule: the scale over the steps, from 1 up: "constant", "linear" or "cosine".
        guided_channels: "first-three" guides as the DiS authors' code does.
        contrastive_correction: False leaves what diffusion.contrastive has added in, under guidance too.
        autoguidance: guide away from this weaker run or checkpoint instead of the unconditional model.
        clip_denoised: clamp the predicted x0 to [-1, 1]; for pixels.
        precision: "auto" is bf16 where the device is quicker in it, else fp32.
        compile: torch.compile; CUDA graphs on a GPU.
        model_batch: images per network call; part of what decides the last bits.
        batch_size: images decoded and written at a time; changes no pixel.
        grid: rows and columns of the contact sheet.
        checkpoint_step: an older checkpoint of the run than the newest.
        device: "cuda", "cuda:1", "cpu"; None takes a GPU where there is one.
        format: with ``out``: PNG files, samples.npz, samples.zip, or "none" for contact sheet and manifest alone.
        show_steps: with ``out``: draw the denoising of the first images too, to ``out``.steps.png.
        overwrite: with ``out``: replace other samples in the folder.
        init: begin from this image, a file, a PIL image or a uint8 array (H, W, 3), or from several, or a folder of
            them. Of another size than the model's they are cropped as the training images were.
        mask: an image of the same size: what is white is drawn, the rest of ``init`` kept as it is.
        strength: the share of the steps that is taken from the noisy ``init``; 1 begins with noise alone. None is
            0.6, and 1 with ``mask`` or ``invert``.
        resample: under a mask, how often each stretch of steps is walked so that both parts fit.
        invert: begin with the noise that DDIM finds for ``init``, an image of the first of ``classes``.
        between: "noises" goes from image 0 to image 1, "classes" from one of the two ``classes`` to the other; with
            ``out``, ``out``.gif shows it.
        size: of the images in pixels, a square's side or (height, width); None is that of the training, of several
            the first, or the one nearest in shape to ``init``.
        of_sampler: a sampler's other settings by name, such as ``noise_scale`` of Euler-Maruyama.

    Raises DiscliError for what the model cannot do, and for a folder that holds anything else.
    """
    if n is not None:
        check_count(n)
    settings = SampleSettings(
        cfg_scale=cfg_scale,
        steps=steps,
        sampler=sampler,
        eta=eta,
        timestep_spacing=timestep_spacing,
        time_shift=time_shift,
        cfg_interval=cfg_interval,
        cfg_schedule=cfg_schedule,
        guided_channels=guided_channels,
        contrastive_correction=contrastive_correction,
        autoguidance=autoguidance,
        clip_denoised=clip_denoised,
        precision=precision,
        compile=compile,
        model_batch=model_batch,
    )
    asked = cast(SampleSettings, {**of_sampler, **settings})
    edit = EditSettings(init=init, mask=mask, strength=strength, resample=resample, invert=invert, between=between)
    plan = plan_sampling(
        run,
        asked,
        classes=classes,
        seed=seed,
        checkpoint_step=checkpoint_step,
        device=device,
        edit=edit,
        n=n,
        size=None if size is None else given_size(size, "--size"),
    )
    n = plan.n or n or _IMAGES
    if out is not None:
        return write_samples(
            plan,
            n,
            out,
            format=format,
            grid=grid,
            show_steps=show_steps,
            batch_size=batch_size,
            overwrite=overwrite,
        ).folder
    labels = plan.classes_of(n)
    kept = Memory()
    write_images(plan, n, kept, plan.groups(n), batch_size)
    grid = sheet_grid(plan, n, grid)
    rows = by_class(range(n), labels, plan.model.contract.class_names, grid)
    error_of(plan, range(n), kept.read)
    return Images(kept.read(range(n)), labels, sheet_of(plan, rows, kept.read, grid))
